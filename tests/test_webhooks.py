"""Products are told what happens: with the act, signed, once they can hear it, and nobody else."""

import base64
import contextlib
import http.server
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest
import trustme
from sqlalchemy import event as sql_event
from sqlalchemy import select
from standardwebhooks import Webhook, WebhookVerificationError
from werkzeug.serving import make_server

from authsite import (
    accounts,
    addresses,
    config,
    database,
    deletions,
    not_me,
    passwords,
    sessions,
    webhooks,
)
from authsite.config import metadata
from authsite.crypto import tokens
from authsite.database.models import END_REASONS, OutgoingEvent, User, UserSession
from authsite.errors import SessionRevoked
from authsite.webhooks import outbox, sending
from tests import factories, services

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECRET = "whsec_" + base64.b64encode(b"n" * 32).decode()
OLDER = "whsec_" + base64.b64encode(b"o" * 24).decode()
on_one_database = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


class Receiver:
    """A real server that answers as it is told, and keeps what it was sent."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.status, self.headers, self.requests = 204, {}, []
        self.is_over = threading.Event()
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.requests.append((self.path, dict(self.headers), body))
                if (
                    receiver.status == 0
                ):  # one that trickles: a byte now and then, and never a status
                    with contextlib.suppress(OSError):
                        while not receiver.is_over.wait(0.05):
                            self.wfile.write(b"H")
                    return
                self.send_response(receiver.status)
                for name, value in receiver.headers.items():
                    self.send_header(name, value)
                self.end_headers()

            do_GET = do_POST  # noqa: N815

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer((services.HOST, 0), Handler)
        if context:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        scheme = "https" if context else "http"
        self.url = f"{scheme}://{services.HOST}:{self.server.server_port}/hooks?of=authsite"

    def __enter__(self) -> "Receiver":
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.is_over.set()
        self.server.shutdown()
        self.server.server_close()

    def events(self) -> list[dict]:
        return [json.loads(body) for _, _, body in self.requests]


@pytest.fixture
def receiver():
    with Receiver() as running:
        yield running


@pytest.fixture
def site(make_app, receiver):
    app = make_app(WEBHOOK_URLS=receiver.url, WEBHOOK_SECRETS=f"{SECRET},{OLDER}")
    with app.app_context():
        yield app


def waiting() -> list:
    return list(database.rows(select(*OutgoingEvent.__table__.c).order_by(OutgoingEvent.id)))


def told() -> list[tuple]:
    return [(row.kind, row.facts.get("reason")) for row in waiting()]


def forget() -> None:
    database.run(OutgoingEvent.__table__.delete())


# What is sent


def test_a_receiver_is_told_and_can_tell_who_tells(site, receiver):
    """Verified with the library of Standard Webhooks, by each of two secrets, and by no other."""
    ada = factories.account()
    assert webhooks.deliver(receiver.url) == (1, 0)
    [(path, headers, body)] = receiver.requests

    assert path == "/hooks?of=authsite"
    for secret in (SECRET, OLDER):
        assert Webhook(secret).verify(body, headers) == json.loads(body)
    with pytest.raises(WebhookVerificationError):
        Webhook("whsec_" + base64.b64encode(b"x" * 24).decode()).verify(body, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(body + b" ", headers)
    [said] = receiver.events()
    assert (said["type"], said["data"]["id"]) == ("user.created", str(ada.id))
    assert said["data"]["email"] == ada.email
    assert "password_hash" not in said["data"]
    assert waiting() == []


# As a receiver in JavaScript verifies: exits with 0, and prints what it was told.
IN_NODE = """
const {Webhook} = require("standardwebhooks");
const [secret, headers, body] = JSON.parse(require("fs").readFileSync(0, "utf8"));
console.log(JSON.stringify(new Webhook(secret).verify(body, headers)));
"""


@pytest.fixture(scope="session")
def node(tmp_path_factory) -> Callable[..., subprocess.CompletedProcess]:
    """Run a program of node with npm's standardwebhooks, which is loaded where services are required."""
    if not (shutil.which("node") and shutil.which("npm")):
        services.missing("No node: install nodejs and npm")
    folder = tmp_path_factory.mktemp("node")
    environ = dict(os.environ)
    if os.environ.get("AUTHSITE_REQUIRE_SERVICES") == "1":
        install = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund"]
        run = {"cwd": folder, "capture_output": True, "text": True, "timeout": 120}
        loaded = subprocess.run([*install, "standardwebhooks@1.0.0"], **run)
        assert loaded.returncode == 0, loaded.stderr

    def run_node(program: str, given: object) -> subprocess.CompletedProcess:
        return subprocess.run(
            ["node", "-e", program],
            cwd=folder,
            env=environ,
            input=json.dumps(given),
            capture_output=True,
            text=True,
            timeout=60,
        )

    if run_node('require("standardwebhooks")', None).returncode:
        services.missing(
            "No standardwebhooks: npm install it, and name its node_modules in NODE_PATH"
        )
    return run_node


@pytest.mark.site
@on_one_database
def test_a_receiver_in_node_can_tell_who_tells(site, receiver, node):
    """npm's standardwebhooks takes it by each of two secrets, and neither another's nor a changed body."""
    ada = factories.account(
        "zoë@example.com", first_name="Zo\N{LATIN SMALL LETTER E WITH DIAERESIS}"
    )
    assert webhooks.deliver(receiver.url) == (1, 0)
    [(_, headers, body)] = receiver.requests
    headers = {name.lower(): value for name, value in headers.items()}
    for secret in (SECRET, OLDER):
        verified = node(IN_NODE, [secret, headers, body.decode()])
        assert json.loads(verified.stdout)["data"]["id"] == str(ada.id), verified.stderr
    stranger = "whsec_" + base64.b64encode(b"x" * 24).decode()
    for secret, text in ((stranger, body.decode()), (SECRET, body.decode() + " ")):
        refused = node(IN_NODE, [secret, headers, text])
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "WebhookVerificationError" in refused.stderr


def test_what_waits_names_nobody_and_tells_the_user_as_it_is_then(site, receiver):
    ada = factories.account()
    accounts.update_details(ada.id, {"first_name": "Augusta"})
    assert ada.email not in str(waiting())
    webhooks.deliver(receiver.url)

    assert [each["type"] for each in receiver.events()] == ["user.created", "user.updated"]
    assert {each["data"]["first_name"] for each in receiver.events()} == {"Augusta"}


def test_of_a_user_who_is_gone_only_that_is_told(site, receiver):
    ada = factories.account()
    with database.transaction():
        webhooks.emit("user.deleted", ada.id)
        database.run(User.__table__.delete().where(User.id == ada.id))
    assert webhooks.deliver(receiver.url) == (2, 0)

    [said] = receiver.events()
    assert (said["type"], said["data"]) == ("user.deleted", {"id": str(ada.id)})


def test_an_act_that_is_undone_is_told_to_nobody(site):
    ada = factories.account()
    forget()
    with contextlib.suppress(RuntimeError), database.transaction():
        accounts.deactivate(ada.email)
        raise RuntimeError
    assert waiting() == []


def test_a_commit_wakes_this_process_own_drainer(site, receiver):
    site.config["DELIVER_MAIL_AFTER_COMMIT"] = True
    factories.account()
    services.wait_until(lambda: receiver.requests and not waiting())
    assert receiver.events()[0]["type"] == "user.created"


def test_without_an_url_there_is_no_statement(make_app):
    with make_app().app_context():
        ada = factories.account()
        held = factories.grant(ada)
        said = []

        def listen(_connection, _cursor, sql, *_rest):
            said.append(sql)

        sql_event.listen(database.engine(), "before_cursor_execute", listen)
        sessions.end(ada.id, held.session_id, reason="logged_out")
        sql_event.remove(database.engine(), "before_cursor_execute", listen)
        assert said
        assert not [sql for sql in said if "outgoing_events" in sql]


def test_only_the_events_that_are_wanted_are_told(make_app, receiver):
    app = make_app(
        WEBHOOK_URLS=receiver.url, WEBHOOK_SECRETS=SECRET, WEBHOOK_EVENTS="session.ended"
    )
    with app.app_context():
        ada = factories.account()
        sessions.end(ada.id, factories.grant(ada).session_id, reason="logged_out")
        assert told() == [("session.ended", "logged_out")]


# Every way to end


def _reuse(ada):
    held = factories.grant(ada)
    newer = sessions.rotate(held.session_id, ada.id, held.jti)
    sessions.rotate(held.session_id, ada.id, newer.jti)
    with pytest.raises(SessionRevoked):
        sessions.rotate(held.session_id, ada.id, held.jti)


def _not_me(ada):
    held = factories.grant(ada)
    token = tokens.sign("not_me", f"session:{ada.id}:{held.session_id}")
    not_me.end_session(token, device_name="curl", ip_address=None)


def _reset(ada):
    factories.grant(ada)
    passwords.set_by_operator(ada.email, factories.NEW_PASSWORD)


def _change(ada):
    factories.grant(ada)
    sessions.end_all(ada.id, reason="password_changed")


def _evict(ada):
    for _ in range(2):
        factories.grant(ada)


def _replace(ada):
    for _ in range(2):
        factories.grant(ada, device_id="the-same-device-0123456789abcdef")


def _end(reason):
    return lambda ada: sessions.end(ada.id, factories.grant(ada).session_id, reason=reason)


def _deactivate(ada):
    factories.grant(ada)
    accounts.deactivate(ada.email)


def _undo(ada):
    factories.grant(ada)
    sessions.end_all(ada.id, reason="email_undone")


def _delete(ada):
    factories.grant(ada)
    deletions.request_by_operator(ada.email)


WAYS = {
    "logged_out": _end("logged_out"),
    "revoked": _end("revoked"),
    "password_changed": _change,
    "password_reset": _reset,
    "reuse_detected": _reuse,
    "deactivated": _deactivate,
    "replaced": _replace,
    "evicted": _evict,
    "not_me": _not_me,
    "email_undone": _undo,
    "account_deleted": _delete,
}


@pytest.mark.parametrize("reason", END_REASONS)
def test_each_way_to_end_is_told_with_the_sessions_that_it_ended(make_app, receiver, reason):
    app = make_app(
        WEBHOOK_URLS=receiver.url,
        WEBHOOK_SECRETS=SECRET,
        WEBHOOK_EVENTS="session.ended",
        MAX_SESSIONS_PER_USER="1" if reason == "evicted" else "100",
    )
    with app.app_context():
        ada = factories.account()
        WAYS[reason](ada)
        ended = select(UserSession.id, UserSession.end_reason).where(
            UserSession.user_id == ada.id, UserSession.ended_at.is_not(None)
        )
        rows = [(str(row.id), row.end_reason) for row in database.rows(ended)]
        facts = [row.facts for row in waiting()]

    assert rows
    assert {row[1] for row in rows} == {reason}
    assert [(each, said["reason"]) for said in facts for each in said["session_ids"]] == rows


def test_no_other_place_ends_a_session():
    """A feed that misses an end is worse than none: rows end where products are told."""
    package = services.ROOT / "authsite"
    ending = re.compile(r"end_reason=(?!=)|\"end_reason\":")
    found = [
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if ending.search(path.read_text())
    ]
    assert found == ["sessions/ending.py"]


def test_the_end_of_many_is_one_event_for_each_hundred(site, receiver):
    ada = factories.account()
    factories.session_rows(ada, 250)
    forget()
    assert sessions.end_all(ada.id, reason="revoked") == 250

    lists = [row.facts["session_ids"] for row in waiting()]
    assert sorted(map(len, lists)) == [50, 100, 100]
    assert len({each for part in lists for each in part}) == 250


def test_each_act_on_an_account_is_told(site):
    ada = factories.account()
    accounts.update_details(ada.id, {"first_name": "Augusta"})
    addresses.verify_by_operator(ada.email)
    accounts.deactivate(ada.email)
    accounts.activate(ada.email)
    kinds = ["created", "updated", "updated", "deactivated", "activated"]
    assert [kind for kind, _ in told()] == [f"user.{each}" for each in kinds]


# Receivers that do not hear


def test_a_receiver_that_is_down_hears_it_when_it_is_back(site, receiver, time_machine):
    """The schedule, try by try; the id stays the same and each try is signed anew."""
    time_machine.move_to(NOON, tick=False)
    factories.account()
    receiver.status = 503
    for wait in outbox.BACK_OFF:
        assert webhooks.deliver(receiver.url) == (0, 1)
        assert webhooks.deliver(receiver.url) == (0, 0)
        time_machine.shift(wait - timedelta(seconds=1))
        assert webhooks.deliver(receiver.url) == (0, 0)
        time_machine.shift(timedelta(seconds=1))
    receiver.status = 200
    assert webhooks.deliver(receiver.url) == (1, 0)

    headers = [{k.lower(): v for k, v in sent.items()} for _, sent, _ in receiver.requests]
    assert len(headers) == 8
    assert len({sent["webhook-id"] for sent in headers}) == 1
    assert len({sent["webhook-timestamp"] for sent in headers}) == 8
    assert len({sent["webhook-signature"] for sent in headers}) == 8
    seconds = [int(wait.total_seconds()) for wait in outbox.BACK_OFF]
    assert seconds == [5, 300, 1800, 7200, 18_000, 36_000, 36_000]


@on_one_database
def test_what_nobody_hears_is_given_up(site, receiver, time_machine, caplog):
    time_machine.move_to(NOON, tick=False)
    factories.account()
    receiver.status = 500
    with caplog.at_level("INFO"):
        for wait in (*outbox.BACK_OFF, timedelta(days=1)):
            assert webhooks.deliver(receiver.url) == (0, 1)
            time_machine.shift(wait)
    assert waiting() == []
    outcomes = [
        record.facts["outcome"]
        for record in caplog.records
        if getattr(record, "facts", {}).get("event") == "webhook"
    ]
    assert outcomes == ["postponed"] * 7 + ["given_up"]
    assert "of=authsite" not in str([vars(record) for record in caplog.records])


@on_one_database
def test_a_redirect_is_not_followed(site, receiver):
    with Receiver() as elsewhere:
        receiver.status, receiver.headers = 307, {"Location": elsewhere.url}
        factories.account()
        assert webhooks.deliver(receiver.url) == (0, 1)
        assert elsewhere.requests == []
    assert len(waiting()) == 1


@on_one_database
def test_a_receiver_that_is_gone_drops_the_event_alone(site, receiver):
    receiver.status = 410
    ada = factories.account()
    webhooks.deliver(receiver.url)
    assert waiting() == []
    accounts.deactivate(ada.email)
    assert told() == [("user.deactivated", None)]


@on_one_database
def test_a_receiver_that_trickles_does_not_hold_us(site, receiver, monkeypatch):
    """Each byte begins a socket's timeout anew; the whole exchange has an end."""
    monkeypatch.setattr(sending, "TIMEOUT_SECONDS", 0.5)
    receiver.status = 0
    factories.account()
    assert webhooks.deliver(receiver.url) == (0, 1)
    assert not receiver.is_over.is_set()
    assert len(waiting()) == 1


@on_one_database
def test_no_proxy_of_the_environment_is_asked(site, receiver, monkeypatch):
    with Receiver() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        factories.account()
        assert webhooks.deliver(receiver.url) == (1, 0)
        assert proxy.requests == []


@on_one_database
def test_one_url_that_fails_keeps_no_other_from_hearing(make_app, receiver):
    dead = f"http://{services.HOST}:{services.free_port()}/"
    app = make_app(WEBHOOK_URLS=f"{dead},{receiver.url}", WEBHOOK_SECRETS=SECRET)
    with app.app_context():
        factories.account()
        assert webhooks.deliver(dead) == (0, 1)
        assert webhooks.deliver(receiver.url) == (1, 0)
        assert [row.url for row in waiting()] == [dead]


@on_one_database
def test_what_waits_for_a_url_that_is_set_no_longer_goes_in_the_end(site, time_machine):
    time_machine.move_to(NOON, tick=False)
    factories.account()
    site.config["WEBHOOK_URLS"] = ["http://127.0.0.1:1/"]
    assert webhooks.delete_orphans() == 0
    time_machine.shift(outbox.OUTLIVED + timedelta(seconds=1))
    assert webhooks.delete_orphans() == 1


# Where it goes


@on_one_database
@pytest.mark.parametrize("is_known", [True, False])
def test_a_certificate_of_an_unknown_authority_is_not_talked_to(
    make_app, tmp_path, monkeypatch, is_known
):
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(services.HOST).configure_cert(context)
    (authority if is_known else trustme.CA()).cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with Receiver(context) as receiver:
        app = make_app(WEBHOOK_URLS=receiver.url, WEBHOOK_SECRETS=SECRET)
        with app.app_context():
            factories.account()
            assert webhooks.deliver(receiver.url) == ((1, 0) if is_known else (0, 1))
        assert len(receiver.requests) == is_known


@pytest.mark.parametrize(
    "address",
    [
        *("169.254.169.254", "169.254.1.1", "::ffff:169.254.169.254", "fe80::1", "fe80::1%eth0"),
        *("64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1", "fd00:ec2::254", "100.100.100.200"),
    ],
)
def test_where_a_cloud_keeps_credentials_nothing_is_sent(address):
    with pytest.raises(sending.ForbiddenAddress):
        sending.refuse_forbidden(address)


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.7", "::1", "2001:db8::1", "198.51.100.7"])
def test_an_address_of_ones_own_network_may_be_meant(address):
    sending.refuse_forbidden(address)


@on_one_database
@pytest.mark.parametrize("lookup", [1, 2])
def test_a_name_that_leads_to_credentials_is_refused_whenever_it_turns(
    make_app, receiver, monkeypatch, lookup
):
    """After the first look-up without connecting; after a second one, of a name that turned, unspoken."""
    real, asked = socket.getaddrinfo, []
    port = receiver.server.server_port
    url = f"http://hooks.example:{port}/"

    def resolve(host, *args, **options):
        if host != "hooks.example":
            return real(host, *args, **options)
        asked.append(host)
        first = "169.254.169.254" if lookup == 1 else "198.51.100.7"
        return real(first if len(asked) == 1 else services.HOST, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    if lookup == 2:  # what can be connected to here stands for what must not be
        monkeypatch.setattr(metadata, "METADATA", {ip_address(services.HOST)})
    app = make_app(WEBHOOK_URLS=url, WEBHOOK_SECRETS=SECRET)
    with app.app_context():
        factories.account()
        assert webhooks.deliver(url) == (0, 1)
    assert (len(asked), receiver.requests) == (lookup, [])


# Settings


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"WEBHOOK_URLS": "https://a.example/"}, "WEBHOOK_URLS needs WEBHOOK_SECRETS"),
        ({"WEBHOOK_URLS": "ftp://a.example/"}, "WEBHOOK_URLS must list"),
        ({"WEBHOOK_URLS": "https://u:p@a.example/"}, "WEBHOOK_URLS must list"),
        ({"WEBHOOK_URLS": "https://a.example:99999/"}, "WEBHOOK_URLS must list"),
        ({"WEBHOOK_URLS": "https://a.example/a b"}, "WEBHOOK_URLS must list"),
        ({"WEBHOOK_SECRETS": "whsec_c2hvcnQ="}, "WEBHOOK_SECRETS must list"),
        ({"WEBHOOK_SECRETS": "whsec_!"}, "WEBHOOK_SECRETS must list"),
        ({"WEBHOOK_SECRETS": SECRET.removeprefix("whsec_")}, "WEBHOOK_SECRETS must list"),
        ({"WEBHOOK_EVENTS": "user.renamed"}, "WEBHOOK_EVENTS must list"),
        (
            {
                "APP_ENV": "production",
                "WEBHOOK_URLS": "http://a.example/",
                "WEBHOOK_SECRETS": SECRET,
            },
            "WEBHOOK_URLS must all start with https://",
        ),
    ],
)
def test_what_cannot_work_is_refused_at_the_start(environ, words):
    with pytest.raises(config.ConfigError, match=re.escape(words)):
        config.load(
            {"DATABASE_URL": services.UNUSED_DATABASE_URL, "SECRET_KEY": services.SECRET_KEY}
            | environ
        )


# As its user would


@on_one_database
def test_the_receiver_in_the_readme_hears_it_from_the_command(make_app, monkeypatch):
    readme = (services.ROOT / "README.md").read_text()
    [source] = [
        block
        for block in re.findall(r"```python\n(.*?)```", readme, re.S)
        if "import Webhook" in block
    ]
    monkeypatch.setenv("SECRET", OLDER)
    names: dict = {"__name__": "receiver"}
    exec(source, names)
    server = make_server(services.HOST, 0, names["app"])
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    url = f"http://{services.HOST}:{server.server_port}/hooks"
    app = make_app(WEBHOOK_URLS=url, WEBHOOK_SECRETS=f"{SECRET},{OLDER}")
    with app.app_context():
        ada = factories.account()
        session_id = factories.grant(ada).session_id
        sessions.end(ada.id, session_id, reason="revoked")
    done = app.test_cli_runner().invoke(args=["send-mail"])
    server.shutdown()
    thread.join()
    server.server_close()

    assert "Webhooks: sent 2, failed 0, waiting 0." in done.output
    assert f"sign out {session_id} revoked" in done.output
    answer = names["app"].test_client().post("/hooks", data=b"{}", headers={"webhook-id": "1"})
    assert answer.status_code == 401


@pytest.mark.site
@on_one_database
def test_the_worker_tells_while_another_url_hangs_and_ends_when_told(make_app, database_url):
    """The process of the Procfile: one receiver that never answers holds up nobody else."""
    with Receiver() as hung, Receiver() as heard:
        hung.status = 0
        environ = {
            "PATH": os.environ["PATH"],
            "DATABASE_URL": database_url,
            "SECRET_KEY": services.SECRET_KEY,
            "WEBHOOK_URLS": f"{hung.url},{heard.url}",
            "WEBHOOK_SECRETS": SECRET,
        }
        with make_app(WEBHOOK_URLS=environ["WEBHOOK_URLS"], WEBHOOK_SECRETS=SECRET).app_context():
            factories.account()
        command = [sys.executable, "-m", "flask", "--app", "wsgi", "worker"]
        process = subprocess.Popen(
            command, cwd=services.ROOT, env=environ, stdout=subprocess.DEVNULL
        )
        try:
            services.wait_until(lambda: hung.requests and heard.requests)
            assert not hung.is_over.is_set()
            hung.is_over.set()
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()
            process.wait()
