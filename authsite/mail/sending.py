"""Speaking SMTP: one message over a verified connection, and what a server's refusal means."""

import contextlib
import re
import smtplib
import ssl
from typing import NamedTuple

from flask import current_app
from flask_mail import Connection, Message

from .. import events
from ..crypto import certificates
from . import emails, quotas

TIMEOUT_SECONDS = 10
MAX_ANSWER = 300


class Answer(NamedTuple):
    """A server's refusal: its three digits, and its words, which may quote the address."""

    status: int
    text: str


def send(message: Message) -> None:
    """Give a message to the mail server, or show it in the log where none is set.

    Raise an SMTPException if the server refuses it, an OSError if there is none to speak with.
    """
    if not current_app.config["MAIL_SERVER"]:
        to = ", ".join(map(str, message.recipients))
        events.show(f"--- Mail to {to}: {message.subject}\n\n{message.body}\n---")
        return
    with VerifyingConnection(current_app.extensions["mail"]) as connection:
        connection.send(message)


def answer_in(error: Exception) -> Answer | None:
    """Return what the server has answered; None where it is not the server that has failed us."""
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        [(status, said)] = error.recipients.values()
    elif isinstance(error, smtplib.SMTPResponseException):
        status, said = error.smtp_code, error.smtp_error  # type: ignore[assignment]
    else:
        return None
    words = said.decode(errors="replace") if isinstance(said, bytes) else str(said)
    shown = "".join(each if each.isprintable() else " " for each in words)
    return Answer(status, " ".join(shown.split())[:MAX_ANSWER])


def explain(error: Exception) -> str:
    """Return what went wrong in a sentence for an operator, without the server's words."""
    if isinstance(error, OSError):
        return f"The mail server {server_name()} {_failing(error)}."
    if isinstance(error, quotas.UsedUp):
        return "A mail was not sent: there have been enough to its reader today."
    return f"A mail could not be written ({type(error).__name__})."


def _failing(error: OSError) -> str:
    if answer := answer_in(error):
        what = next((words for kind, words in _REFUSED.items() if isinstance(error, kind)), "fails")
        return f"{what} ({answer.status})"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"has a certificate that is not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return "does not speak TLS as MAIL_USE_TLS and MAIL_USE_SSL ask for it"
    if isinstance(error, smtplib.SMTPException):  # what smtplib says of itself
        return f"cannot be spoken with: {str(error).rstrip('.')}"
    return f"cannot be reached: {error.strerror or error}"


def taken(what: str) -> str:
    """Return in a sentence what has become of a mail that was sent."""
    if not current_app.config["MAIL_SERVER"]:
        return "No MAIL_SERVER is set: the mail stands in the log and went nowhere."
    return f"The mail server {server_name()} has taken {what}."


def server_name() -> str:
    return f"{current_app.config['MAIL_SERVER']}:{current_app.config['MAIL_PORT']}"


def is_final(error: Exception) -> bool:
    """Return whether the server will never take a mail for this recipient (5xx, RFC 5321 section 4.2.1).

    A 5xx that is about us is not: we are to sign in (53x), we spoke out of turn (50x), or may not send to
    anybody (5.7.x, RFC 3463, "relay access denied"). That the operator can mend while the mail waits.
    Of the message as a whole the server may refuse anything; only 5.1.x and 5.2.x are the recipient's then.
    """
    answer = answer_in(error)
    if answer is None or answer.status // 100 != 5:
        return False
    found = _ENHANCED.match(answer.text)
    subject = found and found[1]
    if isinstance(error, smtplib.SMTPDataError):
        return subject in ("1", "2")
    is_about_us = answer.status // 10 in (50, 53) or subject == "7"
    return isinstance(error, smtplib.SMTPRecipientsRefused) and not is_about_us


def is_away(error: Exception) -> bool:
    """Return whether it is the server that takes no mail at all, and not this mail that it does not take."""
    is_of_this_mail = (
        smtplib.SMTPSenderRefused,
        smtplib.SMTPRecipientsRefused,
        smtplib.SMTPDataError,
    )
    return isinstance(error, OSError) and not isinstance(error, is_of_this_mail)


class VerifyingConnection(Connection):
    """Flask-Mail's connection, with a timeout and with the server's certificate verified."""

    def configure_host(self) -> smtplib.SMTP:
        host = current_app.config["MAIL_SERVER"]
        port = current_app.config["MAIL_PORT"]
        # By itself it would look for this machine's name, and the mail would carry it as `Received: from`.
        name = emails.sender_domain()
        if current_app.config["MAIL_USE_SSL"]:
            context = certificates.verifying_context("smtp")
            server: smtplib.SMTP = smtplib.SMTP_SSL(
                host, port, name, timeout=TIMEOUT_SECONDS, context=context
            )
        else:
            server = smtplib.SMTP(host, port, name, timeout=TIMEOUT_SECONDS)
        try:
            self._introduce(server)
        except BaseException:
            server.close()
            raise
        return server

    def _introduce(self, server: smtplib.SMTP) -> None:
        if current_app.config["MAIL_USE_TLS"] and not current_app.config["MAIL_USE_SSL"]:
            server.starttls(context=certificates.verifying_context("smtp"))
        if user := current_app.config["MAIL_USERNAME"]:
            server.login(user, current_app.config["MAIL_PASSWORD"] or "")

    def __exit__(self, *exception: object) -> None:
        if self.host is None:
            return
        # Once the server has taken the mail, what becomes of the goodbye must not have it sent again.
        with contextlib.suppress(OSError, smtplib.SMTPException), contextlib.closing(self.host):
            self.host.quit()


_REFUSED = {
    smtplib.SMTPAuthenticationError: "does not take MAIL_USERNAME and MAIL_PASSWORD",
    smtplib.SMTPSenderRefused: "does not take mail from MAIL_DEFAULT_SENDER",
    smtplib.SMTPRecipientsRefused: "does not take mail for the recipient",
    smtplib.SMTPDataError: "does not take the mail",
    smtplib.SMTPConnectError: "lets nobody in",
    smtplib.SMTPHeloError: "does not take our greeting",
}
# The server's own number for what is wrong (RFC 2034), of which the second is the subject.
_ENHANCED = re.compile(r"5\.([0-9])\.[0-9]")
