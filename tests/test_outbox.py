"""The outbox: a mail is a row of its operation and leaves after it, once, over a verified connection."""

import contextlib
import logging
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
import uuid
from base64 import b64decode
from datetime import UTC, datetime, timedelta

import pytest
import requests
import trustme
from flask import current_app
from sqlalchemy import select, true, update

from authsite import accounts, clock, database, outboxes, passwords
from authsite.database.models import OutgoingMail
from authsite.mail import emails, outbox, sending
from tests import factories, services

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MAILS = OutgoingMail.__table__
# Where the mail server is the subject, one database is enough.
on_one_database = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
# Where the tables are spread no foreign key reaches a mail: the deletion's own statement does.
on_one_machine = pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def with_mail(make_app, mailbox):
    """The current application sends to a real server, and this is what has arrived there."""
    with make_app(MAIL_SERVER=services.HOST, MAIL_PORT=str(mailbox.port)).app_context():
        yield mailbox


@pytest.fixture
def without_server(make_app):
    """The current application sends to a port where nobody listens."""
    app = make_app(MAIL_SERVER=services.HOST, MAIL_PORT=str(services.free_port()))
    with app.app_context():
        yield app


def ask(email: str = "ada@example.com") -> None:
    passwords.request_reset(email, device_name="curl", ip_address="203.0.113.7")


def waiting() -> list:
    return list(database.rows(MAILS.select().order_by(MAILS.c.id)))


def facts_of(caplog, event: str = "mail") -> list[dict]:
    found = [getattr(record, "facts", {}) for record in caplog.records]
    return [facts for facts in found if facts.get("event") == event]


# A mail belongs to its operation


def test_a_mail_is_a_row_until_it_is_sent(with_mail):
    factories.account()
    ask()
    assert (outbox.depth(), with_mail.messages) == (1, [])

    assert outbox.deliver() == (1, 0)
    assert (outbox.depth(), len(with_mail.messages)) == (0, 1)
    assert outbox.deliver() == (0, 0)


def test_an_operation_that_is_undone_sends_nothing(with_mail):
    """RS-02: no mail of a password that has not changed."""
    ada = factories.account()

    def fail() -> None:
        with database.transaction():
            outbox.queue(
                emails.token_reuse(ada.id, "curl", clock.now(), session_id=uuid.UUID(int=7))
            )
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert outbox.depth() == 0
    assert outbox.deliver() == (0, 0)
    assert with_mail.messages == []


def test_the_row_holds_neither_link_nor_address(with_mail):
    """RS-01: what is sent is made when it is sent."""
    ada = factories.account()
    ask()
    [row] = waiting()
    outbox.deliver()
    token = with_mail.link().partition("token=")[2]

    assert token not in str(row)
    assert ada.email not in str(row)
    assert passwords.find_reset(token)[1] == ada


def test_a_mail_goes_to_the_address_of_the_account_alone(with_mail):
    """RS-06."""
    factories.account()
    factories.account("grace@example.com")
    ask(" ADA@example.com ")
    outbox.deliver()

    assert with_mail.recipients == [["ada@example.com"]]
    assert with_mail.messages[0]["To"] == "ada@example.com"
    assert "Cc" not in with_mail.messages[0]
    assert "Bcc" not in with_mail.messages[0]


class Noting(services.Mailbox):
    """Notes by which name whoever brings a mail has introduced himself."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    async def handle_DATA(self, server, session, envelope):  # noqa: N802
        self.names.append(session.host_name)
        return await super().handle_DATA(server, session, envelope)


@on_one_database
@pytest.mark.parametrize(
    ("sender", "domain"),
    [
        ("accounts@example.com", "example.com"),
        ("Example <accounts@Mail.Example.com>", "mail.example.com"),
        ("accounts@bücher.example", "xn--bcher-kva.example"),
    ],
)
def test_a_mail_names_the_senders_domain_and_not_this_machine(make_app, sender, domain):
    """What a machine is called is nobody's business, and another domain than the sender's looks like spam."""
    with Noting() as server:
        mail = {"MAIL_SERVER": services.HOST, "MAIL_PORT": str(server.port)}
        with make_app(MAIL_DEFAULT_SENDER=sender, **mail).app_context():
            factories.account()
            for _ in range(2):
                ask()
                assert outbox.deliver() == (1, 0)

    ids = [message["Message-ID"] for message in server.messages]
    assert len(set(ids)) == 2
    assert all(each.endswith(f"@{domain}>") for each in ids)
    assert server.names == [domain] * 2


@pytest.fixture
def runs(with_mail, monkeypatch) -> list[tuple[int, int]]:
    """Let commits wake the drainer, as in production; this is what each of its runs has answered."""
    finished, real = [], outbox.deliver
    monkeypatch.setattr(outbox, "deliver", lambda **how: finished.append(real(**how)))
    current_app.config["DELIVER_MAIL_AFTER_COMMIT"] = True
    return finished


def test_a_commit_wakes_this_process_own_drainer(with_mail, runs):
    """Without any worker the mail leaves all the same, after the answer."""
    factories.account()
    for number in (1, 2):
        ask()
        services.wait_until(lambda n=number: len(runs) == n)

    assert runs == [(1, 0), (1, 0)]
    assert (len(with_mail.messages), outbox.depth()) == (2, 0)


def test_nothing_wakes_before_the_commit(with_mail, runs):
    ada = factories.account()
    with database.transaction():
        outbox.queue(emails.token_reuse(ada.id, "curl", clock.now(), session_id=uuid.UUID(int=7)))
        assert current_app.extensions["outboxes"]["outbox"]._thread is None
    services.wait_until(lambda: runs)

    assert runs == [(1, 0)]


# What is not sent


@pytest.mark.parametrize("overtake", ["newer", "deactivated", "changed", "expired"])
def test_a_link_that_no_longer_works_is_not_sent(with_mail, time_machine, overtake):
    """RS-03: nobody should get it, however late the server comes back."""
    time_machine.move_to(NOON, tick=False)
    ada = factories.account()
    ask()
    if overtake == "newer":
        ask()
    elif overtake == "deactivated":
        accounts.deactivate(ada.email)
    elif overtake == "changed":
        passwords.set_by_operator(ada.email, factories.NEW_PASSWORD)
    else:
        time_machine.move_to(NOON + timedelta(minutes=61), tick=False)
    outbox.deliver()

    assert outbox.depth() == 0
    resets = [subject for subject in with_mail.subjects if subject.startswith("Reset")]
    assert len(resets) == (1 if overtake == "newer" else 0)
    if overtake == "newer":
        assert passwords.find_reset(with_mail.link().partition("token=")[2])[1] == ada


def test_a_closed_account_gets_no_mail(with_mail):
    ada = factories.account()
    with database.transaction():
        outbox.queue(emails.token_reuse(ada.id, "curl", clock.now(), session_id=uuid.UUID(int=7)))
    accounts.deactivate(ada.email)
    outbox.deliver()

    assert (outbox.depth(), with_mail.messages) == (0, [])


# A server that is down


def test_a_mail_that_cannot_be_sent_is_tried_again_later_and_later(without_server, time_machine):
    """FA-04: 1, 5, 30 minutes and so on; not before."""
    moment = NOON
    time_machine.move_to(moment, tick=False)
    ada = factories.account()
    with database.transaction():
        outbox.queue(emails.token_reuse(ada.id, "curl", NOON, session_id=uuid.UUID(int=7)))
    for minutes in (1, 5, 30, 60, 120, 240, 480):
        assert outbox.deliver() == (0, 1)
        assert outbox.deliver() == (0, 0)
        time_machine.move_to(moment + timedelta(minutes=minutes, seconds=-1), tick=False)
        assert outbox.deliver() == (0, 0)
        moment += timedelta(minutes=minutes)
        time_machine.move_to(moment, tick=False)


def test_a_mail_is_given_up_after_eight_attempts_and_that_is_recorded(
    without_server, time_machine, caplog
):
    """FA-04, LG-01: by name and user, without the address or what the server said."""
    time_machine.move_to(NOON, tick=False)
    ada = factories.account()
    with database.transaction():
        outbox.queue(emails.token_reuse(ada.id, "curl", NOON, session_id=uuid.UUID(int=7)))
    for day in range(1, 9):
        assert outbox.depth() == 1
        outbox.deliver()
        time_machine.move_to(NOON + timedelta(days=day), tick=False)

    assert outbox.depth() == 0
    outcomes = [each["outcome"] for each in facts_of(caplog)]
    assert outcomes == ["postponed"] * 7 + ["given_up"]
    last = facts_of(caplog)[-1]
    assert (last["mail"], last["user_id"], last["attempts"]) == ("token_reuse", ada.id, 8)
    assert ada.email not in str(facts_of(caplog))


def test_what_waited_leaves_when_the_server_is_back(make_app, time_machine):
    """FA-04."""
    time_machine.move_to(NOON, tick=False)
    mailbox = services.Mailbox()
    app = make_app(MAIL_SERVER=services.HOST, MAIL_PORT=str(mailbox.port))
    with app.app_context():
        factories.account()
        ask()
        assert outbox.deliver() == (0, 1)
        with mailbox:
            assert outbox.deliver() == (0, 0)
            time_machine.move_to(NOON + timedelta(minutes=1), tick=False)
            assert outbox.deliver() == (1, 0)

        assert len(mailbox.messages) == 1


def test_while_the_server_is_away_one_mail_asks_for_all(make_app, time_machine):
    """FA-04: with a server that hangs each takes ten seconds, and an attempt that it had better keep."""
    time_machine.move_to(NOON, tick=False)
    mailbox = services.Mailbox()
    with make_app(MAIL_SERVER=services.HOST, MAIL_PORT=str(mailbox.port)).app_context():
        for number in range(outboxes.BATCH + 2):
            ask(factories.account(f"user{number}@example.com").email)
        assert outbox.deliver() == (0, 1)
        assert sorted(row.attempts for row in waiting()) == [*[0] * (outboxes.BATCH + 1), 1]
        with mailbox:
            assert outbox.deliver() == (outboxes.BATCH + 1, 0)


def test_the_request_does_not_notice_a_server_that_is_down(without_server):
    """RS-04, FA-04: it writes a row and is done."""
    factories.account()
    started = time.monotonic()
    ask()

    assert time.monotonic() - started < 1
    assert outbox.depth() == 1


class Rude(services.Mailbox):
    """Takes a mail and hangs up instead of saying goodbye."""

    async def handle_QUIT(self, server, session, envelope):  # noqa: N802
        server.transport.abort()
        return "221 never heard"


@on_one_database
def test_a_mail_that_was_taken_is_not_sent_again_for_want_of_a_goodbye(make_app):
    with (
        Rude() as server,
        make_app(MAIL_SERVER=services.HOST, MAIL_PORT=str(server.port)).app_context(),
    ):
        factories.account()
        ask()

        assert outbox.deliver() == (1, 0)
        assert (outbox.depth(), len(server.messages)) == (0, 1)


def attempts_at(make_app, server: services.RefusingMailbox, time_machine) -> int:
    """Return how often a server is asked to take one mail, over two days."""
    time_machine.move_to(NOON, tick=False)
    mail = {"MAIL_SERVER": services.HOST, "MAIL_PORT": str(server.port)}
    with server, make_app(**mail).app_context():
        ada = factories.account()
        with database.transaction():
            outbox.queue(emails.token_reuse(ada.id, "curl", NOON, session_id=uuid.UUID(int=7)))
        for hour in range(1, 49):
            outbox.deliver()
            time_machine.move_to(NOON + timedelta(hours=hour), tick=False)
        assert outbox.depth() == 0
    assert server.messages == []
    return server.asked


@on_one_database
@pytest.mark.parametrize(
    ("to", "answer"),
    [
        ("RCPT", "550 no such user ada@example.com"),
        ("RCPT", "550 5.1.1 <ada@example.com>: User unknown"),
        ("RCPT", "552 5.2.2 mailbox full"),
        ("RCPT", "556 5.1.10 this domain takes no mail"),
        ("DATA", "550 5.1.1 ada@example.com is unknown here"),
    ],
)
def test_what_the_recipients_server_will_never_take_is_tried_once(
    make_app, time_machine, caplog, to, answer
):
    """FA-04: asked again and again, servers hold it against the sender. LG-01: the status, not its words."""
    assert attempts_at(make_app, services.RefusingMailbox(answer, to=to), time_machine) == 1

    [told] = facts_of(caplog)
    assert (told["outcome"], told["status"], told["attempts"]) == ("refused", int(answer[:3]), 1)
    assert "ada@example.com" not in str(told)


@pytest.mark.slow
@on_one_database
@pytest.mark.parametrize(
    ("to", "answer"),
    [
        ("RCPT", "450 4.2.1 come back later"),
        ("RCPT", "451 greylisted"),
        ("RCPT", "421 closing"),
        ("RCPT", "530 5.7.0 Authentication required"),
        ("RCPT", "554 5.7.1 <ada@example.com>: Relay access denied"),
        ("MAIL", "550 we do not know you"),
        ("DATA", "554 5.7.1 this looks like spam"),
        ("DATA", "552 5.3.4 too big"),
    ],
)
def test_what_time_or_the_operator_can_mend_is_tried_eight_times(
    make_app, time_machine, caplog, to, answer
):
    """FA-04: a mail is not lost for want of our own password. LG-01: servers quote the address."""
    caplog.set_level(logging.DEBUG, "authsite")
    assert (
        attempts_at(make_app, services.RefusingMailbox(answer, to=to), time_machine)
        == outbox.MAX_ATTEMPTS
    )

    told = facts_of(caplog)
    assert [each["outcome"] for each in told] == ["postponed"] * 7 + ["given_up"]
    assert {each["status"] for each in told} == {int(answer[:3])}
    assert "ada@example.com" not in str(told)


def test_one_refused_mail_does_not_stand_before_the_others(make_app):
    with (
        services.RefusingMailbox("550 no", only="user3@") as server,
        make_app(MAIL_SERVER=services.HOST, MAIL_PORT=str(server.port)).app_context(),
    ):
        for number in range(12):
            ask(factories.account(f"user{number}@example.com").email)

        assert outbox.deliver() == (11, 1)
        assert len(server.messages) == 11


def test_a_mail_that_cannot_be_written_does_not_stand_before_the_others(with_mail):
    """One whose words fail is postponed like one that is refused, and given up in the end."""
    ada = factories.account()
    ask()
    database.run(
        MAILS.insert(),
        {
            "id": database.uuid7(NOON),
            "user_id": ada.id,
            "name": "no_such_mail",
            "facts": {},
            "created_at": NOON,
            "due_at": NOON,
            "attempts": 0,
        },
    )

    assert outbox.deliver() == (1, 1)
    assert len(with_mail.messages) == 1
    [row] = waiting()
    assert (row.name, row.attempts) == ("no_such_mail", 1)


@on_one_database
def test_a_server_that_stalls_is_left_after_the_timeout(make_app, monkeypatch):
    """FA-04: Flask-Mail by itself would wait for ever."""
    monkeypatch.setattr(sending, "TIMEOUT_SECONDS", 0.3)
    with (
        socket.create_server((services.HOST, 0)) as silent,
        make_app(MAIL_SERVER=services.HOST, MAIL_PORT=str(silent.getsockname()[1])).app_context(),
    ):
        factories.account()
        ask()
        started = time.monotonic()
        assert outbox.deliver() == (0, 1)

    assert 0.2 < time.monotonic() - started < 5


def test_the_timeout_is_a_bounded_number_of_seconds():
    """FA-04: ten in a row stay within the lease of a batch."""
    assert 0 < sending.TIMEOUT_SECONDS * outboxes.BATCH < outboxes.LEASE.total_seconds()


# Several drainers


def test_a_mail_that_another_drainer_has_taken_is_left_to_it(with_mail, time_machine):
    """A drainer that dies gives its mails back when its lease is over."""
    time_machine.move_to(NOON, tick=False)
    factories.account()
    ask()
    assert len(outboxes.claim(OutgoingMail, true())) == 1
    assert outbox.deliver() == (0, 0)
    time_machine.move_to(NOON + outboxes.LEASE, tick=False)

    assert outbox.deliver() == (1, 0)
    assert len(with_mail.messages) == 1


def test_a_drainer_whose_lease_is_over_sends_no_more(with_mail, time_machine, monkeypatch):
    """A slow server used it up: the rest of the batch is another's by now, and must not leave twice."""
    time_machine.move_to(NOON, tick=False)
    for number in range(3):
        ask(factories.account(f"user{number}@example.com").email)
    real = sending.send

    def send_slowly(message) -> None:
        monkeypatch.setattr(sending, "send", real)
        real(message)
        time_machine.move_to(NOON + outboxes.LEASE, tick=False)
        outbox.deliver()  # the other drainer, which finds all of the batch due again

    monkeypatch.setattr(sending, "send", send_slowly)
    outbox.deliver()

    first, *others = [address for [address] in with_mail.recipients]
    others = [address for address in others if address != first]
    everybody = {f"user{number}@example.com" for number in range(3)}
    assert sorted(others) == sorted(everybody - {first})


def test_a_drainer_that_is_told_to_stop_finishes_the_mail_at_hand(with_mail, time_machine):
    """DP-08: what it had taken besides is anybody's at once, as if it had never been taken."""
    time_machine.move_to(NOON, tick=False)
    for number in range(3):
        ask(factories.account(f"user{number}@example.com").email)

    assert outbox.deliver(is_stopping=lambda: bool(with_mail.messages)) == (1, 0)
    assert [(row.due_at, row.attempts) for row in waiting()] == [(NOON, 0)] * 2
    assert outbox.deliver() == (2, 0)
    assert len(with_mail.messages) == 3


def test_a_drainer_that_is_interrupted_gives_back_what_it_has_not_come_to(with_mail, monkeypatch):
    """Ctrl-C in the midst: the mail at hand may have left, so its lease stays; the others need not wait."""
    for number in range(3):
        ask(factories.account(f"user{number}@example.com").email)
    real = sending.send

    def interrupted(message) -> None:
        real(message)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sending, "send", interrupted)
        with pytest.raises(KeyboardInterrupt):
            outbox.deliver()

    assert sorted(row.attempts for row in waiting()) == [0, 0, 1]
    assert outbox.deliver() == (2, 0)
    assert len({address for [address] in with_mail.recipients}) == 3


def test_what_another_has_taken_meanwhile_is_not_given_back(with_mail, time_machine):
    """Its lease was over: given back, it would leave twice."""
    time_machine.move_to(NOON, tick=False)
    factories.account()
    ask()
    late = outboxes.claim(OutgoingMail, true())
    time_machine.move_to(NOON + outboxes.LEASE, tick=False)
    [other] = outboxes.claim(OutgoingMail, true())
    outboxes.give_back(OutgoingMail, late)

    assert [(row.due_at, row.attempts) for row in waiting()] == [(other.due_at, 2)]


@pytest.fixture
def slowly(make_app):
    with services.SlowMailbox() as server:
        mail = {"MAIL_SERVER": services.HOST, "MAIL_PORT": str(server.port)}
        app = make_app(**mail)
        app.config["DELIVER_MAIL_AFTER_COMMIT"] = True
        with app.app_context():
            yield server
        server.may_go_on.set()


def test_a_process_that_ends_delivers_what_it_has_queued(slowly):
    """Its drainer may hold the mail: nobody else would get it before the lease is over."""
    ask(factories.account().email)
    assert slowly.begun.wait(20)
    ask(factories.account("grace@example.com").email)
    threading.Timer(0.05, slowly.may_go_on.set).start()
    outboxes.finish()

    assert slowly.recipients == [["ada@example.com"], ["grace@example.com"]]
    assert waiting() == []


def test_a_process_that_ends_leaves_to_others_what_it_does_not_come_to(slowly, monkeypatch):
    """With a server that hangs it is not kept for longer than the mail at hand takes."""
    monkeypatch.setattr(outboxes, "FINISH_SECONDS", 0)
    current_app.config["DELIVER_MAIL_AFTER_COMMIT"] = False
    for number in range(3):
        ask(factories.account(f"user{number}@example.com").email)
    current_app.config["DELIVER_MAIL_AFTER_COMMIT"] = True
    ask(factories.account().email)
    assert slowly.begun.wait(20)
    threading.Timer(0.05, slowly.may_go_on.set).start()
    outboxes.finish()

    assert len(slowly.recipients) == 1
    assert [row.attempts for row in waiting()] == [0] * 3
    assert outbox.deliver() == (3, 0)


@pytest.fixture
def environ(slowly, database_url):
    """What a process of its own needs to find the same database and mail server."""
    current_app.config["DELIVER_MAIL_AFTER_COMMIT"] = False
    mail = {"MAIL_SERVER": services.HOST, "MAIL_PORT": str(slowly.port)}
    return os.environ | mail | {"DATABASE_URL": database_url, "SECRET_KEY": services.SECRET_KEY}


@pytest.mark.site
@on_one_database
def test_a_command_waits_for_the_mail_that_it_has_caused(slowly, environ):
    """Else it would take the lease of two minutes with it that its drainer has on the mail."""
    ada = factories.account()
    arguments = [sys.executable, "-m", "flask", "set-password", ada.email]
    pipe = subprocess.PIPE
    with subprocess.Popen(arguments, cwd=services.ROOT, env=environ, stdin=pipe) as command:
        command.stdin.write(f"{factories.NEW_PASSWORD}\n".encode())
        command.stdin.close()
        assert slowly.begun.wait(20)
        threading.Timer(0.5, slowly.may_go_on.set).start()
    assert command.returncode == 0
    assert slowly.recipients == [[ada.email]]
    assert waiting() == []


@pytest.mark.site
@on_one_database
def test_a_web_process_that_is_stopped_waits_for_the_mail_at_hand(slowly, environ):
    """DP-08: at each deployment, and after so many requests, one is replaced."""
    ada = factories.account()
    with services.Site(environ, workers=1) as site:
        url = f"{site.url}/api/v1/auth/password-reset/request"
        assert requests.post(url, json={"email": ada.email}, timeout=20).status_code == 200
        assert slowly.begun.wait(20)
        threading.Timer(0.5, slowly.may_go_on.set).start()
        assert site.stop() == 0
    assert slowly.recipients == [[ada.email]]
    assert waiting() == []


def test_a_process_that_has_finished_delivers_what_comes_all_the_same(with_mail, runs):
    """Whatever is queued while it ends, and where the end was but a command's inside another."""
    factories.account()
    for number in (1, 2):
        ask()
        services.wait_until(lambda n=number: len(runs) == n)
        outboxes.finish()

    assert runs == [(1, 0), (1, 0)]


# Verified connections


class Secured:
    """A small server with a certificate, by STARTTLS or from the first byte, and what it was told."""

    def __init__(self, certificate: trustme.LeafCert, *, implicit: bool) -> None:
        self.messages: list[bytes] = []
        self.credentials: list[bytes] = []
        self.implicit = implicit
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(self._context)
        self._listener = socket.create_server((services.HOST, 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> "Secured":
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes the accept
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), contextlib.ExitStack() as opened:
                opened.enter_context(plain)
                wrapped = self._wrap(plain, opened) if self.implicit else plain
                self._converse(wrapped, opened)

    def _wrap(self, plain: socket.socket, opened: contextlib.ExitStack) -> ssl.SSLSocket:
        return opened.enter_context(self._context.wrap_socket(plain, server_side=True))

    def _converse(self, connection: socket.socket, opened: contextlib.ExitStack) -> None:
        lines = opened.enter_context(connection.makefile("rb"))
        connection.sendall(b"220 ready\r\n")
        while line := lines.readline().strip():
            verb, _, rest = line.partition(b" ")
            if verb.lower() == b"ehlo":
                is_plain = not isinstance(connection, ssl.SSLSocket)
                extension = b"STARTTLS" if is_plain else b"AUTH PLAIN"
                connection.sendall(b"250-hello\r\n250 " + extension + b"\r\n")
                continue
            answer = b"250 OK"
            if verb.lower() == b"starttls":
                connection.sendall(b"220 go on\r\n")
                connection = self._wrap(connection, opened)
                lines = opened.enter_context(connection.makefile("rb"))
                continue
            if verb.upper() == b"AUTH":
                self.credentials.append(b64decode(rest.partition(b" ")[2]))
                answer = b"235 welcome"
            elif verb.lower() == b"data":
                connection.sendall(b"354 go on\r\n")
                self.messages.append(b"".join(iter(lines.readline, b".\r\n")))
            elif verb.lower() == b"quit":
                answer = b"221 bye"
            connection.sendall(answer + b"\r\n")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusted(authority, tmp_path, monkeypatch) -> trustme.CA:
    """The authority is one of the machine's, as OpenSSL is told of one."""
    path = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(path))
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    return authority


def secured_app(make_app, server: Secured, *, implicit: bool, **more: str):
    setting = "MAIL_USE_SSL" if implicit else "MAIL_USE_TLS"
    return make_app(MAIL_SERVER=services.HOST, MAIL_PORT=str(server.port), **{setting: "1"}, **more)


@on_one_database
@pytest.mark.parametrize("implicit", [False, True])
def test_a_server_with_a_trusted_certificate_gets_the_mail(make_app, trusted, implicit):
    """FA-04: and the credentials, for which TLS is there."""
    certificate = trusted.issue_cert(services.HOST)
    with Secured(certificate, implicit=implicit) as server:
        credentials = {"MAIL_USERNAME": "user", "MAIL_PASSWORD": "p@ss"}
        app = secured_app(make_app, server, implicit=implicit, **credentials)
        with app.app_context():
            factories.account()
            ask()

            assert outbox.deliver() == (1, 0)
        assert len(server.messages) == 1
        assert server.credentials == [b"\0user\0p@ss"]


@on_one_database
@pytest.mark.parametrize("secured", [True, False])
def test_the_authorities_are_read_once_for_any_number_of_mails(
    make_app, trusted, mailbox, monkeypatch, secured
):
    """Reading them takes the CPU of a password's hash, beside whoever is served meanwhile."""
    read = []
    create = ssl.create_default_context
    monkeypatch.setattr(ssl, "create_default_context", lambda: read.append(1) or create())
    with Secured(trusted.issue_cert(services.HOST), implicit=False) as server:
        plain_app = make_app(MAIL_SERVER=services.HOST, MAIL_PORT=str(mailbox.port))
        app = secured_app(make_app, server, implicit=False) if secured else plain_app
        with app.app_context():
            factories.account()
            for _ in range(3):
                ask()
                assert outbox.deliver() == (1, 0)

    assert len(read) == secured


@on_one_database
@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("wrong", ["unknown authority", "another host"])
def test_a_server_that_cannot_prove_who_it_is_gets_neither_mail_nor_password(
    make_app, trusted, implicit, wrong
):
    """FA-04: Flask-Mail by itself verifies nothing."""
    issuer = trustme.CA() if wrong == "unknown authority" else trusted
    host = services.HOST if wrong == "unknown authority" else "mail.example.com"
    with Secured(issuer.issue_cert(host), implicit=implicit) as server:
        credentials = {"MAIL_USERNAME": "user", "MAIL_PASSWORD": "p@ss"}
        app = secured_app(make_app, server, implicit=implicit, **credentials)
        with app.app_context():
            factories.account()
            ask()

            assert outbox.deliver() == (0, 1)
            assert outbox.depth() == 1
        assert server.messages == []
        assert server.credentials == []


@on_one_database
def test_a_server_that_offers_no_tls_gets_nothing_where_it_is_demanded(make_app, mailbox):
    """FA-04: somebody in between could have taken the offer out."""
    app = make_app(MAIL_SERVER=services.HOST, MAIL_PORT=str(mailbox.port), MAIL_USE_TLS="1")
    with app.app_context():
        factories.account()
        ask()

        assert outbox.deliver() == (0, 1)
    assert mailbox.messages == []


# Development


def test_without_a_server_the_words_go_to_the_log(app_context, capsys):
    """CONTRACT §6: the first command is enough to see the link."""
    ada = factories.account()
    ask()
    assert outbox.deliver() == (1, 0)
    lines = capsys.readouterr().err.splitlines()

    [link] = [line for line in lines if "/reset-password?token=" in line]
    assert link.startswith("http")  # alone on its line, to click or to copy
    assert sum("Reset your authsite password" in line for line in lines) == 1
    assert passwords.find_reset(link.partition("token=")[2])[1] == ada
    assert outbox.depth() == 0


@on_one_machine
def test_a_mail_row_dies_with_its_account(app_context):
    """PR-03."""
    factories.account()
    ask()
    database.run(database.db.metadata.tables["users"].delete())

    assert outbox.depth() == 0
    assert database.run(update(OutgoingMail).values(attempts=0)) == 0
    assert not database.rows(select(OutgoingMail.id))
