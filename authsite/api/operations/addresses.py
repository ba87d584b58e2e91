"""What the routes and forms of addresses cannot say of themselves, for the OpenAPI document."""

from ...errors import EmailTokenInvalid
from ...web import forms, shapes
from ...web.openapi import Operation

# By endpoint; the last part of its name is the operation id.
OPERATIONS: dict[str, Operation] = {
    "api.addresses.get_email": Operation(
        "Read your address",
        "The address of the account, whether it is confirmed, and to which one it changes once the link is"
        " opened that was mailed there; null where no change waits.",
        "Email",
    ),
    "api.addresses.request_email_verification": Operation(
        "Ask for a link to confirm your address",
        "At most three links go out in any hour; the answer is always the same. Each works for 24 hours.",
        "Message",
        message="If your address is not confirmed yet, we have sent a link",
    ),
    "api.addresses.verify_email": Operation(
        "Confirm your address",
        "With the token of the link that was mailed to it, and as the account that it is the address of."
        " Every token that is not good gets the same answer.",
        "User",
        form=forms.EmailTokenForm,
        example={"token": shapes.EMAIL_TOKEN},
        errors=(EmailTokenInvalid(),),
    ),
}
