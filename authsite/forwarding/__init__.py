"""For proxies and the products behind them: whose request is this, and a product's own cookie."""

from flask import Blueprint, abort, current_app, request

from . import asking, handoff

blueprint = Blueprint("forwarding", __name__)

for _child in (asking.blueprint, handoff.blueprint):
    blueprint.register_blueprint(_child)


@blueprint.before_request
def exist_only_where_products_are_listed() -> None:
    """Answer 404 where the settings name no product."""
    if not current_app.config["FORWARD_AUTH_ORIGINS"]:
        abort(404)


@blueprint.before_app_request
def answer_only_the_handoff_on_a_products_host() -> None:
    """Answer 404 to all else there: a second sign-in page would teach people to type passwords into it."""
    if request.host.lower() in current_app.config["PRODUCT_HOSTS"] and not request.path.startswith(
        handoff.PREFIX
    ):
        abort(404)
