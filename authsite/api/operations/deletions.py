"""What the route of the deletion cannot say of itself, for the OpenAPI document."""

from ...web.openapi import Operation

# By endpoint; the last part of its name is the operation id.
OPERATIONS: dict[str, Operation] = {
    "api.deletions.delete_current_user": Operation(
        "Delete your account",
        "Signs every device out, this one included. From `delete_after` on everything is deleted; until then"
        " a link that is mailed keeps the account, and signing in with the right password answers"
        " `inactive_account` with the day. While a change of address can be undone, `delete_after` is not"
        " before that ends. Where the site waits for no day it is null, and everything is gone.",
        "Deletion",
    ),
}
