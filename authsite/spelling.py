"""How addresses, names and phone numbers are spelled: one way to be stored and found, one to be read.

Every entrance comes through here: JSON, OAuth, pages and commands. What people paste has more in it than
they see (marks of direction from an address book, a zero-width space from a chat), and what they type has
more than one spelling. Two things that only look alike are never made one.
"""

import re
import unicodedata
import uuid

import idna

MAX_TEXT = (
    4096  # to normalise more would take the time of its length squared; no field holds as much
)
MAX_DOMAIN = 253
# Digits, and what people write between them.
PHONE_NUMBER = r"[ (]*(?:\+|00)?(?:[ ()./-]*[0-9]){7,15}[ ()./-]*"


def trimmed(text: str) -> str:
    """Return text without what is blank or invisible at its ends."""
    begin, end = 0, len(text)
    while begin < end and _is_blank(text[begin]):
        begin += 1
    while end > begin and _is_blank(text[end - 1]):
        end -= 1
    return text[begin:end]


def canonical_email(text: str) -> str:
    """Return the spelling under which an address is stored and looked up; text that is none stays none.

    Invisible characters at the ends go, and a domain beyond ASCII is spelled as mail and DNS do (IDNA
    2008, RFC 5891). Only ASCII letters are lower-cased: `str.lower` would turn the Kelvin sign into a k,
    as NFC turns it into a K, and so one person's address into another's (CVE-2019-19844). What is stored
    is ASCII: text that is not so in the end finds nobody.
    """
    name, at, domain = trimmed(text).rpartition("@")
    if not domain.isascii():
        domain = _ascii_domain(domain)
    return f"{name}{at}{domain}".translate(_ASCII_LOWER)


def readable_email(address: str) -> str:
    """Return a stored address with its domain as its owner writes it."""
    name, at, domain = address.rpartition("@")
    if "xn--" not in domain:
        return address
    try:
        return f"{name}{at}{idna.decode(domain)}"
    except UnicodeError:
        return address


def masked_email(address: str) -> str:
    """Return what tells its owner which address it is, and nobody else: "n•••@example.com"."""
    name, at, domain = readable_email(address).rpartition("@")
    return f"{name[:1]}•••{at}{domain}"


def one_line(text: str) -> str:
    """Return text for showing: NFC, single spaces, and nothing invisible but what spells a word.

    Joiners stay between letters or emoji, where Persian, Sinhala, Hindi and families need them. Marks of
    direction, which make a name read as another, and soft hyphens go without a trace.
    """
    if len(text) > MAX_TEXT:
        return text
    spaced = "".join(" " if _is_space(each) else each for each in text)
    # A flag of a part of a country holds its name in characters that nobody sees.
    parts = enumerate(_FLAG.split(spaced))
    shown = "".join(part if number % 2 else _visible(part) for number, part in parts)
    line = " ".join(unicodedata.normalize("NFC", shown).split())
    # Of marks and joiners alone nobody could read anything.
    return line if any(unicodedata.category(each)[0] not in "MC" for each in line) else ""


def canonical_phone_number(text: str) -> str | None:
    """Return what is dialled: a plus sign and at most 15 digits (E.164), or None where nothing could be.

    Numbering plans change faster than any copy of them: only the country code and the length decide.
    Without a country code the digits are kept as they are; they can be dialled where their owner lives.
    """
    if len(text) > MAX_TEXT:
        return None
    plain = "".join(map(_ascii_in_numbers, text)).strip()
    if not re.fullmatch(PHONE_NUMBER, plain):
        return None
    digits = re.sub("[^0-9]", "", plain)
    if "+" not in plain and not digits.startswith("00"):
        return digits
    # Imported late, here and below: few requests have a number in them.
    import phonenumbers

    try:
        # It knows where the zero of "+44 (0)20" is one too many, and where it belongs.
        number = phonenumbers.parse("+" + digits.removeprefix("00"))
    except phonenumbers.NumberParseException:
        return None
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def readable_phone_number(stored: str) -> str:
    """Return a stored number grouped as it is in its country."""
    import phonenumbers

    try:
        number = phonenumbers.parse(stored)
    except phonenumbers.NumberParseException:
        return stored
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.INTERNATIONAL)


def canonical_id(text: str) -> uuid.UUID | None:
    """Return the id that a text spells with hyphens, in letters of either case; None for any other text."""
    try:
        parsed = uuid.UUID(text)
    except ValueError:
        return None
    return parsed if str(parsed) == text.lower() else None


def _is_blank(each: str) -> bool:
    return each.isspace() or _is_invisible(each)


def _is_invisible(each: str) -> bool:
    return unicodedata.category(each) == "Cf" or each in _FILLERS


def _is_space(each: str) -> bool:
    return unicodedata.category(each) in _SPACES or each == "\N{BRAILLE PATTERN BLANK}"


def _visible(text: str) -> str:
    """Return text without what is invisible; of joiners one is left where it joins something."""
    kept = "".join(each for each in text if each in _JOINERS or not _is_invisible(each))
    return re.sub(f"[{_JOINERS}]+", lambda found: found[0][0] if _joins(found) else "", kept)


def _joins(joiners: re.Match[str]) -> bool:
    before = joiners.string[joiners.start() - 1 : joiners.start()]
    if before and unicodedata.combining(before) == _VIRAMA:
        return True  # an older spelling of Malayalam ends words so
    return _is_written(before) and _is_written(joiners.string[joiners.end() :][:1])


def _is_written(each: str) -> bool:
    return bool(each) and unicodedata.category(each)[0] in "LMS"


def _ascii_in_numbers(each: str) -> str:
    """Return a character of a phone number as ASCII has it; nothing for one that is invisible."""
    if _is_invisible(each):
        return ""
    if each.isspace():
        return " "
    if each.isdecimal():
        return str(unicodedata.decimal(each))
    if unicodedata.category(each) == "Pd" or each == "\N{MINUS SIGN}":
        return "-"
    return unicodedata.normalize("NFKC", each)


def _ascii_domain(domain: str) -> str:
    """Return a domain in ASCII, or as it came where that could make two that look alike one.

    UTS 46 lets full-width letters, a Kelvin sign and a soft hyphen stand for what they look like. Here only
    the case of letters may change, and a letter be put together with its accent.
    """
    if len(domain) > MAX_DOMAIN or not all(map(_is_plain, domain)):
        return domain
    composed = unicodedata.normalize("NFC", domain)
    try:
        mapped = idna.uts46_remap(composed, std3_rules=True, transitional=False)
        # Letter by letter: as a word, a sigma at its end would be another letter.
        if mapped != "".join(each.lower() for each in composed):
            return domain
        return idna.encode(mapped).decode()
    except UnicodeError:
        return domain


def _is_plain(each: str) -> bool:
    return unicodedata.is_normalized("NFKC", each)


_ASCII_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}
_SPACES = frozenset({"Cc", "Co", "Zl", "Zp", "Zs"})
_JOINERS = "\u200c\u200d"
# Letters and a mark that show nothing.
_FILLERS = frozenset("\u034f\u115f\u1160\u3164\uffa0")
_VIRAMA = 9  # its canonical combining class
_FLAG = re.compile("(\U0001f3f4[\U000e0030-\U000e007a]{2,6}\U000e007f)")
