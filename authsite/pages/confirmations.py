"""Where a browser leads that has a sign-in bound to a computer, and could not prove that it is on it."""

from flask import Blueprint, g, redirect
from flask.typing import ResponseReturnValue

from ..web import authentication, limits
from ..web.forms import ConfirmingForm
from . import answers, step_up

blueprint = Blueprint("confirmations", __name__)


@blueprint.get(authentication.CONFIRM)
def show_confirmation() -> ResponseReturnValue:
    """Ask who it is; nothing of the account is shown before."""
    if "unproven" not in g:
        return redirect(answers.next_location() if "session" in g else answers.LOGIN)
    return _page(step_up.asking_as_to_sign_in(ConfirmingForm(), g.unproven))


@blueprint.post(authentication.CONFIRM)
@limits.login
def confirm() -> ResponseReturnValue:
    """Go on with the session in this browser, which is asked to bind it anew; copies open nothing more."""
    if "unproven" not in g:
        return redirect(answers.next_location() if "session" in g else answers.LOGIN, 303)
    form = step_up.asking_as_to_sign_in(ConfirmingForm(), g.unproven)
    if not form.validate() or not step_up.confirmed(form):
        return _page(form)
    return redirect(answers.next_location(), 303)


def _page(form: ConfirmingForm) -> ResponseReturnValue:
    return answers.page("bindings/confirm.html", form=form)
