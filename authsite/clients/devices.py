"""What a person would call the device behind a request: "Chrome on Windows", "Safari on iPhone".

A label for its owner, never evidence: the client writes its headers as it likes. Names hold no
versions, so that an update does not look like another device. user-agents knows the browsers, the
bots and the makers of phones; the tables here know what people call them.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote

MAX_USER_AGENT = 512
UNKNOWN = "Unknown device"

HINTS = ("sec-ch-ua", "sec-ch-ua-platform", "sec-ch-ua-platform-version", "sec-ch-ua-model")
HIDDEN_BROWSERS = ("Brave", "DuckDuckGo", "Vivaldi")  # their user agent is Chrome's

# Product tokens and names from user-agents, in lower case. Empty: it tells a person nothing.
NAMES = {
    "amazon silk": "Silk",
    "android": "",
    "apple mail": "",  # user-agents' guess for every Mac app that shows a page
    "code": "VS Code",
    "dalvik": "",
    "dart": "Dart app",
    "electron": "Desktop app",
    "go-http-client": "Go program",
    "google": "Google app",
    "ie": "Internet Explorer",
    "java": "Java program",
    "miuibrowser": "Mi Browser",
    "mozilla": "",
    "node": "Node.js",
    "node-fetch": "Node.js",
    "okhttp": "OkHttp app",
    "other": "",
    "postmanruntime": "Postman",
    "wechat browser": "WeChat",
}
SCRIPTS = re.compile(
    r"(?i)^(?:(?:lib|py)?curl|wget|httpie|xh|aws-cli|git|postmanruntime|insomnia|bruno|lynx|w3m"
    r"|python|aiohttp|node|undici|axios|java|apache-httpclient|go-http-client|ruby|faraday"
    r"|php|guzzlehttp|libwww-perl|(?:rust-)?reqwest|restsharp|deno|bun|ktor|symfony httpclient|got(?= \()"
    r"|gh|github cli|kubectl|terraform|docker|k6|ansible-httpget)\b|powershell/"
)
# A program that opens a page because a person asked it to.
ASSISTANTS = re.compile(r"\b(?:ChatGPT|Claude|Perplexity|MistralAI)-User\b")
ELECTRON = re.compile(r"\) ([\w-]{1,30})/[\d.]{1,30} Chrome/[\d.]{1,30} Electron/")
# From the number on, in whatever way it is told: " v2.9.2", "-2.9", "_2.9-beta", " version 2".
VERSION = re.compile(
    r"(?i)[\s_.-]{0,3}(?:\b(?:v|ver|version|build|release)\.?(?:\s?\d|$)|\d{1,9}\.\d).*"
)
BUNDLE = re.compile(r"[a-z]{2,9}(?:\.[\w-]{1,60}){1,9}\.([A-Za-z]\w{0,60})")


class Device(NamedTuple):
    name: str
    browser: str | None
    os: str | None
    type: str


class Place(NamedTuple):
    label: str  # empty: the matched text
    os: str | None
    type: str


# The first pattern found decides: televisions and consoles pose as desktops, phones as each other.
PLACES = {
    r"Windows Phone|IEMobile": Place("Windows Phone", "Windows Phone", "mobile"),
    # Asked for the page that a computer gets. Safari's cannot be told from a Mac's.
    r"Macintosh.+ (?:CriOS|EdgiOS|FxiOS|GSA|OPT|OPX|OPiOS)/": Place(
        "iPhone or iPad", "iOS", "mobile"
    ),
    r"^Dalvik/": Place("Android app", "Android", "mobile"),
    r"PlayStation [45]|Nintendo Switch(?: 2)?|Xbox": Place("", None, "console"),
    r"PlayStation|Nintendo": Place("", None, "console"),
    r"Mozilla.+; Quest \w": Place("Meta Quest", "Android", "console"),
    r"watchOS|Apple ?Watch": Place("Apple Watch", "watchOS", "other"),
    r"Apple ?TV": Place("Apple TV", "tvOS", "tv"),
    r"Roku": Place("", None, "tv"),
    r"CrKey|; Chromecast": Place("Chromecast", None, "tv"),
    r"; AFT\w": Place("Fire TV", "Android", "tv"),
    r"Tizen.+TV|SMART-TV": Place("Samsung TV", "Tizen", "tv"),
    r"Web0S|NetCast": Place("LG TV", "webOS", "tv"),
    r"BRAVIA": Place("Sony TV", "Android", "tv"),
    r"(?i:Google|Smart|Hbb)TV|\bTV\b": Place("TV", None, "tv"),
    r"iPad": Place("", "iPadOS", "tablet"),
    r"iPhone|iPod": Place("", "iOS", "mobile"),
    r"Windows": Place("", "Windows", "desktop"),
    r"Macintosh|CFNetwork/.+\((?:x86_64|arm64)": Place("Mac", "macOS", "desktop"),
    r"[(; ]iPadOS[ /]\d": Place("iPad", "iPadOS", "tablet"),
    r"[(; ]macOS[ /]\d": Place("Mac", "macOS", "desktop"),
    r"[(; ]iOS[ /]\d": Place("iOS", "iOS", "mobile"),  # what Alamofire writes for every app
    r"CFNetwork/": Place("iOS", "iOS", "mobile"),  # a Mac with Apple silicon says the same
    r"CrOS": Place("Chromebook", "ChromeOS", "desktop"),
    r"Kindle/": Place("Kindle", None, "tablet"),
    r"Tesla/": Place("Tesla", None, "other"),
    r"KAIOS/": Place("KaiOS", "KaiOS", "mobile"),
    r"; KF[A-Z]{2}": Place("Fire tablet", "Android", "tablet"),
    r"Android.+Tablet": Place("Android", "Android", "tablet"),
    r"Android.+(?:Mobi|Mini)": Place("Android", "Android", "mobile"),
    r"^Mozilla.+Android|Android.+(?:SM-[PTX]\d|\b(?:Tab|Pad)\b)": Place(
        "Android", "Android", "tablet"
    ),
    r"Android": Place("Android", "Android", "mobile"),  # an app: only browsers say what is no phone
    r"\(PC; (?:Open)?Harmony": Place("HarmonyOS", "HarmonyOS", "desktop"),
    r"\(Tablet; (?:Open)?Harmony": Place("HarmonyOS", "HarmonyOS", "tablet"),
    r"HarmonyOS|OpenHarmony": Place("HarmonyOS", "HarmonyOS", "mobile"),
    r"(?:Free|Open|Net)BSD": Place("", "BSD", "desktop"),
    r"Linux": Place("", "Linux", "desktop"),
}


def describe(user_agent: str | None, hints: Mapping[str, str] | None = None) -> Device:
    """Return what the client says that it is; the name UNKNOWN if it says nothing. Never fails.

    `hints` maps the names in HINTS to the header values as they came. The name has at most 64
    characters, none of which a page or a mail program could take for markup or for a link.
    """
    given = hints or {}
    return _describe(_readable(user_agent), *(_readable(given.get(name)) for name in HINTS))


# Reading an agent costs most of a millisecond, and a few strings are what most people send.
@lru_cache(maxsize=1024)
def _describe(agent: str, brands: str, platform: str, version: str, model: str) -> Device:
    product = _product(agent)
    if SCRIPTS.search(agent):
        name = product or "PowerShell"  # the only one to pose as a browser
        return Device(name, name, None, "cli")
    # Imported late: it takes 180 ms and only a sign-in needs it.
    from user_agents import parse

    if assistant := ASSISTANTS.search(agent):
        return Device(assistant[0], assistant[0], None, "bot")
    agent = _with_model(agent, model)
    parsed = parse(agent)
    browser = product or _electron(agent) or _browser(parsed.browser.family, brands)
    if parsed.is_bot or browser.lower().endswith("bot"):
        return Device(browser or "Bot", browser or None, None, "bot")
    place = _place(agent, parsed.device.family, version if platform == '"Windows"' else "")
    if place.type in ("tv", "console"):
        browser = ""  # nobody knows its name, user-agents included
    name = " on ".join(dict.fromkeys(filter(None, (browser, place.label)))) or UNKNOWN
    return Device(name, browser or None, place.os, place.type)


def _readable(header: str | None) -> str:
    # Cut before anything else looks at it: the parser's patterns are slower than linear.
    start = (header or "")[:MAX_USER_AGENT]
    return "".join(filter(str.isprintable, start)).strip()


def _words(text: str) -> str:
    """Return the start of `text` that reads as a name, at most 30 characters of it."""
    # No dots: mails that a stranger can cause show this, and evil.example would become a link.
    found = re.match(r"\w[\w '()-]{0,29}", _readable(text).replace(".", " "))
    return found[0].strip() if found else ""


def _product(agent: str) -> str:
    """Return the name of an app or a script; nothing for a browser, which only says Mozilla."""
    token = unquote(re.split(r"[/(]| \d", agent, maxsplit=1)[0])
    # Without its version: an update is no new device, of which its owner would be mailed.
    words = _words(VERSION.sub("", BUNDLE.sub(r"\1", token), count=1))
    return NAMES.get(words.lower(), words)


def _electron(agent: str) -> str:
    """Return the name of the desktop app that shows pages in a Chrome of its own."""
    found = ELECTRON.search(agent)
    words = _words(found[1]) if found else ""
    return NAMES.get(words.lower(), words)


def _with_model(agent: str, hinted: str) -> str:
    """Put the hinted model where Chrome writes "K" for all of them, to be read like any other."""
    model = _words(hinted.strip('"'))
    return agent.replace("; K)", f"; {model})") if model else agent


def _browser(family: str, brands: str) -> str:
    plain = re.sub(r"\b(?:Mobile|iOS|WebView|UI/WKWebView)\b|Headless", "", family)
    browser = _words(" ".join(plain.split()))
    if browser == "Chrome":
        browser = next((name for name in HIDDEN_BROWSERS if f'"{name}"' in brands), browser)
    return NAMES.get(browser.lower(), browser)


def _place(agent: str, model: str, windows_version: str) -> Place:
    for pattern, place in PLACES.items():
        if found := re.search(pattern, agent):
            label = place.label or found[0]
            if label == "Android":
                label = _phone(model)
            os = _windows(windows_version) if label == "Windows" else place.os
            return Place(label, os, place.type)
    return Place("", None, "other")


def _phone(model: str) -> str:
    if "SM-" in model:
        return "Samsung Galaxy"
    if "RMX" in model:
        return "Realme"  # user-agents takes it for its parent's
    # "Pixel 8" or "Oppo CPH2411" tells its owner something, "M2102J20SG" does not.
    is_telling = " " in model and not re.search("Generic|Browser", model)
    return (is_telling and _words(model)) or "Android"


def _windows(version: str) -> str:
    """Return the system for a hinted platform version, which counts 11 from 13 and 10 from 1."""
    major = re.match(r'"([1-9][0-9]?)\.', version)
    if not major:
        return "Windows"
    return "Windows 11" if int(major[1]) >= 13 else "Windows 10"
