"""What the routes and forms of changes of address cannot say of themselves, for the OpenAPI document."""

from ...errors import EmailTaken, EmailTokenInvalid
from ...web import forms, shapes
from ...web.openapi import Operation

# By endpoint; the last part of its name is the operation id.
OPERATIONS: dict[str, Operation] = {
    "api.email_changes.change_email": Operation(
        "Change your address",
        "Mails a link to the new address, which works for 24 hours; until it is opened nothing changes. It"
        " takes the place of a link that waits. The answer is the same whether or not the address belongs to"
        " another account, and so it is for more than three in any hour, of which nothing comes.",
        "Message",
        status=202,
        message="Check your new email address to confirm the change",
        form=forms.EmailForm,
        example={"email": "ada.lovelace@example.com"},
    ),
    "api.email_changes.cancel_email_change": Operation(
        "Cancel a change of address",
        "The link that waits stops working. Where none does, the answer is the same.",
        "Message",
        message="Change of email address cancelled",
    ),
    "api.email_changes.confirm_email_change": Operation(
        "Confirm a change of address",
        "With the token of the link that was mailed to the new address, and as the account that asked for"
        " it. Every token that is not good gets the same answer. The address before, if it was confirmed, is"
        " told, with a link that undoes the change and signs every device out. Sessions stay.",
        "User",
        form=forms.EmailTokenForm,
        example={"token": shapes.CHANGE_TOKEN},
        errors=(EmailTokenInvalid(), EmailTaken(field="email")),
    ),
}
