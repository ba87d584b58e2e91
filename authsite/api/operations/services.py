"""What the routes of services cannot say of themselves, for the OpenAPI document."""

from ...errors import InvalidClient
from ...web import shapes
from ...web.openapi import Operation

_MEMBERS = {
    "token": shapes.text(minLength=1, description="The token, as it came."),
    "token_type_hint": shapes.text(description="Read by nobody: a token tells what it is."),
}

# By endpoint; the last part of its name is the operation id.
OPERATIONS: dict[str, Operation] = {
    "api.services.introspect_token": Operation(
        "Ask whose access token this is",
        "For services that are handed a token (RFC 7662), named in `SERVICE_CLIENTS` and authenticated by"
        " HTTP Basic. A token that is not an access token of a live session answers `active: false` and"
        " nothing else. Ask for each request: what has ended is inactive at once. Ten wrong secrets a minute"
        " are evaluated from one address; right ones are not counted.",
        "Introspection",
        members=_MEMBERS,
        example={"token": shapes.TOKEN},
        errors=(InvalidClient(),),
        is_for_services=True,
    ),
    "api.services.revoke_token": Operation(
        "End the session of a token",
        "For OAuth libraries (RFC 7009): whoever holds an access or refresh token, expired or not, may end"
        " its session. The answer is the same for text that is no token.",
        "Nothing",
        members=_MEMBERS,
        example={"token": shapes.TOKEN},
    ),
}
