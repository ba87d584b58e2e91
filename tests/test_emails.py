"""The mails: their words, and what no name or address can make of them."""

import re
import uuid
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from uuid import uuid4

import pytest

from authsite import clock, database, passwords, sessions
from authsite.crypto import tokens
from authsite.mail import emails, outbox
from tests import factories, services

NOON = datetime(2026, 3, 1, 12, 4, tzinfo=UTC)
BASE = "https://accounts.example.com"
USER = uuid4()
SESSION = {
    "location_city": "London",
    "location_country": "United Kingdom",
    "device_name": "Chrome on Windows",
    "ip_address": "203.0.113.7",
    "created_at": NOON,
    "id": uuid.UUID(int=7),
}


def _password_changed(signed_out, *, has_kept_own=True, device_name="Chrome on Windows"):
    return emails.password_changed(
        USER,
        changed_at=NOON,
        device_name=device_name,
        ip_address=device_name and "203.0.113.7",
        signed_out=signed_out,
        has_kept_own=has_kept_own,
    )


def _changed(what, *, device_name="Chrome on Windows", ip_address="203.0.113.7"):
    by = {"device_name": device_name, "ip_address": ip_address}
    session_id = device_name and uuid.UUID(int=7)
    return emails.second_step_changed(USER, what=what, changed_at=NOON, session_id=session_id, **by)


def _passkey(what, *, device_name="Chrome on Windows", ip_address="203.0.113.7"):
    by = {"device_name": device_name, "ip_address": ip_address}
    session_id = device_name and uuid.UUID(int=7)
    named = {"name": "My phone", "session_id": session_id}
    return emails.passkey_changed(USER, what=what, changed_at=NOON, **named, **by)


def _reset(after=None):
    return emails.password_reset(
        USER,
        reset_id="the-id-of-the-request",
        requested_at=NOON,
        expires_at=NOON + timedelta(hours=1),
        device_name=None if after == "operator" else "Chrome on Windows",
        ip_address=None if after == "operator" else "203.0.113.7",
        after=after,
    )


def _signed_out(*, has_kept_own):
    return emails.signed_out(
        USER,
        count=2,
        has_kept_own=has_kept_own,
        session_id=uuid.UUID(int=7),
        device_name="Chrome on Windows",
        ip_address="203.0.113.7",
        ended_at=NOON,
    )


MAILS = {
    "password_reset": _reset,
    "reset after one device was reported": lambda: _reset("one"),
    "reset after everything was": lambda: _reset("everything"),
    "reset after an undone change": lambda: _reset("undo"),
    "reset by an operator": lambda: _reset("operator"),
    "password_changed": lambda: _password_changed(2),
    "changed by an operator": lambda: _password_changed(3, has_kept_own=False, device_name=None),
    "new_device": lambda: emails.new_device(USER, SESSION),
    "new_devices": lambda: emails.new_device(USER, SESSION)._replace(name="new_devices"),
    "verify_email": lambda: emails.verify_email(USER, requested_at=NOON),
    "registration": lambda: emails.registration(
        "the-id-of-the-claim",
        requested_at=NOON,
        device_name="Chrome on Windows",
        ip_address="203.0.113.7",
    ),
    "already_registered": lambda: MAILS["registration"]()._replace(name="already_registered"),
    "token_reuse": lambda: emails.token_reuse(
        USER, "Chrome on Windows", NOON, session_id=uuid.UUID(int=7)
    ),
    "data_exported": lambda: emails.data_exported(
        USER,
        exported_at=NOON,
        session_id=uuid.UUID(int=7),
        device_name="Chrome on Windows",
        ip_address="203.0.113.7",
    ),
    "exported by an operator": lambda: emails.data_exported(
        USER, exported_at=NOON, session_id=None, device_name=None, ip_address=None
    ),
    "second step on": lambda: _changed("on"),
    "second step off": lambda: _changed("off", device_name=None, ip_address=None),
    "app added": lambda: _changed("app_added"),
    "app replaced": lambda: _changed("app_replaced"),
    "app removed": lambda: _changed("app_removed"),
    "app changed, by the release before": lambda: _changed("app"),
    "codes changed": lambda: _changed("codes"),
    "codes gone": lambda: _changed("gone"),
    "recovery_code_used": lambda: emails.recovery_code_used(
        USER,
        left=1,
        used_at=NOON,
        session_id=uuid.UUID(int=7),
        device_name="Chrome on Windows",
        ip_address="203.0.113.7",
    ),
    "test": emails.test,
    "passkey added": lambda: _passkey("added"),
    "passkey removed": lambda: _passkey("removed"),
    "passkey removed by an operator": lambda: _passkey(
        "removed", device_name=None, ip_address=None
    ),
    "password_known": lambda: emails.password_known(
        USER, tried_at=NOON, device_name="Chrome on Windows", ip_address="203.0.113.7"
    ),
    "key_not_proven": lambda: emails.key_not_proven(
        USER,
        bound_name="Chrome on Windows",
        used_at=NOON,
        device_name="Firefox on Linux",
        ip_address="203.0.113.7",
    ),
    "signed_out": lambda: _signed_out(has_kept_own=True),
    "signed_out with itself": lambda: _signed_out(has_kept_own=False),
}
# What reports an act of a session, and can be answered "this wasn't me".
OF_A_SESSION = {
    "data_exported",
    "new_device",
    "new_devices",
    "signed_out",
    "signed_out with itself",
    "second step on",
    "app added",
    "app replaced",
    "app removed",
    "app changed, by the release before",
    "codes changed",
    "codes gone",
    "recovery_code_used",
    "passkey added",
    "passkey removed",
}
WITH_LINK = OF_A_SESSION | {
    "password_changed",
    "changed by an operator",
    "token_reuse",
    "reset after one device was reported",
    "reset after everything was",
    "reset after an undone change",
    "reset by an operator",
    "registration",
    "password_reset",
    "verify_email",
}
SUBJECTS = {
    "second step on": "Two-step sign-in is on for Acme Notes",
    "second step off": "Two-step sign-in was turned off for Acme Notes",
    **dict.fromkeys(
        (
            *("app added", "app replaced", "app removed", "app changed, by the release before"),
            *("codes changed", "codes gone"),
        ),
        "Your second step for Acme Notes was changed",
    ),
    "recovery_code_used": "A recovery code was used for Acme Notes",
    "key_not_proven": "Was your sign-in to Acme Notes copied?",
    "test": "Test email from Acme Notes",
    "passkey added": "New passkey for Acme Notes: My phone",
    "passkey removed": "Passkey removed from Acme Notes",
    "passkey removed by an operator": "Passkey removed from Acme Notes",
    "password_known": "Somebody knows your Acme Notes password",
    "password_reset": "Reset your Acme Notes password",
    "reset after one device was reported": "Reset your Acme Notes password",
    "reset after everything was": "Reset your Acme Notes password",
    "reset after an undone change": "Reset your Acme Notes password",
    "reset by an operator": "Reset your Acme Notes password",
    "password_changed": "Your Acme Notes password was changed",
    "changed by an operator": "Your Acme Notes password was changed",
    "new_device": "New sign-in to Acme Notes: Chrome on Windows",
    "new_devices": "More new sign-ins to Acme Notes",
    "verify_email": "Confirm your email address for Acme Notes",
    "signed_out with itself": "Devices of your Acme Notes account were signed out",
    "signed_out": "Devices of your Acme Notes account were signed out",
    "registration": "Finish creating your Acme Notes account",
    "already_registered": "You already have an account at Acme Notes",
    "data_exported": "Your Acme Notes data was downloaded",
    "exported by an operator": "Your Acme Notes data was downloaded",
    "token_reuse": "Acme Notes signed out a device for your safety",
}
HOSTILE = [
    '<a href="https://evil.example">Click</a>',
    "<script>alert(1)</script>",
    '"><img src=https://evil.example/x>',
    "'; onload=alert(1)",
    "{{ 7 * 7 }}{% raw %}",
    "&amp; &lt;b&gt;",
    "https://evil.example/",
]
HEADERS = ["Ada\r\nBcc: evil@example.com", "Ada\nSubject: other", "Ada\r\n\r\nbody", "Ada\x00\x1b"]


@pytest.fixture
def database_url(sqlite_url):
    """One database is enough: words do not depend on it."""
    return sqlite_url


@pytest.fixture(autouse=True)
def _acme(make_app):
    app = make_app(SITE_NAME="Acme Notes", PUBLIC_BASE_URL=f"{BASE}/")
    with app.app_context():
        yield


def compose(mail: emails.Mail, *, email: str = "ada@example.com", first_name: str = "Ada"):
    return emails.compose(mail, email=email, first_name=first_name)


class Words(HTMLParser):
    """The words that a reader of the HTML part sees, its links, and its elements."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.links: list[str] = []
        self.elements: list[tuple[str, dict]] = []
        self._hidden = 0
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._hidden += tag in {"title", "style", "head"}
        if tag == "a":
            self.links.append(dict(attrs)["href"])

    def handle_endtag(self, tag):
        self._hidden -= tag in {"title", "style", "head"}

    def handle_data(self, data):
        if not self._hidden:
            self.words += data.split()


@pytest.mark.parametrize("name", MAILS)
def test_the_subject_says_what_happened(name):
    assert compose(MAILS[name]()).subject == SUBJECTS[name]


@pytest.mark.parametrize("name", MAILS)
def test_the_subject_has_at_most_60_characters(make_app, name):
    """However long the name of the site or of the device is."""
    with make_app(SITE_NAME="The Association of Very Long Names " * 3).app_context():
        subject = compose(MAILS[name]()).subject
    device = compose(emails.new_device(USER, SESSION | {"device_name": "word " * 20})).subject

    assert 0 < len(device) <= 60
    assert 0 < len(subject) <= 60
    assert subject.endswith("…")


BUTTONS = (
    "Choose a new password",
    "Reset your password",
    "Check your devices",
    "Confirm your email address",
    "Finish creating your account",
    "Sign in",
)


@pytest.mark.parametrize("name", MAILS)
def test_text_and_html_say_the_same(name):
    """Beside the button, which repeats its link, and the words before the bare one."""
    message = compose(MAILS[name]())
    html = Words(message.html)
    said = " ".join(html.words)
    for button in BUTTONS:
        said = re.sub(rf"(?<=[:,] ){button} (?=Or open this link: )", "", said)
    said = said.replace("Or open this link: ", "")
    said = re.sub(r" ([,.:])", r"\1", said)

    assert said == " ".join(message.body.split())


CORE = {
    "second step on": [
        "A second step, such as a code, is now asked for",
        "can turn two-step sign-in off.",
    ],
    "second step off": [
        "its password alone signs in",
        "An operator of Acme Notes did it",
        "Every device was signed out.",
        "Did you not ask for this? Reset your password",
    ],
    "app added": ["An authenticator app was added", "can turn two-step sign-in off."],
    "app replaced": ["was replaced by another.", "can turn two-step sign-in off."],
    "app removed": ["ada@example.com, was removed. Its codes no longer work."],
    "app changed, by the release before": ["The authenticator app", "was changed"],
    "codes gone": ["The recovery codes", "no longer work."],
    "codes changed": [
        "New recovery codes were made",
        "The old ones no longer work",
        "sign in and make new codes",
    ],
    "recovery_code_used": ["A recovery code was used", "1 is left"],
    "key_not_proven": [
        "Sign-in of: Chrome on Windows",
        "Used by: Firefox on Linux",
        "203.0.113.7",
        "1 March 2026, 12:04 UTC",
        "Your computer stays signed in.",
        f"{BASE}/account/devices",
        f"{BASE}/forgot-password",
    ],
    "test": ["An operator of Acme Notes", "ada@example.com", "There is nothing to do."],
    "passkey added": ["A passkey was added", "My phone", "remove the passkey"],
    "passkey removed": ["A passkey was removed", "cannot sign in any more", "My phone"],
    "passkey removed by an operator": ["An operator of Acme Notes did it", "My phone"],
    "password_known": ["the right password", "wrong codes, which let nobody in."],
    "password_reset": [
        "Hello Ada,",
        "ada@example.com",
        "It works once and until 13:04 UTC (60 minutes).",
        "Chrome on Windows",
        "203.0.113.7",
        "1 March 2026, 12:04 UTC",
        "If it was not you, ignore this email. Your password has not changed.",
    ],
    "reset after one device was reported": [
        "“This wasn’t me” was reported to us",
        "only browsers that you have used before can sign in",
    ],
    "reset after an undone change": [
        "the change of your email address was undone",
        "Every device is signed out",
    ],
    "reset by an operator": [
        "An operator of Acme Notes sent you this link.",
        "If you do not need it, ignore this email.",
    ],
    "reset after everything was": ["Every device is signed out", "no longer works."],
    "password_changed": [
        "1 March 2026, 12:04 UTC",
        "Chrome on Windows",
        "203.0.113.7",
        "2 other devices were signed out.",
        "Not you? Reset it now:",
        f"{BASE}/forgot-password",
    ],
    "changed by an operator": ["by an operator", "3 devices were signed out."],
    "new_device": [
        "Chrome on Windows",
        "203.0.113.7",
        "London, United Kingdom",
        "1 March 2026, 12:04 UTC",
        "If this was you, do nothing.",
        f"{BASE}/forgot-password",
        f"{BASE}/account/devices",
    ],
    "new_devices": ["This was the latest:", "Chrome on Windows", f"{BASE}/account/devices"],
    "verify_email": [
        f"{BASE}/verify-email?token=",
        "(24 hours)",
        "Not your account? Reset its password",
        f"{BASE}/forgot-password",
    ],
    "signed_out with itself": ["This device was signed out too.", "Say here that it was not you."],
    "signed_out": [
        "2 other devices were signed out of your Acme Notes account",
        "Chrome on Windows",
        "203.0.113.7",
        "This device stays signed in.",
        f"{BASE}/forgot-password",
    ],
    "registration": [
        f"{BASE}/register/confirm?token=",
        "It works once and until 2 March 2026, 12:04 UTC (24 hours).",
        "Chrome on Windows",
        "203.0.113.7",
        "No account exists.",
    ],
    "already_registered": [
        "Chrome on Windows",
        "203.0.113.7",
        f"{BASE}/login",
        f"{BASE}/forgot-password",
        "If it was not you, do nothing.",
    ],
    "data_exported": [
        "Chrome on Windows",
        "203.0.113.7",
        "1 March 2026, 12:04 UTC",
        "has downloaded all data in it",
        "If not, sign that device out here.",
        f"{BASE}/not-me?token=",
        f"{BASE}/forgot-password",
    ],
    "exported by an operator": ["An operator of Acme Notes has made a copy of all data"],
    "token_reuse": [
        "Chrome on Windows",
        "1 March 2026, 12:04 UTC",
        "What it means:",
        "What to do:",
        f"{BASE}/account/devices",
    ],
}


@pytest.mark.parametrize("name", MAILS)
def test_a_mail_says_what_its_reader_needs(name):
    body = compose(MAILS[name]()).body

    for words in CORE[name]:
        assert words in body


@pytest.mark.parametrize(
    ("signed_out", "has_kept_own", "sentence"),
    [
        (0, True, "No other device was signed in."),
        (1, True, "One other device was signed out."),
        (0, False, "No device was signed in."),
        (1, False, "One device was signed out."),
        (2, False, "2 devices were signed out."),
    ],
)
def test_a_change_of_the_password_says_how_many_devices_it_signed_out(
    signed_out, has_kept_own, sentence
):
    """None of those that there were not, and after a reset not all but one."""
    assert sentence in compose(_password_changed(signed_out, has_kept_own=has_kept_own)).body


def test_a_notice_that_the_release_before_queued_says_nothing_of_devices():
    """It does not know how many there were."""
    mail = _password_changed(2)
    for name in ("signed_out", "has_kept_own"):
        del mail.facts[name]

    assert not re.search("signed (in|out)\\.", compose(mail).body)


@pytest.mark.parametrize("name", MAILS)
def test_what_is_not_known_is_not_spoken_of(name):
    """No "None", no empty line of a list."""
    mail = MAILS[name]()
    unknown = {"ip_address": None, "place": None}
    facts = mail.facts | {key: unknown[key] for key in unknown if key in mail.facts}
    message = compose(mail._replace(facts=facts))

    for words in (message.body, " ".join(Words(message.html).words)):
        assert "None" not in words
        assert "IP address" not in words
        assert "Place" not in words


@pytest.mark.parametrize("name", MAILS)
def test_machines_are_told_not_to_answer(name):
    """RFC 3834: out-of-office notes would go round in circles."""
    message = compose(MAILS[name]())

    assert message.extra_headers["Auto-Submitted"] == "auto-generated"
    assert message.recipients == ["ada@example.com"]
    assert message.sender == '"Acme Notes" <no-reply@accounts.example.com>'
    assert not message.cc
    assert not message.bcc


@pytest.mark.parametrize("name", MAILS)
def test_every_link_leads_to_this_service(name):
    """RS-05: made of PUBLIC_BASE_URL, whatever the request of it said."""
    message = compose(MAILS[name]())
    in_text = re.findall(r"\w+://\S+", message.body)
    in_html = Words(message.html).links

    assert set(in_text) == set(in_html)
    assert all(each == BASE or each.startswith(f"{BASE}/") for each in in_text)


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"X-Forwarded-Host": "evil.example"},
        {"Forwarded": "host=evil.example"},
        {"Origin": "https://evil.example", "Referer": "https://evil.example/"},
    ],
)
def test_no_request_can_change_where_the_link_leads(make_app, headers):
    """RS-05: the host of the request that asked does not reach the mail."""
    with (
        services.Mailbox() as mailbox,
        (
            app := make_app(
                PUBLIC_BASE_URL=BASE, MAIL_SERVER=services.HOST, MAIL_PORT=str(mailbox.port)
            )
        ).app_context(),
    ):
        factories.account()
        app.test_client().post(
            "/api/v1/auth/password-reset/request",
            json={"email": "ada@example.com"},
            headers=headers,
        )
        outbox.deliver()

    assert mailbox.link().startswith(f"{BASE}/reset-password?token=")
    assert "evil.example" not in mailbox.messages[0].as_string()


def test_the_link_of_a_reset_stands_alone_on_its_line_and_works():
    """RS-08."""
    ada = factories.account()
    passwords.request_reset(ada.email, device_name="curl", ip_address=None)
    [row] = database.rows(database.db.metadata.tables["outgoing_mails"].select())
    message = compose(emails.Mail(ada.id, row.name, row.facts))
    [line] = [line for line in message.body.splitlines() if "token=" in line]
    prefix, token = line.split("token=")

    assert prefix == f"{BASE}/reset-password?"
    assert re.fullmatch(r"[\w.-]+", token)
    assert passwords.find_reset(token)[1] == ada


def test_no_other_mail_holds_a_token():
    """RS-01, LG-01."""
    for name in MAILS.keys() - WITH_LINK:
        message = compose(MAILS[name]())
        assert "token=" not in message.body + message.html


@pytest.mark.parametrize("name", OF_A_SESSION)
def test_what_a_session_did_can_be_answered_with_this_was_not_me(name):
    """LIFE 6: the link names the session that acted; who reads the mail need not sign in."""
    token = re.search(rf"{BASE}/not-me\?token=(\S+)", compose(MAILS[name]()).body)[1]

    reported = tokens.unsign("not_me", token, max_age=emails.NOT_ME_LIFETIME)
    assert reported == f"session:{USER}:{uuid.UUID(int=7)}"


@pytest.mark.parametrize("name", OF_A_SESSION)
def test_a_mail_that_the_release_before_queued_has_no_such_link(name):
    """It does not name the session, as nothing does that was done by a link without signing in."""
    mail = MAILS[name]()
    del mail.facts["session_id"]

    message = compose(mail)
    assert "token=" not in message.body + message.html
    assert "sign that device out" not in message.body
    assert "\nThen " not in message.body, "it tells of nothing to do before"
    assert f"{BASE}/forgot-password" in message.body


@pytest.mark.parametrize("after", ["one", "everything", "undo"])
def test_nobody_is_told_to_ignore_a_reset_that_something_else_made_necessary(after):
    """Nor that the password has not changed, when it no longer works."""
    body = compose(_reset(after)).body

    assert "ignore" not in body
    assert "has not changed" not in body


@pytest.mark.parametrize(
    ("after", "is_told"),
    [("one", True), ("everything", True), ("undo", True), (None, False), ("operator", False)],
)
def test_whoever_had_a_stranger_in_is_told_to_look_for_what_he_left(after, is_told):
    """RS-13: a passkey that was added long before is nobody's to remove but its owner's."""
    message = compose(_reset(after))

    for text in (message.body, message.html):
        assert (f"{BASE}/account/security" in text) == is_told
        assert ("remove what you do not know" in text) == is_told


def test_the_link_is_signed_at_the_time_it_is_sent():
    """RS-01: the queue holds the request's id, which opens nothing by itself."""
    mail = MAILS["password_reset"]()

    assert "link" not in mail.facts
    link = re.search(r"token=(\S+)", compose(mail).body)[1]
    named = tokens.read_reset_link(link, max_age=timedelta(hours=1))
    assert named == (mail.user_id, "the-id-of-the-request")


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("name", MAILS)
def test_nothing_that_a_client_wrote_is_live_in_html(name, text):
    """PG-14, RS-13: names of people and devices, addresses, places."""
    mail = MAILS[name]()
    typed = [key for key in ("device_name", "ip_address", "place") if mail.facts.get(key)]
    hostile = mail._replace(facts=mail.facts | dict.fromkeys(typed, text))
    message = compose(hostile, first_name=text, email=text)
    plain, html = Words(compose(mail).html), Words(message.html)

    assert [tag for tag, _ in html.elements] == [tag for tag, _ in plain.elements]
    assert not any("evil.example" in str(attributes) for _, attributes in html.elements)
    assert not any(
        attribute.startswith("on") for _, attributes in html.elements for attribute in attributes
    )
    shown = " ".join(text.split())
    assert shown in " ".join(message.body.split())
    assert shown in " ".join(html.words)


@pytest.mark.parametrize("name", MAILS)
def test_html_has_no_script_no_form_and_nothing_remote(name):
    """No tracking: only links that a reader follows."""
    elements = Words(compose(MAILS[name]()).html).elements
    tags = {tag for tag, _ in elements}

    assert not tags & {"script", "img", "iframe", "form", "input", "object", "link", "video", "svg"}
    assert not any("url(" in (attributes.get("style") or "") for _, attributes in elements)
    assert not any({"src", "background"} & attributes.keys() for _, attributes in elements)


@pytest.mark.parametrize("text", HEADERS)
@pytest.mark.parametrize("name", ["new_device", "password_reset"])
def test_no_name_adds_a_header(make_app, name, text):
    """RS-13: seen by the server that receives it."""
    with (
        services.Mailbox() as mailbox,
        make_app(MAIL_SERVER=services.HOST, MAIL_PORT=str(mailbox.port)).app_context(),
    ):
        # NUL cannot be stored; it and the rest of them are refused by the forms before they come here.
        ada = factories.account(first_name=text.replace("\x00", ""))
        if name == "new_device":
            with database.transaction():
                session = SESSION | {"device_name": text.replace("\x00", "")}
                outbox.queue(emails.new_device(ada.id, session))
        else:
            passwords.request_reset(ada.email, device_name=text[:3], ip_address=None)
        assert outbox.deliver() == (1, 0)

    [message] = mailbox.messages
    assert mailbox.recipients == [["ada@example.com"]]
    assert "Bcc" not in message
    assert len(message.get_all("Subject")) == 1
    assert len(message["Subject"].splitlines()) == 1
    assert set(message.keys()) == {
        *("Content-Type", "MIME-Version", "Subject", "From", "To", "Date", "Message-ID"),
        *("Auto-Submitted", "X-Auto-Response-Suppress"),
    }


def test_what_arrives_has_both_parts_and_any_letters(make_app):
    """As the receiving server sees it: UTF-8 in text, HTML and subject."""
    with (
        services.Mailbox() as mailbox,
        make_app(
            SITE_NAME="Café Nötes", MAIL_SERVER=services.HOST, MAIL_PORT=str(mailbox.port)
        ).app_context(),
    ):
        ada = factories.account(first_name="Zoë 🐌 漢字", is_verified=True)
        factories.grant(ada)
        with database.transaction():
            outbox.queue(
                emails.token_reuse(ada.id, "Ордината", clock.now(), session_id=uuid.UUID(int=7))
            )
        outbox.deliver()

    [message] = mailbox.messages
    assert message["Subject"] == "Café Nötes signed out a device for your safety"
    assert message["Auto-Submitted"] == "auto-generated"
    assert "multipart/alternative" in [part.get_content_type() for part in message.walk()]
    for kind in ("plain", "html"):
        part = message.get_body((kind,)).get_content()
        assert "Café Nötes" in part
        assert "Ордината" in part


def test_a_new_device_is_told_with_the_facts_of_its_session(make_app):
    """LT-16."""
    with (
        services.Mailbox() as mailbox,
        make_app(MAIL_SERVER=services.HOST, MAIL_PORT=str(mailbox.port)).app_context(),
    ):
        ada = factories.account()
        factories.grant(ada, user_agent="curl/8")
        held = factories.grant(
            ada, user_agent="Wget/1.21", ip_address="198.51.100.9", city="Paris", country="France"
        )
        outbox.deliver()
        name = sessions.find_own(ada.id, held.session_id).device_name

    assert name in mailbox.subjects[0]
    for fact in (name, "198.51.100.9", "Paris, France (approximate)"):
        assert fact in mailbox.text()


@pytest.mark.parametrize(
    "name", ["second step off", "exported by an operator", "passkey removed by an operator"]
)
def test_whoever_did_not_ask_for_an_operators_act_is_told_what_can_be_done(make_app, name):
    """Whom to write to where that is known; the reset helps in any case."""
    assert "Did you not ask for this? Reset your password" in compose(MAILS[name]()).body
    app = make_app(SITE_NAME="Acme Notes", SUPPORT_EMAIL="help@acme.example")
    with app.app_context():
        body = compose(MAILS[name]()).body
    assert "Did you not ask for this? Write to help@acme.example. Reset your password" in body


def test_an_address_that_an_operator_has_changed_is_the_operators_to_change_back(make_app):
    by_operator = emails.email_is_now(USER, changed_at=NOON)
    assert "Only the operator of Acme Notes can change it back." in compose(by_operator).body
    for named in (
        {"SUPPORT_EMAIL": "help@acme.example", "MAIL_DEFAULT_SENDER": "hello@acme.example"},
        {"MAIL_DEFAULT_SENDER": "help@acme.example"},
    ):
        with make_app(SITE_NAME="Acme Notes", **named).app_context():
            assert "ask for this? Write to help@acme.example." in compose(by_operator).body


def test_the_name_of_the_site_needs_no_article():
    text = compose(MAILS["verify_email"]()).body
    assert "There is an account at Acme Notes with the address ada@example.com." in text
