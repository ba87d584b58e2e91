"""Sessions: one row for each signed-in device, read on every request, so that ending one is immediate.

start    a sign-in becomes a row, or there is no sign-in
resume   the session and user behind a token or cookie, in one indexed read
rotate   a refresh token is changed for its successor, by compare-and-swap
bind     a browser's session to a key that stays in it, which it proves every ten minutes
end      one session, or all of a user's; an ended row stays with its reason until delete_dead takes it

This is the one face of the package; inside, each statement stands beside its verb.
"""

from .binding import (
    PROOF_LIFETIME,
    bind,
    challenge_to_bind,
    challenge_to_prove,
    is_proven,
    note_unproven,
    prove,
    unbind,
)
from .cleanup import count_before, delete_dead, statistics
from .columns import (
    ABSOLUTE_LIFETIME,
    ASSURANCE,
    IDLE_LIFETIME,
    IDLE_LIFETIME_OF_BROWSER_SESSION,
    Grant,
)
from .ending import (
    delete_own_dead,
    disown,
    end,
    end_all,
    end_email_change,
    end_everywhere,
    find_owner,
)
from .listing import (
    ENDED_ARE_SHOWN_FOR,
    active_for,
    find_own,
    note_product,
    recently_ended_for,
    rename,
)
from .resuming import (
    TOUCH_INTERVAL,
    Resumed,
    cookie_digest,
    renew,
    require_live,
    resume_api,
    resume_api_with_all,
    resume_bound,
    resume_page,
    resume_product,
    touch,
)
from .rotation import rotate
from .starting import Client, describe, is_known_browser, start
from .trusted import (
    Trust,
    delete_expired_trusts,
    distrust_all,
    distrust_device,
    is_trusted,
    trust,
    trusted_count,
)

__all__ = [
    "ABSOLUTE_LIFETIME",
    "ASSURANCE",
    "ENDED_ARE_SHOWN_FOR",
    "IDLE_LIFETIME",
    "IDLE_LIFETIME_OF_BROWSER_SESSION",
    "PROOF_LIFETIME",
    "TOUCH_INTERVAL",
    "Client",
    "Grant",
    "Resumed",
    "Trust",
    "active_for",
    "bind",
    "challenge_to_bind",
    "challenge_to_prove",
    "cookie_digest",
    "count_before",
    "delete_dead",
    "delete_expired_trusts",
    "delete_own_dead",
    "describe",
    "disown",
    "distrust_all",
    "distrust_device",
    "end",
    "end_all",
    "end_email_change",
    "end_everywhere",
    "find_own",
    "find_owner",
    "is_known_browser",
    "is_proven",
    "is_trusted",
    "note_product",
    "note_unproven",
    "prove",
    "recently_ended_for",
    "rename",
    "renew",
    "require_live",
    "resume_api",
    "resume_api_with_all",
    "resume_bound",
    "resume_page",
    "resume_product",
    "rotate",
    "start",
    "statistics",
    "touch",
    "trust",
    "trusted_count",
    "unbind",
]
