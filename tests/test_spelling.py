"""What people type and paste, whichever way it comes in, and how it is shown to them again."""

import re
import uuid

import pytest
from sqlalchemy import func, select

from authsite import accounts, clock, database, spelling, throttling
from authsite.database.models import User
from authsite.mail import emails
from tests import factories
from tests.api.conftest import V1, bearer, log_in, problem, register, try_login
from tests.factories import PASSWORD
from tests.pages.conftest import Browser, elements, summary, words

ASCII = "name@xn--bcher-kva.example"
READABLE = "name@bücher.example"
# Each is the address above to whoever reads it.
SPELLINGS = [
    ASCII,
    READABLE,
    "Name@BÜCHER.example",
    "NAME@XN--BCHER-KVA.EXAMPLE",
    "name@bu\u0308cher.example",
    f"\ufeff{READABLE}\u200b",
    f"\u202a\u200e{READABLE}\u202c\u00a0",
    f" {ASCII}\u2028",
]
# Each looks like an address that somebody else may have.
LOOK_ALIKES = [
    "name@b\uff55cher.example",
    "name@boo\u212a.example",
    "name@exam\u00adple.com",
    "name@exam\u200bple.com",
    "na\u200bme@example.com",
    "name@ex\u0430mple.com",
    "name@example\uff0ecom",
    "name@example\u3002com",
    "name@stra\u1e9ee.example",
    "\u212aate@example.com",
]
OWNERS = [
    "name@bucher.example",
    "name@book.example",
    "name@example.com",
    "name@strasse.example",
    "kate@example.com",
]


@pytest.fixture
def cli(app):
    return app.test_cli_runner()


@pytest.mark.parametrize("typed", SPELLINGS)
def test_every_spelling_of_an_address_is_one_address(typed):
    """AP-11"""
    assert spelling.canonical_email(typed) == ASCII
    assert spelling.canonical_email(ASCII) == ASCII
    assert spelling.readable_email(ASCII) == READABLE


def test_every_spelling_of_an_address_has_one_count_of_failures(app_context):
    """LT-08"""
    assert len({throttling.key_for(typed) for typed in SPELLINGS}) == 1


@pytest.mark.parametrize("typed", LOOK_ALIKES)
def test_what_only_looks_like_an_address_is_another(typed):
    """AP-11, RS-07: nothing that UTS 46 or NFKC would fold opens the account of what it looks like."""
    assert spelling.canonical_email(typed) not in OWNERS


@pytest.mark.parametrize("sharp", ["faß.example", "straße.example"])
def test_a_domain_is_never_spelled_as_another_that_can_be_registered(sharp):
    """RS-07: IDNA 2003 made faß and fass one."""
    found = spelling.canonical_email(f"name@{sharp}")
    assert found.startswith("name@xn--")
    assert spelling.readable_email(found) == f"name@{sharp}"


@pytest.mark.parametrize(
    "text", ["", "@", "name", "name@", "@ü", "@\ud800", "a@" + "ü" * 5000, "a@.ü", "a@xn--\0.ü"]
)
def test_text_that_is_no_address_stays_none(text):
    assert not re.fullmatch(r"[\x21-\x7e]+@[\x21-\x7e]+", spelling.canonical_email(text))


@pytest.mark.parametrize(
    "stored", ["name@xn--a.example", "name@xn--.example", "xn--", "a@b.example"]
)
def test_an_address_that_cannot_be_read_otherwise_is_shown_as_it_is_stored(stored):
    assert spelling.readable_email(stored) == stored


@pytest.mark.parametrize("typed", SPELLINGS)
def test_each_entrance_finds_the_account_under_each_spelling(app, client, cli, typed):
    """AP-11: JSON, OAuth, page and command."""
    assert register(client, READABLE)["email"] == ASCII
    assert try_login(client, typed).status_code == 200
    fields = {"username": typed, "password": PASSWORD, "grant_type": "password"}
    assert client.post(f"{V1}/auth/login/oauth", data=fields).status_code == 200
    assert Browser(app).try_sign_in(typed).status_code == 303
    for command in ("deactivate-user", "activate-user", "revoke-sessions", "set-password"):
        result = cli.invoke(args=[command, typed], input=f"{factories.NEW_PASSWORD}\n")
        assert result.exit_code == 0, result.output


@pytest.mark.parametrize("typed", SPELLINGS)
def test_no_entrance_makes_a_second_account_of_an_address(app, client, cli, typed):
    """AP-11"""
    register(client, ASCII)
    body = {"email": typed, "password": PASSWORD, "first_name": "Ada"}
    problem(client.post(f"{V1}/auth/register", json=body), 409, "email_taken")
    assert Browser(app).post("/register", **body).status_code == 422
    assert cli.invoke(args=["create-user", typed], input=f"{PASSWORD}\n").exit_code == 1
    with app.app_context():
        assert database.row(select(func.count()).select_from(User))[0] == 1


@pytest.mark.parametrize("typed", LOOK_ALIKES)
def test_no_entrance_takes_a_look_alike_for_an_account(app, client, cli, typed):
    """RS-07"""
    for owner in OWNERS:
        with app.app_context():
            factories.account(owner)
    assert try_login(client, typed).status_code in {401, 422}
    fields = {"username": typed, "password": PASSWORD}
    assert client.post(f"{V1}/auth/login/oauth", data=fields).status_code == 401
    assert Browser(app).try_sign_in(typed).status_code == 422
    assert cli.invoke(args=["deactivate-user", typed]).exit_code == 1
    with app.app_context():
        assert all(accounts.find_by_email(owner).is_active for owner in OWNERS)


def test_pages_show_the_address_as_its_owner_writes_it(app):
    browser = Browser(app)
    browser.register(ASCII)
    assert READABLE in words(browser.get("/account"))
    (username,) = elements(browser.get("/account/password"), "input", name="username")
    assert username["value"] == READABLE
    sent = browser.post("/forgot-password", email=ASCII)
    assert READABLE in words(sent)
    failed = Browser(app).try_sign_in(ASCII, "something else")
    assert elements(failed, "input", id="email")[0]["value"] == READABLE


def test_mails_show_the_address_as_its_owner_writes_it_and_go_where_the_post_goes(app_context):
    owner = factories.account(READABLE)
    mail = emails.token_reuse(owner.id, "curl", clock.now(), session_id=uuid.UUID(int=7))
    message = emails.compose(mail, email=owner.email, first_name="Ada")
    assert READABLE in message.body
    assert READABLE in message.html
    assert message.recipients == [ASCII]


@pytest.mark.parametrize(
    "name",
    [
        "می\u200cخواهم",  # Persian
        "श\u094d\u200dर",  # Hindi, half a letter
        "ශ්\u200dරී",  # Sinhala
        "അവന്\u200d",  # Malayalam, at the end of a word
        "👩\u200d👩\u200d👧 Ada",
        "🏳\ufe0f\u200d🌈",
        "👩🏽\u200d🚀",
        "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",
        "Zoë Nguyễn-O’Brien 王",
    ],
)
def test_what_spells_a_name_stays_in_it(client, name):
    register(client, first_name=name)
    held = bearer(log_in(client))
    assert client.get(f"{V1}/auth/me", headers=held).get_json()["first_name"] == name


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("A\u00adda", "Ada"),
        ("\u202eAda\u202c", "Ada"),
        ("A\u2067d\u2069a", "Ada"),
        ("\ufeffA\u200bda\u2060", "Ada"),
        ("Ada\u200d Byron\u200c", "Ada Byron"),
        ("\u200dAda", "Ada"),
        ("می\u200c\u200c\u200eخواهم", "می\u200cخواهم"),
        ("Ada\tByron\r\nKing\u2028", "Ada Byron King"),
        ("Ada\u00a0\u3000King", "Ada King"),
        ("Ada\U000e0041\U000e0042", "Ada"),
        ("\u3164Ada\u2800", "Ada"),
    ],
)
def test_what_nobody_sees_leaves_no_trace_in_a_name(app, client, typed, kept):
    """PG-14: nothing turns the words round that follow, on a page or in a mail."""
    register(client, first_name=typed, last_name=typed)
    held = bearer(log_in(client))
    account = client.get(f"{V1}/auth/me", headers=held).get_json()
    assert (account["first_name"], account["last_name"]) == (kept, kept)
    browser = Browser(app)
    browser.sign_in()
    browser.post("/account", first_name=typed)
    assert elements(browser.get("/account"), "input", id="first_name")[0]["value"] == kept


@pytest.mark.parametrize(
    "blank", ["\u200b", "\u3164\u2800", "\u200d\u200d", "\ufe0f", "\u00ad \u2028"]
)
def test_a_name_that_nobody_can_see_is_none(app, client, blank):
    body = {"email": "ada@example.com", "password": PASSWORD, "first_name": blank}
    answer = client.post(f"{V1}/auth/register", json=body)
    found = problem(answer, 422, "validation_error", "Enter your first name")
    assert [each["field"] for each in found["errors"]] == ["first_name"]
    page = Browser(app).post("/register", **body)
    assert summary(page) == [("first_name", "Enter your first name")]


@pytest.mark.parametrize(
    ("typed", "stored", "shown"),
    [
        ("+44 20 7946 0958", "+442079460958", "+44 20 7946 0958"),
        ("+44 (0)20 7946-0958", "+442079460958", "+44 20 7946 0958"),
        ("(+44) 20.7946.0958", "+442079460958", "+44 20 7946 0958"),
        ("0044 20/79460958", "+442079460958", "+44 20 7946 0958"),
        ("\u202a+44\u00a020\u20117946\u20110958\u202c", "+442079460958", "+44 20 7946 0958"),
        ("\uff0b\uff14\uff14 20 7946 0958", "+442079460958", "+44 20 7946 0958"),
        ("+1 (415) 555\u20132671", "+14155552671", "+1 415-555-2671"),
        ("+39 06 698 12345", "+390669812345", "+39 06 6981 2345"),
        ("+\u0664\u0664 20 7946 0958", "+442079460958", "+44 20 7946 0958"),
        ("020 7946 0958", "02079460958", "02079460958"),
        (" \u200e", None, ""),
    ],
)
def test_a_phone_number_is_kept_as_it_is_dialled_and_shown_as_it_is_read(
    app, client, typed, stored, shown
):
    assert register(client, phone_number=typed)["phone_number"] == stored
    held = bearer(log_in(client))
    changed = client.patch(f"{V1}/users/me", json={"phone_number": typed}, headers=held)
    assert changed.get_json()["phone_number"] == stored
    browser = Browser(app)
    browser.sign_in()
    assert elements(browser.get("/account"), "input", id="phone_number")[0]["value"] == shown
    browser.post("/account", first_name="Ada", phone_number=shown)
    again = client.get(f"{V1}/auth/me", headers=held).get_json()
    assert again["phone_number"] == stored


@pytest.mark.parametrize(
    "typed",
    ["012", "911", "+", "+44", "+44 20", "+012 345 6789", "+999 123 4567", "++442079460958", "call me",
     "+44 20 7946 0958 x5", "1" * 16, "+" + "1" * 16, "+44 20 7946 0958\n+44 20 7946 0959"],
)  # fmt: skip
def test_what_cannot_be_dialled_is_no_phone_number(app, client, typed):
    register(client)
    held = bearer(log_in(client))
    refused = client.patch(f"{V1}/users/me", json={"phone_number": typed}, headers=held)
    found = problem(refused, 422, "validation_error")
    assert [each["field"] for each in found["errors"]] == ["phone_number"]
    browser = Browser(app)
    browser.sign_in()
    page = browser.post("/account", first_name="Ada", phone_number=typed)
    assert page.status_code == 422
    assert client.get(f"{V1}/auth/me", headers=held).get_json()["phone_number"] is None


@pytest.mark.parametrize("shorten", [spelling.canonical_email, spelling.one_line, spelling.trimmed])
def test_a_body_of_any_length_is_looked_through_once(shorten):
    """AP-21: normalising takes the square of its input; as much as a body holds is never normalised."""
    for each in ("\u0300\u0316", "\u200b", "a\u200d", "ü@", "\u202e"):
        text = each * (60_000 // len(each))
        assert len(shorten(text)) <= len(text)
