"""Passkeys (WebAuthn Level 3): each can sign in alone, and be the second step after a password.

adding      a passkey is made, and its public half kept
using       signs in, finishes a sign-in, confirms who it is
listing     what there is of them, under which names; taken away again
reclaiming  what was added by a thief goes, and an app and recovery codes of his with it
ceremonies  what a browser is asked for, and what is demanded of its answer
challenges  what it has to sign: no row before it is used, none twice

Attestation, which tells makes of devices apart, is not asked for: nobody's is better than another's here.
"""

from .adding import MOST, add, creation_options
from .ceremonies import are_available
from .listing import accepted, is_only_factor, of, remove, rename
from .reclaiming import remove_of_thief
from .using import (
    CONFIRM,
    SECOND_STEP,
    complete,
    confirm,
    offer,
    options_of,
    sign_in,
    sign_in_options,
)

__all__ = [
    "CONFIRM",
    "MOST",
    "SECOND_STEP",
    "accepted",
    "add",
    "are_available",
    "complete",
    "confirm",
    "creation_options",
    "is_only_factor",
    "of",
    "offer",
    "options_of",
    "remove",
    "remove_of_thief",
    "rename",
    "sign_in",
    "sign_in_options",
]
