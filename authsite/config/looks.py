"""How an operator's colour and picture may look: readable on every ground, and loaded from nowhere else."""

import re
from typing import NamedTuple

READABLE = 4.5  # WCAG 2.2, SC 1.4.3
MAX_LOGO = 16 * 1024
# What app.css lays behind links and buttons, by mode; a test holds both to each other.
GROUNDS = {"light": ("#ffffff", "#f6f7f9"), "dark": ("#171b21", "#0f1216")}
_COLOR = re.compile("#[0-9a-f]{6}")
_PATH = re.compile(r"/(?![/\\])[!-~]*")
_PICTURE = re.compile(r"data:image/(avif|gif|jpeg|png|svg\+xml|webp)[;,][!-~]+")


class Accent(NamedTuple):
    """The colour of links and buttons in each mode, each as #rrggbb."""

    light: str
    dark: str


def accent(text: str) -> Accent:
    """Return a colour that can be read in light mode, and for dark mode the second or a tint of it.

    One colour cannot have a contrast of 4.5:1 on white and on nearly black alike.
    """
    given = [each.strip().lower() for each in text.split(",")]
    if len(given) > 2 or not all(map(_COLOR.fullmatch, given)):
        raise ValueError(
            "must be a colour like #3056d3, or two, for light and for dark mode, like #3056d3,#9db5ff"
        )
    for mode, color in zip(GROUNDS, given, strict=False):
        if (found := _least_contrast(color, mode)) < READABLE:
            raise ValueError(
                f"{color} has a contrast of {int(found * 10) / 10}:1 on the ground of {mode} mode and needs"
                f" {READABLE}:1: take a {'darker' if mode == 'light' else 'lighter'} one"
            )
    return Accent(given[0], given[1] if len(given) == 2 else _tint_for_dark(given[0]))


def mixed(color: str, ground: str, share: float) -> str:
    """Return so much of a colour on a ground."""
    pairs = zip(_channels(color), _channels(ground), strict=True)
    return "#" + "".join(f"{round(share * of + (1 - share) * on):02x}" for of, on in pairs)


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours, from 1 to 21 (WCAG 2.2)."""
    darker, lighter = sorted((_luminance(one), _luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def logo(text: str) -> str:
    """Return where pages load the logo from: under this origin, or from the page itself."""
    if len(text) > MAX_LOGO or not (_PATH.fullmatch(text) or _PICTURE.fullmatch(text)):
        raise ValueError(
            "must be a path that the service's own host answers, like /logo.svg, or a picture of"
            f" {MAX_LOGO // 1024} KiB at most like data:image/png;base64,... without blanks"
        )
    return text


def _tint_for_dark(color: str) -> str:
    """Return the least mixture with white that is as readable as text should be (SC 1.4.6)."""
    tints = (mixed("#ffffff", color, share / 100) for share in range(101))
    return next(tint for tint in tints if _least_contrast(tint, "dark") >= 7)


def _least_contrast(color: str, mode: str) -> float:
    return min(contrast(color, ground) for ground in GROUNDS[mode])


def _luminance(color: str) -> float:
    weighed = zip((0.2126, 0.7152, 0.0722), map(_linear, _channels(color)), strict=True)
    return sum(weight * channel for weight, channel in weighed)


def _linear(channel: int) -> float:
    part = channel / 255
    return part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4


def _channels(color: str) -> tuple[int, ...]:
    return tuple(int(color[at : at + 2], 16) for at in (1, 3, 5))
