"""The server-rendered pages: a cookie, a CSRF token on every POST, no JavaScript needed."""

from http import HTTPStatus

from flask import Blueprint, current_app, g, make_response, redirect, request
from flask.typing import ResponseReturnValue
from flask_wtf.csrf import CSRFError
from werkzeug.exceptions import HTTPException, NotFound

from .. import events
from ..errors import MalformedRequest, SecondStepRequired, SessionRevoked
from ..extensions import csrf
from ..web import authentication, headers
from . import (
    accounts,
    activity,
    addresses,
    answers,
    bindings,
    confirmations,
    deletions,
    email_changes,
    exports,
    not_me,
    passkeys,
    passwords,
    registrations,
    second_steps,
    sessions,
    site,
)

blueprint = Blueprint("pages", __name__)
blueprint.register_blueprint(site.blueprint)
blueprint.register_blueprint(bindings.blueprint)

for _child in (
    accounts.blueprint,
    confirmations.blueprint,
    activity.blueprint,
    addresses.blueprint,
    email_changes.blueprint,
    not_me.blueprint,
    registrations.blueprint,
    passwords.blueprint,
    second_steps.blueprint,
    passkeys.blueprint,
    exports.blueprint,
    deletions.blueprint,
    sessions.blueprint,
):
    _child.before_request(authentication.from_cookie)
    blueprint.register_blueprint(_child)

# Whichever page a sign-in began on, it is finished on the one of the second step.
blueprint.register_error_handler(SecondStepRequired, second_steps.ask)
blueprint.register_error_handler(SessionRevoked, answers.signed_out_elsewhere)


WITHOUT_TOKEN = ("/.authsite/", "/session/")


@blueprint.before_app_request
def drop_slash() -> ResponseReturnValue | None:
    """Lead from a page's address with a slash too many to the page; the address is made by our routes."""
    is_unknown = isinstance(request.routing_exception, NotFound)
    if not is_unknown or headers.is_api() or not request.path.endswith("/"):
        return None
    adapter = current_app.create_url_adapter(request)
    assert adapter is not None
    try:
        path = adapter.build(*adapter.match(request.path.removesuffix("/")))
    except HTTPException:
        return None
    query = f"?{request.query_string.decode('latin-1')}" if request.query_string else ""
    return redirect(f"{path}{query}", HTTPStatus.PERMANENT_REDIRECT)


@blueprint.before_app_request
def protect() -> ResponseReturnValue | None:
    """Take a write only with this browser's token and from this site; for every route but the API's."""
    is_page = not headers.is_api() and request.path not in headers.FOR_PROXIES
    # A product's sign-out has neither our cookie nor a token of ours, a browser that proves its key no form:
    # they check the Origin themselves.
    if (
        not is_page
        or request.path.startswith(WITHOUT_TOKEN)
        or not current_app.config["WTF_CSRF_ENABLED"]
    ):
        return None
    headers.require_own_origin()
    if None in request.form or None in request.files:
        raise MalformedRequest  # a part of a multipart body without a name, which Flask-WTF stumbles over
    try:
        csrf.protect(apply_exemptions=True)
    except CSRFError:
        events.record("csrf", outcome="refused")
        return _not_taken()
    return None


def _not_taken() -> ResponseReturnValue:
    """Show the form again as it was typed, or lead to where its sender belongs now, and say why.

    The view that acts is never called, only the one that answers GET: its form fills itself.
    """
    authentication.from_cookie()
    form = authentication.find_form()
    if form is None:
        return answers.not_taken()
    endpoint, arguments = form
    g.not_taken_because = answers.EXPIRED if request.cookies else answers.NO_COOKIE
    shown = make_response(current_app.view_functions[endpoint](**arguments))
    if shown.status_code not in {HTTPStatus.FOUND, HTTPStatus.SEE_OTHER}:
        shown.status_code = (
            HTTPStatus.BAD_REQUEST
        )  # also where the page says that a link is used up
        return shown
    # Signed in or out since the form was opened, in another tab: there is none to see again.
    return answers.not_taken(shown.location)
