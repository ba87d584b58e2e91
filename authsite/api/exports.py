"""A copy of one's data."""

from flask import Blueprint, Response, request

from .. import clock, exports
from ..web import authentication, downloads, limits

blueprint = Blueprint("exports", __name__)


@blueprint.get("/users/me/export")
@limits.export
@authentication.step_up_required
def export_my_data() -> Response:
    """Return all that is held of the user as one file."""
    if request.method == "HEAD":
        # Whoever only asks whether there is a file has not taken it.
        return downloads.json_file(iter(()), name="export", made_at=clock.now())
    caller = authentication.current_session()
    pieces = exports.export(caller.account, by=caller, ip_address=authentication.remote_address())
    return downloads.json_file(pieces, name="export", made_at=clock.now())
