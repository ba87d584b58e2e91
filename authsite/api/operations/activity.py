"""What the routes of activity cannot say of themselves, for the OpenAPI document."""

from ...errors import InvalidInput
from ...web.openapi import Operation

# By endpoint; the last part of its name is the operation id.
OPERATIONS: dict[str, Operation] = {
    "api.activity.list_activity": Operation(
        "Read what happened in your account",
        "Newest first. To go on, send `next` as `before`; null: that was all. An event without device,"
        " session and address is the operator's act.",
        "Activity",
        errors=(InvalidInput([("limit", "limit must be a whole number from 1 to 100")]),),
        query=("limit", "before", "kind"),
    ),
}
