"""What pages answer with: a page or a form, a redirect with a word on what happened."""

import re
from typing import Any
from urllib.parse import parse_qs, urlencode, urljoin, urlsplit

from flask import (
    current_app,
    flash,
    g,
    get_flashed_messages,
    redirect,
    render_template,
    request,
    session,
)
from flask.typing import ResponseReturnValue
from markupsafe import Markup
from werkzeug.wrappers import Response

from .. import sessions
from ..errors import SessionRevoked
from ..web import authentication, headers
from ..web.forms import Form

HOME = "/account/devices"
LOGIN = authentication.LOGIN
REGISTER = "/register"
FORGOT = "/forgot-password"
HANDOFF = "/handoff"
# What mailed links are called in the cookie.
LINKS = (
    *("reset", "verify_email", "confirm_registration", "not_me"),
    *("change_email", "undo_email", "keep_account"),
)
MAX_LINK_TOKEN = 512  # the longest of ours have 450; a cookie holds 4096
MAX_KEPT = 512
WRONG_PASSWORD = "Your password is wrong"  # noqa: S105
EXPIRED = "Your form expired. Try again."
NO_COOKIE = "Your browser keeps no cookie for this site. Allow cookies and try again."
ACCOUNT_CREATED = "Account created. You are signed in on this device."
ALREADY_IN = "You are already signed in."
# One slash and then neither a second nor a backslash, which browsers take for one; no control characters,
# which they drop before they look.
_OWN_PATH = re.compile(r"/(?![/\\])[^\\\x00-\x20\x7f]*")

# The id of the field at fault, if any, and the sentence.
Errors = list[tuple[str | None, str | Markup]]


def page(template: str, *, form: Form | None = None, **context: Any) -> tuple[str, int]:
    """Return a page; with what is wrong with its form 422, or 400 where the CSRF token was.

    It shows the word that the last redirect left, unless that would stand beside errors as if it were
    about them.
    """
    words: Any = get_flashed_messages(with_categories=True)
    errors = _errors(form)
    kind, flash = words[-1] if words and not errors else (None, None)
    is_notice = kind == authentication.NOTICE
    text = render_template(
        template, form=form, errors=errors, flash=flash, is_notice=is_notice, **context
    )
    if "not_taken_because" in g:
        return text, 400
    return text, 422 if errors else 200


def done(word: str | Markup, location: str = HOME) -> Response:
    """Return the redirect after a POST; the page that follows says the word."""
    flash(word)
    return redirect(location, 303)


def told(word: str | Markup, location: str = HOME) -> Response:
    """Return what `done` does where nothing was done: the word has not the look of a success."""
    flash(word, authentication.NOTICE)
    return redirect(location, 303)


def not_taken(leads_to: str = LOGIN) -> ResponseReturnValue:
    """Return what to say of a form, not to be shown again, whose CSRF token was missing, foreign or old.

    `leads_to` is where the page of the form leads now. Who has signed in meanwhile goes there at once.
    """
    if not request.cookies:
        return render_template("errors/no_cookie.html"), 400
    if "session" not in g:
        return render_template("errors/signed_out.html", login=leads_to), 400
    if request.path in {LOGIN, REGISTER}:
        return told(ALREADY_IN, leads_to)
    return render_template("errors/expired.html"), 400


def signed_out() -> Response:
    """End the session behind this request, if any, and return the redirect to the login page."""
    if "session" in g:
        caller = authentication.current_session()
        sessions.end(caller.account.id, caller.id, reason="logged_out")
    # The cookie changes, and so no page of the account comes back by the Back button. Clear-Site-Data would
    # do no more, and costs Chromium a second where its cache is large.
    authentication.forget()
    return done(authentication.SIGNED_OUT, LOGIN)


def signed_out_elsewhere(_: SessionRevoked) -> Response:
    """Return the redirect of whose session has ended while it asked for something that is not done then."""
    authentication.forget()
    return told(authentication.SIGNED_OUT_ELSEWHERE, LOGIN)


def others_signed_out(count: int) -> str:
    """Return how many other devices were signed out, one or more, in words."""
    return f"Signed out {count} other device{'' if count == 1 else 's'}."


def next_location() -> str:
    """Return where a sign-in leads: the path of ours or of a listed product that `next` names, else home.

    Without a `next` it leads back to the product, if there is one.
    """
    return _checked(request.args.get("next"))


def keep_next() -> None:
    """Keep in the cookie where this leads on to, for when the mail that is now sent has come.

    The mail does not name it: whoever asks for one could choose where its reader ends. In another browser
    than the one that asked it leads home.
    """
    session.pop("leads_on", None)
    if "next" in request.args:
        target = _without_challenge(next_location())
        if len(target) <= MAX_KEPT:
            session["leads_on"] = target


def kept_next(*, is_used: bool = True) -> str | None:
    """Return what this browser has kept, None if nothing, and forget it; before the cookie is emptied.

    What it leads to is looked at again: what was listed then may not be now. Not `is_used`: it is kept on.
    """
    target = session.get("leads_on")
    if is_used:
        session.pop("leads_on", None)
    return None if target is None else _checked(target)


def _without_challenge(target: str) -> str:
    """Return the product's own page for a hand-off to it, whose cookie lasts minutes and a mail longer."""
    parts = urlsplit(target)
    if parts.path != HANDOFF:
        return target
    named = parse_qs(parts.query)
    path = named.get("next", ["/"])[0]
    return named.get("origin", [""])[0] + (path if _OWN_PATH.fullmatch(path) else "/")


def _checked(target: str | None) -> str:
    if target is None:
        return current_app.config["PRODUCT_URL"] or HOME
    parts = urlsplit(target) if target.isascii() and target.isprintable() else None
    if parts and f"{parts.scheme}://{parts.netloc}" in current_app.config["FORWARD_AUTH_ORIGINS"]:
        return target
    if not _OWN_PATH.fullmatch(target):
        return HOME
    origin = headers.own_origin()
    resolved = urlsplit(urljoin(origin, target))
    return target if f"{resolved.scheme}://{resolved.netloc}" == origin else HOME


def signed_in(word: str, kept: str | None = None) -> Response:
    """Return the redirect of who is signed in by more than a sign-in: on to what it was for, or home.

    Home it says the word, elsewhere that would be read days later. `kept` is where a mail led on to.
    """
    location = kept or next_location()
    return done(word) if location == HOME else redirect(location, 303)


def leading_on(path: str, *, how: str | None = None, kept: str | None = None) -> str:
    """Return a path of the sign-in, which leads on to where this one does, or to what was `kept`."""
    query = {"with": how} if how else {}
    if "next" in request.args or kept:
        query["next"] = kept or next_location()
    return f"{path}?{urlencode(query, safe='/')}" if query else path


def own_origin_if_elsewhere() -> str | None:
    """Return our origin if this page is shown under another name; a browser binds passkeys to the name."""
    own = headers.own_origin()
    return own if urlsplit(own).netloc != request.host else None


def keep_link(name: str) -> None:
    """Keep the token of the link that was opened in the cookie, under this name, and that of one before.

    A page that plants links could else fill the cookie, and with it every answer's head.
    """
    held = [each for each in session if each in LINKS and each != name]
    for each in (name, *held[:-1]):
        session.pop(each, None)
    session[name] = request.args["token"][:MAX_LINK_TOKEN]


def unusable_link(name: str, template: str) -> ResponseReturnValue:
    """Return the page for a mailed link, kept in the cookie by this name, that does not work; forget it."""
    if not request.cookies:
        # The link left its token in a cookie; whether it is good nobody can say.
        text, _ = page("errors/no_cookie_for_link.html")
        return text, 400
    session.pop(name, None)
    # Kept on: it may have been an older link than the newest.
    kept = kept_next(is_used=False)
    text, _ = page(
        template,
        login=leading_on(LOGIN, kept=kept),
        register=leading_on(REGISTER, kept=kept),
        forgot=leading_on(FORGOT, kept=kept),
    )
    return text, 410


def _errors(form: Form | None) -> Errors:
    if "not_taken_because" in g:
        return [(None, g.not_taken_because)]
    found = form.errors if form else {}
    return [(name, messages[0]) for name, messages in found.items()]
