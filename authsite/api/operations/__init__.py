"""The descriptions of all endpoints: an entry for each, beside its noun; a test fails while one lacks."""

from ...web import openapi
from . import (
    accounts,
    activity,
    addresses,
    deletions,
    documentation,
    email_changes,
    exports,
    passkeys,
    passwords,
    second_steps,
    services,
    sessions,
    step_up,
)

for _noun in (
    accounts,
    addresses,
    email_changes,
    passwords,
    step_up,
    second_steps,
    passkeys,
    sessions,
    activity,
    exports,
    deletions,
    services,
    documentation,
):
    openapi.OPERATIONS.update(_noun.OPERATIONS)
