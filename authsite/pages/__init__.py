"""The server-rendered pages: a cookie, a CSRF token on every POST, no JavaScript needed."""

from http import HTTPStatus

from flask import Blueprint, current_app, g, make_response, redirect, request
from flask.typing import ResponseReturnValue
from flask_wtf.csrf import CSRFError
from werkzeug.exceptions import HTTPException, NotFound

from .. import events
from ..extensions import csrf
from ..web import authentication, headers
from . import accounts, answers, passwords, sessions, site

blueprint = Blueprint("pages", __name__)
blueprint.register_blueprint(site.blueprint)

for _child in (accounts.blueprint, passwords.blueprint, sessions.blueprint):
    _child.before_request(authentication.from_cookie)
    blueprint.register_blueprint(_child)


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
    if headers.is_api() or not current_app.config["WTF_CSRF_ENABLED"]:
        return None
    headers.require_own_origin()
    try:
        csrf.protect(apply_exemptions=True)
    except CSRFError:
        events.record("csrf", outcome="refused")
        return _expired()
    return None


def _expired() -> ResponseReturnValue:
    """Show the form again as it was typed; what has none to show says what happened and leads back.

    The view that acts is never called, only the one that answers GET: its form fills itself.
    """
    form = authentication.find_form()
    if form is None:
        return answers.expired()
    endpoint, arguments = form
    authentication.from_cookie()
    g.is_form_expired = True
    shown = make_response(current_app.view_functions[endpoint](**arguments))
    # It may have a redirect to answer: who was signed out meanwhile has no form to see again.
    return shown if shown.status_code == HTTPStatus.BAD_REQUEST else answers.expired()
