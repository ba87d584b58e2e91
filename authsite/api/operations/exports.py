"""What the route of the export cannot say of itself, for the OpenAPI document."""

from ...web.openapi import Operation

# By endpoint; the last part of its name is the operation id.
OPERATIONS: dict[str, Operation] = {
    "api.exports.export_my_data": Operation(
        "Take a copy of your data",
        "All that is held of you, as a file that is sent while it is made; never a hash or a token. Its owner"
        " gets a mail. A file that is cut, because the account went meanwhile, the connection did or"
        " its owner began another, is no valid JSON.",
        "Export",
    ),
}
