"""A copy of one's data, as a file."""

from flask import Blueprint
from flask.typing import ResponseReturnValue

from .. import clock, exports
from ..web import authentication, downloads, limits
from ..web.forms import ExportForm
from . import answers, step_up

blueprint = Blueprint("exports", __name__)


@blueprint.get("/account/export")
@authentication.login_required
def show_export() -> ResponseReturnValue:
    """Show what the file holds, and the button that asks for it."""
    return _page(step_up.prepared(ExportForm()))


@blueprint.post("/account/export")
@authentication.login_required
@limits.export
def export() -> ResponseReturnValue:
    """Answer the file."""
    form = step_up.prepared(ExportForm())
    if not form.validate() or not step_up.confirmed(form):
        return _page(form)
    caller = authentication.current_session()
    pieces = exports.export(caller.account, by=caller, ip_address=authentication.remote_address())
    return downloads.json_file(pieces, name="export", made_at=clock.now())


def _page(form: ExportForm) -> ResponseReturnValue:
    account = authentication.current_session().account
    return answers.page("exports/export.html", form=form, account=account)
