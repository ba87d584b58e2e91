"""Where a browser, not a person, binds its session to a key and proves that it holds it."""

import uuid

from flask import Blueprint, Response, abort, g, jsonify
from flask.typing import ResponseReturnValue

from .. import sessions
from ..errors import ProofRefused, SessionRevoked
from ..web import authentication, bindings, headers, limits

blueprint = Blueprint("bindings", __name__)


@blueprint.before_request
def find_session() -> ResponseReturnValue | None:
    """Find the session of the cookie, proven of late or not; answer 403 where there is none.

    On the way here from another site a browser keeps the cookie back, which is SameSite: then the name of a
    bound session will do, for nothing is to be had for it but by its key.
    """
    if not bindings.are_on():
        abort(404)
    headers.demand_own_origin()
    named = bindings.named_session()
    found = authentication.claimed_by_cookie() or (_bound(named) if named else None)
    # Of another session than the cookie's the browser gets no challenge, and forgets it.
    if found is None or named not in {None, found.id}:
        return _refused()
    g.unproven = found
    return None


@blueprint.post(bindings.BIND)
@limits.bind_session
def bind() -> ResponseReturnValue:
    """Bind the session to the key of the proof, and say how to go on."""
    try:
        value = sessions.bind(g.unproven, bindings.proof() or "")
    except ProofRefused:
        return _refused()
    return bindings.keep(jsonify(bindings.instructions(g.unproven)), value)


@blueprint.post(bindings.REFRESH)
@limits.prove_binding
def refresh() -> ResponseReturnValue:
    """Ask for a proof of the session's key, or take one and let the cookie go on."""
    if g.unproven.bound_at is None:
        return _refused()
    text = bindings.proof()
    try:
        value = sessions.prove(g.unproven, text) if text is not None else None
    except ProofRefused:
        value = None
    if value is None:
        bindings.ask(g.unproven)
        return _refused()
    return bindings.keep(jsonify(bindings.instructions(g.unproven)), value)


def _bound(session_id: uuid.UUID) -> sessions.Resumed | None:
    # Anybody can make up a name, and each is looked for. A browser that is sent away by 429 keeps its key.
    limits.name_session.count()
    try:
        return sessions.resume_bound(session_id)
    except SessionRevoked:
        return None


def _refused() -> Response:
    """Return the refusal for a browser; a page would be for nobody."""
    return Response(status=403, mimetype="text/plain")
