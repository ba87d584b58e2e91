"""Values that are no address: what a text means, or ValueError with what to write instead."""

import base64
import importlib.util
import re
from collections.abc import Callable
from itertools import pairwise

WEBHOOK_EVENTS = (
    *("user.created", "user.updated", "user.deactivated", "user.activated", "user.deleted"),
    "session.ended",
)
SERVICE_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
MAX_SITE_NAME = 128
MIN_SECRET_BYTES = 32
# What examples, templates and tutorials have in the place of a secret, without what stands between the words.
# Each is long enough not to turn up among random characters.
PLACEHOLDER = re.compile(
    r"chang(e|eme|ethis|eit|ein|ebefore)(me|this|it|in|before|production|prod)|tobechanged|changeplease"
    r"|your(own|new|super|very|random|production|secure|strong|long|flask|django|app|jwt)*(secret|key|string)"
    r"|secretkey|secrethere|keyhere|secretgoeshere|supersecret|topsecret|mysecret|asecret|notsosecret|notasecret"
    r"|replace(me|this|with|it)|placeholder|putyour|insertyour|enteryour|fillme|fillin|insecure|unsafe"
    r"|donotuse|dontuse|neveruse|notforproduction|(only|secret|key)fordev|devonly|devkey|developmentonly"
    r"|developmentsecret|example|randombytes|randomstring|randomchar|somerandom|generateme|generatea|generatewith"
    r"|tokenurlsafe|opensslrand|password|letmein|qwerty|loremipsum|correcthorse"
)
# What a template or a shell has not filled in.
UNFILLED = re.compile(r"\$\{.*|\$\(.*|\{\{.*|<.*>|%\(.*|\$[A-Z_]+|\[.*\]|x+|X+|\.+|\*+")


def flag(text: str) -> bool:
    if text.lower() in {"1", "true", "yes", "on"}:
        return True
    if text.lower() in {"0", "false", "no", "off"}:
        return False
    raise ValueError("must be 1 or 0")


def integer(lowest: int, highest: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        is_number = re.fullmatch("[0-9]{1,9}", text)
        if not is_number or not lowest <= int(text) <= highest:
            raise ValueError(f"must be a whole number from {lowest} to {highest}")
        return int(text)

    return convert


def one_of(*words: str) -> Callable[[str], str]:
    def convert(text: str) -> str:
        if text.lower() not in words:
            raise ValueError("must be one of " + ", ".join(words))
        return text.lower()

    return convert


def items(text: str) -> list[str]:
    """Return what stands between commas."""
    return [each.strip() for each in text.split(",") if each.strip()]


def ascii_only(text: str) -> str:
    """Return a name or password for the mail server, which learns it in ASCII."""
    if not text.isascii():
        raise ValueError("must be ASCII: signing in to a mail server knows nothing else")
    return text


def site_name(text: str) -> str:
    if len(text) > MAX_SITE_NAME:
        raise ValueError(f"must be {MAX_SITE_NAME} characters or fewer")
    return text


def is_weak(secret: str) -> bool:
    """Return whether somebody may guess this secret: too short, too plain, or copied from an example."""
    changes = sum(abs(ord(after) - ord(before)) > 1 for before, after in pairwise(secret))
    return (
        len(secret.encode()) < MIN_SECRET_BYTES
        or len(set(secret)) < 8
        or changes < MIN_SECRET_BYTES // 2  # runs like 0123456789 and aaaa
        or secret in (secret + secret)[1:-1]  # one piece several times over
        or bool(UNFILLED.fullmatch(secret))
        or bool(PLACEHOLDER.search(re.sub(r"[\W_]", "", secret).lower()))
    )


def webhook_secrets(text: str) -> list[bytes]:
    """Return the keys of secrets in the form of Standard Webhooks: 24 to 64 bytes in Base64."""
    found = []
    for each in items(text):
        prefix, _, encoded = each.partition("whsec_")
        try:
            key = base64.b64decode(encoded, validate=True)
        except ValueError:
            key = b""
        if prefix or not 24 <= len(key) <= 64:
            raise ValueError(
                "must list secrets like whsec_ and the Base64 of 24 to 64 random bytes, newest first"
            )
        found.append(key)
    return found


def webhook_events(text: str) -> list[str]:
    wanted = items(text)
    if not wanted or not set(wanted) <= set(WEBHOOK_EVENTS):
        raise ValueError("must list some of " + ", ".join(WEBHOOK_EVENTS))
    return wanted


def service_clients(text: str) -> list[tuple[str, bytes]]:
    """Return (name, SHA-256 of the secret) by entry; a name may stand twice while its secret rotates."""
    entries = []
    for entry in items(text):
        name, _, digest = entry.partition(":")
        if not SERVICE_NAME.fullmatch(name) or not re.fullmatch(r"[0-9a-fA-F]{64}", digest):
            raise ValueError(
                "must list name:sha256, as `flask service-client NAME` prints them, separated by commas"
            )
        entries.append((name, bytes.fromhex(digest)))
    return entries


def geoip_database(text: str) -> str:
    """Return the path of a database in which places can be looked up."""
    if importlib.util.find_spec("maxminddb") is None:
        raise ValueError("needs a library: pip install maxminddb")
    import maxminddb  # optional: only who configures a database needs the library

    try:
        with maxminddb.open_database(text) as reader:
            kind = reader.metadata().database_type
    except (OSError, ValueError, maxminddb.InvalidDatabaseError):
        raise ValueError("must be the path of an .mmdb file that can be read") from None
    if not re.search("city|country|enterprise|location", kind, re.IGNORECASE):
        raise ValueError("must name a database of cities or countries")
    return text
