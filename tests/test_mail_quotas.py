"""What strangers can make us send to a mailbox: little of it, and none of their own words."""

import uuid
from datetime import timedelta

import pytest

from authsite import email_changes, registrations, sessions
from authsite.mail import emails, outbox, quotas
from tests import factories

SWINDLE = "your parcel is held. Pay at https://evil.example or call 800-555-0101"


@pytest.fixture
def app(make_app, mailbox):
    app = make_app(MAIL_SERVER="127.0.0.1", MAIL_PORT=str(mailbox.port))
    with app.app_context():
        yield app


@pytest.fixture
def victim(app, time_machine):
    time_machine.move_to("2026-03-01T12:00:00Z", tick=False)
    return factories.account("victim@example.com", first_name=SWINDLE[:100])


def sign_in_again(victim, count: int, agent: str = "Call%20800-555-0101/{}") -> None:
    for number in range(count):
        factories.grant(victim, user_agent=agent.format(number))
    outbox.deliver()


def test_a_strangers_words_reach_nobodys_mailbox(victim, mailbox):
    """AP-22: they were subject and greeting of 39 mails in nine seconds."""
    agents = [
        "Call%20800-555-0101/{}",
        "Pay at https://evil.example now/{}",
        "evil.example/{}",
        "Your parcel is held call us today friend/{}",
        "Mozilla/5.0 (X; Pay 800 555 0101 at evil.example) {}",
        "<a href=evil.example>/{}",
    ]
    for agent in agents:
        sign_in_again(victim, 2, agent)
    assert len(mailbox.messages) == quotas.MOST_NEW_DEVICES + 1
    for index, message in enumerate(mailbox.messages):
        words = message["Subject"] + mailbox.text(index)
        html = message.get_body(("html",)).get_content()
        for text in (words, html):
            assert "parcel is held" not in text
            assert "evil.example" not in text
            assert "555" not in text
            assert "Pay at https" not in text
        assert mailbox.text(index).splitlines()[0] == "Hello,"
        assert "Hello,</p>" in html


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Chrome on Windows 11", "Chrome on Windows"),
        ("Samsung Internet on Samsung Galaxy", "Samsung Internet on Samsung Galaxy"),
        ("Safari on iPhone", "Safari on iPhone"),
        ("800-555-0101", "Unknown device"),
        ("evil.example", "evil example"),
        ("http://evil", "http evil"),
        ("Please call your bank at once on this number", "Please call on this number"),
        ("", "Unknown device"),
        ("x" * 64, "x" * 40),
        ("Caf\u00e9 on Pixel 9 Pro", "Caf\u00e9 on Pixel Pro"),
    ],
)
def test_a_devices_name_in_a_mail_is_a_few_words_of_letters(name, shown):
    """AP-22"""
    assert emails.device_label(name) == shown


def test_five_new_devices_a_day_are_mailed_then_one_summary_then_none(
    victim, mailbox, time_machine
):
    """AP-22"""
    sign_in_again(victim, 20)
    assert [each.partition(":")[0] for each in mailbox.subjects] == [
        *["New sign-in to authsite"] * 5,
        "More new sign-ins to authsite",
    ]
    assert outbox.depth() == 0
    time_machine.shift(timedelta(days=1, seconds=1))
    sign_in_again(victim, 1)
    assert mailbox.subjects[-1].startswith("New sign-in")


def test_ten_mails_of_all_kinds_a_day_go_to_an_address_that_nobody_has_proven(
    victim, mailbox, time_machine
):
    """AP-22"""
    for _ in range(12):
        outbox.queue(
            emails.token_reuse(victim.id, "curl", victim.created_at, session_id=uuid.UUID(int=7))
        )
    outbox.deliver()
    assert len(mailbox.messages) == quotas.MOST_TO_UNPROVEN
    assert outbox.depth() == 0
    other = factories.account("other@example.com")
    outbox.queue(
        emails.token_reuse(other.id, "curl", other.created_at, session_id=uuid.UUID(int=7))
    )
    outbox.deliver()
    assert mailbox.recipients[-1] == ["other@example.com"]
    time_machine.shift(timedelta(days=1, seconds=1))
    outbox.queue(
        emails.token_reuse(victim.id, "curl", victim.created_at, session_id=uuid.UUID(int=7))
    )
    outbox.deliver()
    assert mailbox.recipients[-1] == ["victim@example.com"]


def test_ten_it_is_however_many_ways_there_are_to_write_there(victim, mailbox, time_machine):
    """AP-22: what the account causes, and who types the address; each way had ten of its own."""
    reuse(victim, 4)
    for hour in range(4):
        eve = factories.account(f"eve{hour}@example.com")
        held = factories.grant(eve)
        session = sessions.resume_api(held.session_id, eve.id)
        for _ in range(2):
            assert email_changes.request(session, victim.email, ip_address=None)
            outbox.deliver()
        claim(victim.email)
        time_machine.shift(timedelta(hours=1, seconds=1))
    assert to(mailbox, victim) == quotas.MOST_TO_UNPROVEN
    reuse(victim, 1)
    assert to(mailbox, victim) == quotas.MOST_TO_UNPROVEN
    time_machine.shift(timedelta(days=1))
    reuse(victim, 1)
    assert to(mailbox, victim) == quotas.MOST_TO_UNPROVEN + 1
    assert outbox.depth() == 0


def reuse(account, times: int) -> None:
    for _ in range(times):
        mail = emails.token_reuse(
            account.id, "curl", account.created_at, session_id=uuid.UUID(int=7)
        )
        outbox.queue(mail)
    outbox.deliver()


def claim(email: str) -> None:
    by = {"device_name": "curl", "ip_address": None}
    registrations.claim(email=email, password="of nobody here", first_name="Eve", **by)
    outbox.deliver()


def to(mailbox, account) -> int:
    return sum(each == [account.email] for each in mailbox.recipients)


def test_a_mail_that_is_tried_again_counts_once(victim, mailbox, app, time_machine):
    sign_in_again(victim, 1)
    app.config["MAIL_PORT"], right = 1, app.config["MAIL_PORT"]
    for _ in range(quotas.MOST_NEW_DEVICES + 1):
        factories.grant(victim, user_agent="curl/8")
    for _ in range(4):
        outbox.deliver()
        time_machine.shift(timedelta(minutes=61))
    app.config["MAIL_PORT"] = right
    outbox.deliver()
    assert len(mailbox.messages) == quotas.MOST_NEW_DEVICES + 1
    assert sum(each.startswith("More new") for each in mailbox.subjects) == 1


def test_no_session_is_refused_for_the_mails_that_it_does_not_cause(victim):
    sign_in_again(victim, 12)
    assert len(sessions.active_for(victim.id)) == 12
