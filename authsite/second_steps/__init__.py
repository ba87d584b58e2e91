"""The second step: what a user shows beside the password, and what follows from it.

apps        an authenticator app, set up without a row and kept sealed
recovery    ten codes on paper, each good once
signing_in  what is asked for after the right password, and done once
operating   what an operator does about it
overview    what there is of it, for its owner
switch      on and off: while it is on, an app or a passkey exists

That a session without it cannot be written is not left to these: `sessions.start` holds it in its INSERT.
"""

from . import apps, codes, operating, overview, pending, recovery, switch
from .signing_in import SignedIn, complete, complete_with_code, methods_of, require, tell, use_code

__all__ = [
    "SignedIn",
    "apps",
    "codes",
    "complete",
    "complete_with_code",
    "methods_of",
    "operating",
    "overview",
    "pending",
    "recovery",
    "require",
    "switch",
    "tell",
    "use_code",
]
