"""The mails that we send: one function per message, and their words in templates/emails.

A message is queued as a name and facts. It is written out when it is sent, so the queue holds neither a
working link nor an address.
"""

import re
import uuid
from collections.abc import Mapping
from datetime import datetime, timedelta
from email.utils import make_msgid, parseaddr
from typing import Any, NamedTuple

from flask import current_app, render_template
from flask_mail import Message

from .. import clock, spelling
from ..crypto import tokens

MAX_SUBJECT = 60
LINK_LIFETIME = timedelta(hours=24)
NOT_ME_LIFETIME = timedelta(days=7)
# Neither digits nor what makes an address of words.
_NOT_A_LABEL = re.compile(r"[^\w]|[\d_]")


class Mail(NamedTuple):
    user_id: uuid.UUID | None
    name: str
    facts: dict[str, Any]
    recipient: str | None = None  # of an account that is gone


def password_reset(
    user_id: uuid.UUID,
    *,
    reset_id: str,
    requested_at: datetime,
    expires_at: datetime,
    device_name: str | None,
    ip_address: str | None,
    after: str | None = None,
) -> Mail:
    """Return the mail with the link; it names the request, and the link is signed when it is sent.

    `after` is the report "this wasn't me" that makes it necessary, of `one` device or of `everything`, or the
    `undo` of a change of address; `operator` where one sends it, None where somebody has asked for it.
    """
    return Mail(
        user_id,
        "password_reset",
        {
            "reset_id": reset_id,
            "requested_at": requested_at.isoformat(),
            "expires_at": expires_at.isoformat(),
            "device_name": device_name,
            "ip_address": ip_address,
            "after": after,
        },
    )


def password_changed(
    user_id: uuid.UUID,
    *,
    changed_at: datetime,
    device_name: str | None,
    ip_address: str | None,
    signed_out: int,
    has_kept_own: bool,
) -> Mail:
    """Return the notice after a change or a reset, and of how many devices were signed out by it.

    Without a device an operator did it.
    """
    return Mail(
        user_id,
        "password_changed",
        {
            "changed_at": changed_at.isoformat(),
            "device_name": device_name,
            "ip_address": ip_address,
            "signed_out": signed_out,
            "has_kept_own": has_kept_own,
        },
    )


def new_device(user_id: uuid.UUID, session: Mapping[str, Any]) -> Mail:
    """Return the notice of a sign-in from a device that was not seen before."""
    place = ", ".join(
        each for each in (session["location_city"], session["location_country"]) if each
    )
    return Mail(
        user_id,
        "new_device",
        {
            "device_name": session["device_name"],
            "ip_address": session["ip_address"],
            "place": place or None,
            "signed_in_at": session["created_at"].isoformat(),
            "session_id": str(session["id"]),
        },
    )


def token_reuse(
    user_id: uuid.UUID, device_name: str, ended_at: datetime, *, session_id: uuid.UUID
) -> Mail:
    """Return the notice that a copied refresh token ended a session."""
    return Mail(
        user_id,
        "token_reuse",
        {
            "device_name": device_name,
            "ended_at": ended_at.isoformat(),
            "session_id": str(session_id),
        },
    )


def signed_out(
    user_id: uuid.UUID,
    *,
    count: int,
    has_kept_own: bool,
    session_id: uuid.UUID,
    device_name: str,
    ip_address: str | None,
    ended_at: datetime,
) -> Mail:
    """Return the notice that one device signed out `count` others, and itself unless it kept its own."""
    return Mail(
        user_id,
        "signed_out",
        {
            "count": count,
            "has_kept_own": has_kept_own,
            "session_id": str(session_id),
            "device_name": device_name,
            "ip_address": ip_address,
            "ended_at": ended_at.isoformat(),
        },
    )


def data_exported(
    user_id: uuid.UUID,
    *,
    exported_at: datetime,
    session_id: uuid.UUID | None,
    device_name: str | None,
    ip_address: str | None,
) -> Mail:
    """Return the notice that somebody has taken a copy of all data; without a device an operator did."""
    return Mail(
        user_id,
        "data_exported",
        {
            "exported_at": exported_at.isoformat(),
            "session_id": session_id and str(session_id),
            "device_name": device_name,
            "ip_address": ip_address,
        },
    )


def second_step_changed(
    user_id: uuid.UUID,
    *,
    what: str,
    changed_at: datetime,
    session_id: uuid.UUID | None,
    device_name: str | None,
    ip_address: str | None,
) -> Mail:
    """Return the notice of `what` has happened to two-step sign-in, as second_steps.notices names it.

    Without a device an operator did it.
    """
    facts = {"what": what, "changed_at": changed_at.isoformat()}
    by = {"device_name": device_name, "ip_address": ip_address}
    return Mail(
        user_id,
        "second_step_changed",
        facts | {"session_id": session_id and str(session_id)} | by,
    )


def passkey_changed(
    user_id: uuid.UUID,
    *,
    what: str,
    name: str,
    changed_at: datetime,
    session_id: uuid.UUID | None,
    device_name: str | None,
    ip_address: str | None,
) -> Mail:
    """Return the notice that a passkey was `added` or `removed`; without a device an operator did it."""
    facts = {"what": what, "passkey": device_label(name), "changed_at": changed_at.isoformat()}
    by = {"device_name": device_name, "ip_address": ip_address}
    return Mail(
        user_id, "passkey_changed", facts | {"session_id": session_id and str(session_id)} | by
    )


def recovery_code_used(
    user_id: uuid.UUID,
    *,
    left: int,
    used_at: datetime,
    session_id: uuid.UUID,
    device_name: str | None,
    ip_address: str | None,
) -> Mail:
    """Return the notice that a session was signed in, or confirmed, with a recovery code."""
    facts = {"left": left, "used_at": used_at.isoformat(), "session_id": str(session_id)}
    return Mail(
        user_id,
        "recovery_code_used",
        facts | {"device_name": device_name, "ip_address": ip_address},
    )


def password_known(
    user_id: uuid.UUID, *, tried_at: datetime, device_name: str | None, ip_address: str | None
) -> Mail:
    """Return the warning that somebody had the right password and only wrong codes."""
    by = {"device_name": device_name, "ip_address": ip_address}
    return Mail(user_id, "password_known", {"tried_at": tried_at.isoformat()} | by)


def key_not_proven(
    user_id: uuid.UUID,
    *,
    bound_name: str,
    used_at: datetime,
    device_name: str | None,
    ip_address: str | None,
) -> Mail:
    """Return the warning that a sign-in bound to a computer was used where that could not be proved.

    `bound_name` is the device that it belongs to, `device_name` the one that used it.
    """
    facts = {"bound_name": device_label(bound_name), "used_at": used_at.isoformat()}
    by = {"device_name": device_name, "ip_address": ip_address}
    return Mail(user_id, "key_not_proven", facts | by)


def verify_email(user_id: uuid.UUID, *, requested_at: datetime) -> Mail:
    """Return the mail that asks the owner of an account to confirm its address."""
    return Mail(user_id, "verify_email", {"requested_at": requested_at.isoformat()})


def registration(
    registration_id: str, *, requested_at: datetime, device_name: str, ip_address: str | None
) -> Mail:
    """Return the mail with the link that makes a claim an account.

    If the address has an account when it is sent, it leaves as `already_registered` instead.
    """
    return Mail(
        None,
        "registration",
        {
            "registration_id": registration_id,
            "requested_at": requested_at.isoformat(),
            "expires_at": (requested_at + LINK_LIFETIME).isoformat(),
            "device_name": device_name,
            "ip_address": ip_address,
        },
    )


def change_email(
    user_id: uuid.UUID,
    *,
    change_id: str,
    requested_at: datetime,
    device_name: str,
    ip_address: str | None,
) -> Mail:
    """Return the mail to the new address with the link that makes it the account's.

    It tells nothing of the account: who typed the address may have meant another one. If that belongs to
    somebody when it is sent, it leaves as `already_registered` instead.
    """
    facts = {"change_id": change_id, "requested_at": requested_at.isoformat()}
    until = {"expires_at": (requested_at + LINK_LIFETIME).isoformat()}
    by = {"device_name": device_name, "ip_address": ip_address}
    return Mail(user_id, "change_email", facts | until | by)


def email_changed(
    user_id: uuid.UUID,
    *,
    change_id: str,
    new_email: str,
    changed_at: datetime,
    undo_until: datetime | None,
    device_name: str | None,
    ip_address: str | None,
) -> Mail:
    """Return the notice to the address that was given up, with the link that undoes it if one does.

    Without a device an operator did it.
    """
    facts = {
        "change_id": change_id,
        "new_email": spelling.masked_email(new_email),
        "changed_at": changed_at.isoformat(),
        "device_name": device_name,
        "ip_address": ip_address,
    }
    until = {"undo_until_at": undo_until.isoformat()} if undo_until else {}
    return Mail(user_id, "email_changed", facts | until)


def email_is_now(user_id: uuid.UUID, *, changed_at: datetime) -> Mail:
    """Return the notice to the new address of a change that an operator made."""
    return Mail(user_id, "email_changed", {"changed_at": changed_at.isoformat()})


def deletion_scheduled(
    user_id: uuid.UUID,
    *,
    requested_at: datetime,
    delete_after: datetime,
    device_name: str | None,
    ip_address: str | None,
) -> Mail:
    """Return the notice that an account will be deleted, with the link that keeps it until then.

    Without a device an operator asked for it.
    """
    at = {"requested_at": requested_at.isoformat(), "delete_after_at": delete_after.isoformat()}
    by = {"device_name": device_name, "ip_address": ip_address}
    return Mail(user_id, "deletion_scheduled", at | by)


def deletion_reminder(user_id: uuid.UUID, *, asked_at: datetime, delete_after: datetime) -> Mail:
    """Return the link that keeps an account once more, for who has tried to sign in to it."""
    mail = deletion_scheduled(
        user_id, requested_at=asked_at, delete_after=delete_after, device_name=None, ip_address=None
    )
    return mail._replace(facts=mail.facts | {"is_again": True})


def account_deleted(email: str, *, deleted_at: datetime) -> Mail:
    """Return the last mail, to the address of an account that is gone."""
    return Mail(None, "account_deleted", {"deleted_at": deleted_at.isoformat()}, email)


def to_old_address(mail: Mail, *, change_id: str, undo_until: datetime) -> Mail:
    """Return the mail as it goes to the address that a change gave up, with the link that undoes it."""
    return mail._replace(
        facts=mail.facts | {"change_id": change_id, "undo_until_at": undo_until.isoformat()}
    )


def test() -> Mail:
    """Return the mail that shows an operator whether mail arrives."""
    return Mail(None, "test", {"sent_at": clock.now().isoformat()})


def compose(mail: Mail, *, email: str, first_name: str | None) -> Message:
    """Return the message as it leaves; its links are made from PUBLIC_BASE_URL and nothing else.

    Without a `first_name` it calls nobody by one.
    """
    base_url: str = current_app.config["PUBLIC_BASE_URL"]
    context: dict[str, Any] = {
        key: datetime.fromisoformat(value) if key.endswith("_at") else value
        for key, value in mail.facts.items()
    } | {
        "site_name": current_app.config["SITE_NAME"],
        "first_name": first_name,
        "email": spelling.readable_email(email),
        "base_url": base_url,
        "devices_url": f"{base_url}/account/devices",
        "reset_url": f"{base_url}/forgot-password",
        "login_url": f"{base_url}/login",
    }
    for name in ("product_name", "product_url", "support_email", "support_url"):
        context[name] = current_app.config[name.upper()]
    context["contact"] = context["support_email"] or read_sender()
    if context.get("device_name"):
        context["device_name"] = device_label(context["device_name"])
    if reset_id := context.pop("reset_id", None):
        assert mail.user_id is not None
        page = current_app.config["RESET_PASSWORD_URL"] or f"{base_url}/reset-password"
        context["link"] = f"{page}?token={tokens.reset_link(mail.user_id, reset_id)}"
    if change_id := context.pop("change_id", None):
        assert mail.user_id is not None
        context |= _links_of_change(mail, f"{mail.user_id.hex}.{change_id}", base_url)
    elif reported := _reported(mail):
        context["not_me_url"] = f"{base_url}/not-me?token={tokens.sign('not_me', reported)}"
    if registration_id := context.pop("registration_id", None):
        link = tokens.sign("registration", registration_id)
        context["link"] = f"{base_url}/register/confirm?token={link}"
    if mail.name == "deletion_scheduled" and "undo_url" not in context:
        link = tokens.sign("keep_account", f"{mail.user_id}:{mail.facts['delete_after_at']}")
        context["keep_url"] = f"{base_url}/keep-account?token={link}"
    if mail.name == "verify_email":
        link = tokens.sign("verify_email", f"{mail.user_id}:{email}")
        context["link"] = f"{base_url}/verify-email?token={link}"
        context["expires_at"] = clock.now() + LINK_LIFETIME
    folder = f"emails/{mail.name}"
    # A subject is one line whatever a device calls itself.
    subject = " ".join(render_template(f"{folder}/subject.txt", **context).split())
    return message(
        email,
        _shorten(subject),
        body=render_template(f"{folder}/body.txt", **context),
        html=render_template(f"{folder}/body.html", **context),
    )


def message(to: str, subject: str, *, body: str, html: str | None = None) -> Message:
    """Return a message with the headers of all that we send."""
    written = Message(
        subject=subject,
        recipients=[to],
        body=body,
        html=html,
        sender=current_app.config["MAIL_DEFAULT_SENDER"],
        reply_to=current_app.config["SUPPORT_EMAIL"],
        extra_headers={"Auto-Submitted": "auto-generated", "X-Auto-Response-Suppress": "All"},
    )
    # By itself it would end in this machine's name, which is nobody's business and looks like spam.
    written.msgId = make_msgid(domain=sender_domain())
    return written


def sender_domain() -> str:
    """Return the domain in whose name we send, as mail and DNS spell it."""
    return spelling.canonical_email(_sender()).rpartition("@")[2]


def read_sender() -> str | None:
    """Return from which address mails come, or None where it says itself that nobody reads it."""
    address = _sender()
    name = address.partition("@")[0].lower().translate(str.maketrans("", "", "-_."))
    return None if name in {"noreply", "donotreply"} else address


def _sender() -> str:
    return parseaddr(current_app.config["MAIL_DEFAULT_SENDER"])[1]


def device_label(name: str) -> str:
    """Return a device's name as a mail may show it: whoever signs in has chosen the words.

    Letters only, and few of them: no number to call, no address, no sentence (SECURITY AP-22).
    """
    parts = [_NOT_A_LABEL.sub(" ", part).split()[:2] for part in name.split(" on ")[:2]]
    label = " on ".join(" ".join(part) for part in parts if part)
    return label[:40].strip() or "Unknown device"


def _reported(mail: Mail) -> str | None:
    """Return what the link "this wasn't me" of a mail names, None where it has none.

    A mail that was queued before there were such links may lack the session.
    """
    if mail.name == "password_changed":
        return f"password:{mail.user_id}:{mail.facts['changed_at']}"
    kind = "reuse" if mail.name == "token_reuse" else "session"
    session_id = mail.facts.get("session_id")
    return f"{kind}:{mail.user_id}:{session_id}" if session_id else None


def _links_of_change(mail: Mail, named: str, base_url: str) -> dict[str, Any]:
    """Return what a mail about a change of address may offer: to confirm it, or to undo it."""
    if mail.name == "change_email":
        return {"link": f"{base_url}/confirm-email?token={tokens.sign('change_email', named)}"}
    if "undo_until_at" in mail.facts:
        return {"undo_url": f"{base_url}/undo-email?token={tokens.sign('undo_email', named)}"}
    return {"is_change": True}


def _shorten(subject: str) -> str:
    return subject if len(subject) <= MAX_SUBJECT else subject[: MAX_SUBJECT - 1].rstrip() + "…"
