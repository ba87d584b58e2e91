"""What people read in their list of devices, for agents as they were sent in 2024 to 2026."""

import random
import re
import time
from pathlib import Path

import pytest

from authsite.clients import devices

WEBKIT = "AppleWebKit/537.36 (KHTML, like Gecko)"
APPLE = "AppleWebKit/605.1.15 (KHTML, like Gecko)"
NT = "Mozilla/5.0 (Windows NT 10.0"
WINDOWS = f"{NT}; Win64; x64) {WEBKIT}"
X11 = "Mozilla/5.0 (X11"
CROS = f"{X11}; CrOS x86_64 14541.0.0) {WEBKIT}"
LINUX = f"{X11}; Linux x86_64) {WEBKIT}"
MAC = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7)"
IPHONE = f"Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) {APPLE}"
IPAD = f"Mozilla/5.0 (iPad; CPU OS 17_7 like Mac OS X) {APPLE}"
ANDROID = f"Mozilla/5.0 (Linux; Android 10; K) {WEBKIT}"
FIRE = f"Mozilla/5.0 (Linux; Android 9; KFTRWI) {WEBKIT}"

CHROME_ON_WINDOWS = f"{WINDOWS} Chrome/143.0.0.0 Safari/537.36"
CHROME_ON_ANDROID = f"{ANDROID} Chrome/143.0.0.0 Mobile Safari/537.36"

# Agents of today from public lists, each decided as its owner would: the agent, the name, system and type.
TODAY = [
    tuple(line.split("\t"))
    for line in Path(__file__).with_name("user_agents.tsv").read_text().splitlines()
]

SYSTEMS = {
    "Windows": ("Windows", "desktop"),
    "Mac": ("macOS", "desktop"),
    "Linux": ("Linux", "desktop"),
    "Chromebook": ("ChromeOS", "desktop"),
    "iPhone": ("iOS", "mobile"),
    "iPad": ("iPadOS", "tablet"),
    "Android": ("Android", "mobile"),
    "Fire tablet": ("Android", "tablet"),
}
BROWSERS = [
    (CHROME_ON_WINDOWS, "Chrome", "Windows"),
    (f"{CHROME_ON_WINDOWS} Edg/143.0.0.0", "Edge", "Windows"),
    (f"{CHROME_ON_WINDOWS} OPR/125.0.0.0 (Edition GX)", "Opera", "Windows"),
    (f"{CHROME_ON_WINDOWS} Vivaldi/7.0.3495.6", "Vivaldi", "Windows"),
    (f"{NT}; Win64; x64; rv:145.0) Gecko/20100101 Firefox/145.0", "Firefox", "Windows"),
    (f"{NT}; WOW64; Trident/7.0; rv:11.0) like Gecko", "Internet Explorer", "Windows"),
    (f"{WINDOWS} Slack/4.40.128 Chrome/128.0 Electron/32.0.1", "Slack", "Windows"),
    (f"{MAC} {APPLE} Version/26.1 Safari/605.1.15", "Safari", "Mac"),
    (f"{MAC} {WEBKIT} Chrome/143.0.0.0 Safari/537.36", "Chrome", "Mac"),
    (f"{MAC[:-1]}; rv:145.0) Gecko/20100101 Firefox/145.0", "Firefox", "Mac"),
    (f"{LINUX} Chrome/143.0.0.0 Safari/537.36", "Chrome", "Linux"),
    (f"{LINUX} HeadlessChrome/143.0.0.0 Safari/537.36", "Chrome", "Linux"),
    (f"{X11}; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "Firefox", "Linux"),
    (f"{X11}; Ubuntu; Linux x86_64; rv:133.0) Gecko/20100101 Firefox/133.0", "Firefox", "Linux"),
    (f"{CROS} Chrome/143.0.0.0 Safari/537.36", "Chrome", "Chromebook"),
    (f"{IPHONE} Version/26.1 Mobile/15E148 Safari/604.1", "Safari", "iPhone"),
    (f"{IPHONE} Mobile/15E148", "Safari", "iPhone"),
    (f"{IPHONE} CriOS/143.0.7499.92 Mobile/15E148 Safari/604.1", "Chrome", "iPhone"),
    (f"{IPHONE} FxiOS/145.0 Mobile/15E148 Safari/605.1.15", "Firefox", "iPhone"),
    (f"{IPHONE} Version/17.0 EdgiOS/130.0.2849.80 Mobile/15E148 Safari/604.1", "Edge", "iPhone"),
    (f"{IPHONE} Version/18.1 Mobile/15E148 DuckDuckGo/7 Safari/605", "DuckDuckGo", "iPhone"),
    (f"{IPHONE} GSA/340.3.694 Mobile/15E148 Safari/604.1", "Google app", "iPhone"),
    (f"{IPHONE} Mobile/22B83 Instagram 356.0.0.26.100 (iPhone15,2; en)", "Instagram", "iPhone"),
    (f"{IPHONE} Mobile/22B83 [FBAN/FBIOS;FBAV/490.0.0.33.110;FBDV/iPhone]", "Facebook", "iPhone"),
    (f"{IPAD} Version/17.7 Mobile/15E148 Safari/604.1", "Safari", "iPad"),
    (f"{IPAD} CriOS/131.0.6778.73 Mobile/15E148 Safari/604.1", "Chrome", "iPad"),
    (CHROME_ON_ANDROID, "Chrome", "Android"),
    (f"{CHROME_ON_ANDROID} EdgA/143.0.0.0", "Edge", "Android"),
    (f"{CHROME_ON_ANDROID} OPR/86.0.0.0", "Opera", "Android"),
    (f"{ANDROID} SamsungBrowser/29.0 Chrome/136.0 Mobile", "Samsung Internet", "Android"),
    (f"{ANDROID} Chrome/143.0 Mobile DuckDuckGo/5 Safari/537.36", "DuckDuckGo", "Android"),
    ("Mozilla/5.0 (Android 15; Mobile; rv:145.0) Gecko/145.0 Firefox/145.0", "Firefox", "Android"),
    ("Opera/9.80 (Android; Opera Mini/36.2.2254/119.132; U) Presto/2.12", "Opera", "Android"),
    (f"{FIRE} Silk/120.4.1 like Chrome/120.0.6099.230 Safari/537.36", "Silk", "Fire tablet"),
]

PHONES = [
    ("Pixel 8", "Chrome on Pixel 8"),
    ("Pixel 8 Build/AP2A.240805.005; wv", "Chrome on Pixel 8"),
    ("moto g power (2022)", "Chrome on Motorola g power (2022)"),
    ("SM-S928B", "Chrome on Samsung Galaxy"),
    ("CPH2411", "Chrome on Oppo CPH2411"),
    ("M2102J20SG", "Chrome on Android"),
    ("HUAWEI", "Chrome on Android"),
    ("K", "Chrome on Android"),
]

SCREENS = [
    (f"Mozilla/5.0 (PlayStation; PlayStation 5/6.50) {APPLE}", "PlayStation 5", "console"),
    (f"Mozilla/5.0 (PlayStation 5 3.03/SmartTV) {APPLE}", "PlayStation 5", "console"),
    (f"Mozilla/5.0 (PlayStation 4 11.00) {APPLE}", "PlayStation 4", "console"),
    (f"{NT}; Win64; x64; Xbox; Xbox Series X) {WEBKIT} Chrome/131.0 Edge/44.1", "Xbox", "console"),
    (f"Mozilla/5.0 (Nintendo Switch; WifiWebAuthApplet) {APPLE}", "Nintendo Switch", "console"),
    (
        f"Mozilla/5.0 (SMART-TV; LINUX; Tizen 7.0) {WEBKIT} 94.0/7.0 TV Safari/537",
        "Samsung TV",
        "tv",
    ),
    (f"Mozilla/5.0 (Web0S; Linux/SmartTV) {WEBKIT} Chrome/94.0 Safari/537.36", "LG TV", "tv"),
    (f"Mozilla/5.0 (Linux; Android 12; BRAVIA 4K VH2) {WEBKIT} Chrome/120.0", "Sony TV", "tv"),
    (f"Mozilla/5.0 (Linux; Android 9; AFTMM; wv) {WEBKIT} Chrome/114.0 Mobile", "Fire TV", "tv"),
    (f"{X11}; Linux aarch64) {WEBKIT} Chrome/114.0 CrKey/1.56.500000", "Chromecast", "tv"),
    ("AppleTV14,1/17.1", "Apple TV", "tv"),
    ("Roku/DVP-12.5 (12.5.0.4178)", "Roku", "tv"),
]

PROGRAMS = [
    ("curl/8.5.0", "curl", "cli"),
    ("Wget/1.21.4", "Wget", "cli"),
    ("HTTPie/3.2.2", "HTTPie", "cli"),
    ("python-requests/2.32.3", "python-requests", "cli"),
    ("python-httpx/0.28.1", "python-httpx", "cli"),
    ("Python/3.11 aiohttp/3.10.5", "Python", "cli"),
    ("Python-urllib/3.11", "Python-urllib", "cli"),
    ("PostmanRuntime/7.49.0", "Postman", "cli"),
    ("Go-http-client/2.0", "Go program", "cli"),
    ("axios/1.7.7", "axios", "cli"),
    ("node", "Node.js", "cli"),
    ("Java/17.0.9", "Java program", "cli"),
    ("Mozilla/5.0 (Windows NT; Windows NT 10.0) WindowsPowerShell/5.1.22621", "PowerShell", "cli"),
    ("Mozilla/5.0 (Linux; Ubuntu 24.04) PowerShell/7.4.5", "PowerShell", "cli"),
    ("okhttp/4.12.0", "OkHttp app", "other"),
    ("Dart/3.5 (dart:io)", "Dart app", "other"),
    ("Dalvik/2.1.0 (Linux; U; Android 14; Pixel 8 Build/AP2A.240805.005)", "Android app", "mobile"),
    ("MyApp/1.0 CFNetwork/1568.100.1 Darwin/24.0.0", "MyApp on iOS", "mobile"),
    ("My%20App/42 CFNetwork/1498.700.2 Darwin/23.6.0", "My App on iOS", "mobile"),
    ("MyApp/42 CFNetwork/1498.700.2 Darwin/23.6.0 (x86_64)", "MyApp on Mac", "desktop"),
    ("MyApp/3.2 (iPhone; iOS 18.1; Scale/3.00)", "MyApp on iPhone", "mobile"),
    ("Acme-Sync/3.2", "Acme-Sync", "other"),
]

BOTS = [
    ("Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)", "Googlebot"),
    (
        f"{CHROME_ON_ANDROID} (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
        "Googlebot",
    ),
    (f"Mozilla/5.0 {WEBKIT[:-1]}; compatible; GPTBot/1.2; +https://openai.com/gptbot)", "GPTBot"),
    (f"{MAC} {APPLE} Version/17.4 Safari/605 (Applebot/0.1)", "Applebot"),
    ("Twitterbot/1.0", "Twitterbot"),
    ("Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)", "Slackbot-LinkExpanding"),
]

SILENT = [
    None,
    "",
    " ",
    "\0\0",
    "-",
    "Mozilla/5.0",
    "Mozilla/5.0 (compatible; Thing/1.0)",
    "/",
    "%00/1",
]

WINDOWS_VERSIONS = [
    ('"19.0.0"', "Windows 11"),
    ('"13.0.0"', "Windows 11"),
    ('"10.0.0"', "Windows 10"),
    ('"1.0.0"', "Windows 10"),
    ('"0.3.0"', "Windows"),
    ('"-13.0"', "Windows"),
    ('"²³.0"', "Windows"),
    ('"999999999999.0"', "Windows"),
    ('""', "Windows"),
    ("", "Windows"),
]

HOSTILE = [
    "<script>alert(1)</script>",
    "<script>alert(1)</script>/1.0 CFNetwork/1 Darwin/1",
    "%3Cscript%3E%00%0d%0aBcc:x%E2%80%AE/1 CFNetwork/1 Darwin/1",
    "https://evil.example/1.0 CFNetwork/1 Darwin/1",
    "evil.example/1.0 CFNetwork/1 Darwin/1",
    f"Mozilla/5.0 (Linux; Android 13; <b> evil.example\\1 $1) {WEBKIT} Chrome/1 Mobile Safari/1",
    "\u202egpj.exe\u2066 \ud800\udfff\ud800 \0\r\n\x1b[31m\x7f\x9b",
    "Chr\0ome/\ud83d\udca9 \u200b\ufeff\U000e0041",
    "A" * 16_384,
    "A" * 40 + "/1 CFNetwork/1 Darwin/1",
    ";" * 16_384,
    "; " * 8_192,
    "Mozilla/5.0 (Linux; Android 1; " * 1_000,
    "CFNetwork/(" * 2_000,
    "%25" * 5_000 + "/1",
    "a b-1_" * 3_000,
    "\\g<0>\\1\\",
    "{0}{name}%s%(name)s",
]


@pytest.mark.parametrize(("agent", "browser", "place"), BROWSERS)
def test_a_browser_is_called_what_its_owner_calls_it(agent, browser, place):
    assert devices.describe(agent) == (f"{browser} on {place}", browser, *SYSTEMS[place])


@pytest.mark.parametrize(("agent", "name", "system", "kind"), TODAY)
def test_a_device_of_today_is_called_what_its_owner_calls_it(agent, name, system, kind):
    device = devices.describe(agent)
    assert (device.name, device.os or "-", device.type) == (name, system, kind)


@pytest.mark.parametrize("agent", [each[0] for each in TODAY])
def test_an_update_is_no_new_device(agent):
    """Its owner would be mailed of a new one: the name changes with no version."""
    updated = re.sub(r"\d+(?=\.\d)", lambda found: str(int(found[0]) + 1), agent)
    assert devices.describe(updated) == devices.describe(agent)


@pytest.mark.parametrize(
    "agent",
    [
        f"{ANDROID} Chrome/143.0.0.0 Safari/537.36",
        f"Mozilla/5.0 (Linux; Android 13; SM-X906C) {WEBKIT} Chrome/120.0.0.0 Safari/537.36",
        "Mozilla/5.0 (Android 14; Tablet; rv:133.0) Gecko/133.0 Firefox/133.0",
    ],
)
def test_android_without_mobile_is_a_tablet(agent):
    device = devices.describe(agent)
    assert (device.os, device.type) == ("Android", "tablet")


def test_a_mac_app_that_shows_a_page_is_a_mac():
    assert devices.describe(f"{MAC} {APPLE}") == ("Mac", None, "macOS", "desktop")


@pytest.mark.parametrize(("model", "name"), PHONES)
def test_a_phone_is_named_by_its_model_only_if_that_says_something(model, name):
    agent = CHROME_ON_ANDROID.replace("K", model, 1)
    assert devices.describe(agent) == (name, "Chrome", "Android", "mobile")


@pytest.mark.parametrize(("agent", "name", "kind"), SCREENS)
def test_a_television_or_console_is_named_without_its_browser(agent, name, kind):
    device = devices.describe(agent)
    assert (device.name, device.browser, device.type) == (name, None, kind)


@pytest.mark.parametrize(("agent", "name", "kind"), PROGRAMS)
def test_a_program_is_named_by_its_product_token(agent, name, kind):
    device = devices.describe(agent)
    assert (device.name, device.type) == (name, kind)


@pytest.mark.parametrize(("agent", "name"), BOTS)
def test_a_bot_is_a_bot_whatever_it_imitates(agent, name):
    assert devices.describe(agent) == (name, name, None, "bot")


@pytest.mark.parametrize("agent", SILENT)
def test_an_agent_that_says_nothing_is_an_unknown_device(agent):
    assert devices.describe(agent) == ("Unknown device", None, None, "other")


@pytest.mark.parametrize(("version", "system"), WINDOWS_VERSIONS)
def test_the_hinted_platform_version_tells_windows_11_from_10(version, system):
    hints = {"sec-ch-ua-platform": '"Windows"', "sec-ch-ua-platform-version": version}
    device = devices.describe(CHROME_ON_WINDOWS, hints)
    assert (device.name, device.os) == ("Chrome on Windows", system)


def test_a_platform_version_of_another_system_is_no_windows():
    hints = {"sec-ch-ua-platform": '"macOS"', "sec-ch-ua-platform-version": '"15.1.0"'}
    assert devices.describe(CHROME_ON_WINDOWS, hints).os == "Windows"
    agent = f"{MAC} {WEBKIT} Chrome/143.0.0.0 Safari/537.36"
    assert devices.describe(agent, hints).os == "macOS"


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ('"Pixel 8"', "Chrome on Pixel 8"),
        ('"SM-S928B"', "Chrome on Samsung Galaxy"),
        ('"K"', "Chrome on Android"),
        ('""', "Chrome on Android"),
        ('"<img src=x>"', "Chrome on Android"),
        ('"); Googlebot/2.1"', "Chrome on Android"),
    ],
)
def test_the_hinted_model_replaces_the_reduced_one(model, name):
    device = devices.describe(CHROME_ON_ANDROID, {"sec-ch-ua-model": model})
    assert device == (name, "Chrome", "Android", "mobile")


@pytest.mark.parametrize(
    ("brands", "browser"),
    [
        ('"Brave";v="143", "Chromium";v="143", "Not A(Brand";v="24"', "Brave"),
        ('"Chromium";v="143", "Google Chrome";v="143", "Not A(Brand";v="24"', "Chrome"),
        ('"Chromium";v="143", "Your bank";v="143"', "Chrome"),
    ],
)
def test_the_brand_list_names_a_browser_that_poses_as_chrome(brands, browser):
    device = devices.describe(CHROME_ON_WINDOWS, {"sec-ch-ua": brands})
    assert (device.name, device.browser) == (f"{browser} on Windows", browser)


def test_a_newer_version_of_the_browser_is_the_same_device():
    newer = CHROME_ON_WINDOWS.replace("143", "167")
    assert devices.describe(newer) == devices.describe(CHROME_ON_WINDOWS)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_headers_make_a_harmless_name(text):
    for agent in (text, f"{CHROME_ON_ANDROID} {text}", f"Mozilla/5.0 ({text}"):
        assert_harmless(devices.describe(agent))
        assert_harmless(devices.describe(agent, dict.fromkeys(devices.HINTS, text)))
        assert_harmless(devices.describe(agent, dict.fromkeys(devices.HINTS, f'"{text}"')))


def test_a_random_agent_makes_a_harmless_name():
    chance = random.Random(17)
    pieces = [
        *" ;/().,_-%\\$<>\0\xad\u202e\ud800é漢",
        "Android 1",
        "Chrome/1",
        "Mobile",
        "bot",
        "K)",
    ]
    pieces += [
        "Mozilla/5.0 (",
        "Linux",
        "CFNetwork/1 (arm64",
        "Samsung",
        "Build/",
        "iPhone",
        "Watch1,2",
    ]
    for _ in range(300):
        assert_harmless(devices.describe("".join(chance.choices(pieces, k=chance.randint(1, 60)))))


def test_nothing_after_the_first_512_characters_is_read():
    start = "Mozilla/5.0 (".ljust(devices.MAX_USER_AGENT)
    assert devices.describe(f"{start}iPhone)").os is None
    assert devices.describe(f"{start[:-7]}iPhone)").os == "iOS"


@pytest.mark.parametrize("bomb", [";", "; ", "Android ", "%", "CFNetwork/("])
def test_a_megabyte_of_agent_costs_no_more_than_512_characters(bomb):
    text = bomb * (1_000_000 // len(bomb))
    start = time.process_time()
    devices.describe(text, dict.fromkeys(devices.HINTS, text))
    # Uncut, some take over 10 seconds; 2 leave room for a slow machine and the first import.
    assert time.process_time() - start < 2


def assert_harmless(device: devices.Device) -> None:
    types = {"desktop", "mobile", "tablet", "tv", "console", "bot", "cli", "other"}
    assert device.type in types
    for text in filter(None, (device.name, device.browser, device.os)):
        assert 0 < len(text) <= 64
        assert text.isprintable()
        assert not set(text) & set('<>&"./:@\\%{}$')
