"""The descriptions of all endpoints: an entry for each, beside its noun; a test fails while one lacks."""

from ...web import openapi
from . import accounts, documentation, passwords, sessions

for _noun in (accounts, passwords, sessions, documentation):
    openapi.OPERATIONS.update(_noun.OPERATIONS)
