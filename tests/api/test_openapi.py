"""The document and its page: what they say is what the API does."""

import base64
import copy
import inspect
import json
import re
import shlex
import string
import uuid
from datetime import timedelta
from html import unescape
from html.parser import HTMLParser
from urllib.parse import urlsplit

import pytest
import time_machine
from openapi_schema_validator import OAS31Validator, oas31_format_checker
from openapi_spec_validator import validate
from werkzeug.test import TestResponse

from authsite import accounts, clock, create_app, errors, service_clients
from authsite.extensions import limiter
from authsite.passkeys import adding
from authsite.web import openapi, problems, shapes
from tests import services
from tests.api.conftest import (
    EMAIL,
    OTHER_EMAIL,
    V1,
    bearer,
    change_token,
    email_token,
    log_in,
    register,
    registration_token,
    reset_token_from_outbox,
    session_id,
    try_login,
)
from tests.authenticator import Authenticator
from tests.conftest import application, dispose
from tests.factories import PASSWORD, Phone, turn_on

OPERATION_IDS = {
    ("POST", "/auth/register"): "register",
    ("POST", "/auth/register/confirm"): "confirm_registration",
    ("POST", "/auth/login"): "login",
    ("POST", "/auth/login/oauth"): "login_oauth",
    ("POST", "/auth/refresh"): "refresh_token",
    ("GET", "/auth/me"): "get_current_user_info",
    ("GET", "/users/me"): "get_current_user_profile",
    ("PATCH", "/users/me"): "update_current_user",
    ("PATCH", "/users/me/password"): "change_current_user_password",
    ("POST", "/auth/password-reset/request"): "request_password_reset",
    ("POST", "/auth/password-reset/confirm"): "confirm_password_reset",
    ("POST", "/auth/logout"): "logout",
    ("POST", "/auth/logout-all"): "logout_all",
    ("GET", "/sessions/me"): "list_my_sessions",
    ("PATCH", "/sessions/{session_id}"): "rename_session",
    ("DELETE", "/sessions/{session_id}"): "revoke_session",
    ("DELETE", "/sessions/me/others"): "revoke_other_sessions",
    ("DELETE", "/sessions/me/expired"): "cleanup_expired_sessions",
    ("POST", "/auth/introspect"): "introspect_token",
    ("POST", "/auth/revoke"): "revoke_token",
    ("GET", "/users/me/email"): "get_email",
    ("POST", "/users/me/email/verification"): "request_email_verification",
    ("POST", "/users/me/email/verify"): "verify_email",
    ("POST", "/users/me/email"): "change_email",
    ("DELETE", "/users/me/email"): "cancel_email_change",
    ("POST", "/users/me/email/confirm"): "confirm_email_change",
    ("GET", "/users/me/activity"): "list_activity",
    ("GET", "/users/me/export"): "export_my_data",
    ("DELETE", "/users/me"): "delete_current_user",
    ("GET", "/auth/step-up"): "get_step_up",
    ("POST", "/auth/step-up"): "confirm_step_up",
    ("POST", "/auth/login/second-step"): "complete_login",
    ("GET", "/users/me/two-step"): "get_two_step",
    ("PUT", "/users/me/two-step"): "switch_two_step",
    ("POST", "/users/me/two-step/app"): "begin_app_setup",
    ("PUT", "/users/me/two-step/app"): "confirm_app_setup",
    ("DELETE", "/users/me/two-step/app"): "remove_app",
    ("POST", "/users/me/two-step/recovery-codes"): "replace_recovery_codes",
    ("DELETE", "/users/me/trusted-browsers"): "forget_trusted_browsers",
    ("POST", "/auth/passkey/options"): "passkey_sign_in_options",
    ("POST", "/auth/login/passkey"): "login_with_passkey",
    ("GET", "/users/me/passkeys"): "list_passkeys",
    ("POST", "/users/me/passkeys/options"): "passkey_creation_options",
    ("POST", "/users/me/passkeys"): "add_passkey",
    ("PATCH", "/users/me/passkeys/{passkey_id}"): "rename_passkey",
    ("DELETE", "/users/me/passkeys/{passkey_id}"): "remove_passkey",
    ("GET", "/openapi.json"): "openapi_document",
    ("GET", "/docs"): "docs",
}
CODES = {
    *("invalid_credentials", "inactive_account", "not_authenticated", "token_expired"),
    *("token_invalid", "session_revoked", "forbidden", "email_taken", "validation_error"),
    *("malformed_request", "unsupported_media_type", "payload_too_large", "not_found"),
    *("method_not_allowed", "rate_limited", "reset_token_invalid", "service_unavailable"),
    *("internal_error", "invalid_client", "mfa_required", "invalid_code", "mfa_token_invalid"),
    *("insufficient_user_authentication", "email_not_verified", "email_token_invalid"),
    *("setup_token_invalid", "no_second_step", "already_replaced"),
    *("passkey_invalid", "passkey_exists", "too_many_passkeys", "passkeys_unavailable"),
}
UNKNOWN_ID = "01a214d0-0a14-7a82-b9ec-9e64ba990d5e"


class Document:
    """The document as a client gets it, and what it says of an operation."""

    def __init__(self, client):
        self.root = client.get(f"{V1}/openapi.json").get_json()
        # What a schema refers to is found in the one that each is evolved from.
        self._validators = {each: self._validator(strictly=each) for each in (False, True)}

    def __getitem__(self, operation_id):
        return self.operations()[operation_id][2]

    def operations(self):
        """Return (method, path, operation) by operation id."""
        return {
            operation["operationId"]: (method.upper(), path, operation)
            for path, methods in self.root["paths"].items()
            for method, operation in methods.items()
        }

    def resolve(self, node):
        while "$ref" in node:
            found = self.root
            for step in node["$ref"].removeprefix("#/").split("/"):
                found = found[step]
            node = found
        return node

    def check(self, instance, schema, *, strictly=False):
        """Hold an instance to a schema; strictly, no member may be there that is not documented."""
        self._validators[strictly].evolve(schema=schema).validate(instance)

    def _validator(self, *, strictly):
        components = copy.deepcopy(self.root["components"])
        if strictly:
            for name in (
                "User",
                "Session",
                "SessionList",
                "Tokens",
                "Message",
                "Introspection",
                "StepUp",
                "TwoStep",
                "AppSetup",
                "RecoveryCodes",
            ):
                components["schemas"][name]["additionalProperties"] = False
        return OAS31Validator({"components": components}, format_checker=oas31_format_checker)

    def check_answer(self, operation_id: str, answer: TestResponse):
        """Hold an answer to what is documented of its status: type, headers and shape."""
        responses = self[operation_id]["responses"]
        assert str(answer.status_code) in responses, (operation_id, answer.status_code, answer.text)
        documented = self.resolve(responses[str(answer.status_code)])
        for name, header in documented["headers"].items():
            header = self.resolve(header)  # noqa: PLW2901
            if header.get("required") or name in answer.headers:
                value = answer.headers[name]
                is_number = header["schema"]["type"] == "integer"
                self.check(int(value) if is_number else value, header["schema"])
        special = {"RateLimit", "RateLimit-Policy", "Retry-After", "ETag", "WWW-Authenticate"}
        assert special & set(answer.headers.keys()) <= documented["headers"].keys()
        content = documented.get("content", {})
        if not content:
            assert not answer.data
            return {}
        assert answer.mimetype in content
        found = answer.text if answer.mimetype == "text/html" else json.loads(answer.data)
        self.check(found, content[answer.mimetype]["schema"], strictly=answer.status_code < 400)
        return content[answer.mimetype]


class Page(HTMLParser):
    """What stands on a page: headings, ids, links, resources, commands, and what the CSP forbids."""

    def __init__(self, html):
        super().__init__()
        self.ids, self.links, self.resources, self.headings = [], [], [], []
        self.inline, self.landmarks, self.commands, self.text = [], [], [], ""
        self.open = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.open.append(tag)
        self.ids += [given["id"]] if "id" in given else []
        self.inline += [name for name in given if name == "style" or name.startswith("on")]
        self.inline += [tag] if tag == "style" or (tag == "script" and "src" not in given) else []
        self.resources += [given[name] for name in ("src", "srcset", "action") if name in given]
        if tag == "link":
            self.resources.append(given["href"])
        if tag == "a":
            self.links.append(given["href"])
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag in {"header", "nav", "main", "footer"}:
            self.landmarks.append(tag)
        if tag == "pre":
            self.commands.append("")

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        self.text += data
        if "pre" in self.open:
            self.commands[-1] += data


def make_bare(**environ):
    """Make an application that needs no table, for what is the same on every database."""
    app = create_app(
        {"DATABASE_URL": services.UNUSED_DATABASE_URL, "SECRET_KEY": services.SECRET_KEY, **environ}
    )
    limiter.reset()
    return app


@pytest.fixture(scope="module")
def bare_client():
    return make_bare().test_client()


@pytest.fixture
def open_app(sqlite_url):
    """Without limits, and on one database: what an input may be is decided before any is asked."""
    given = {"SECRET_KEY": services.SECRET_KEY, "RATELIMIT_ENABLED": "0"}
    app = application({"DATABASE_URL": sqlite_url, **given})
    yield app
    dispose(app)


@pytest.fixture(scope="module")
def document(bare_client):
    return Document(bare_client)


@pytest.fixture(scope="module")
def page(bare_client):
    return Page(bare_client.get(f"{V1}/docs").text)


def test_document_is_valid_openapi(document):
    assert document.root["openapi"].startswith("3.1.")
    validate(document.root)


def test_every_route_of_the_api_stands_in_the_document_and_nothing_else_does(bare_client, document):
    """AP-20"""
    rules = [
        rule
        for rule in bare_client.application.url_map.iter_rules()
        if rule.rule.startswith("/api/")
    ]
    routes = {
        (method, re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule))
        for rule in rules
        for method in rule.methods - {"HEAD", "OPTIONS"}
    }
    assert routes == {(method, path) for method, path, _ in document.operations().values()}
    assert {rule.endpoint for rule in rules} == set(openapi.OPERATIONS)


def test_operation_ids_are_the_names_that_generated_clients_call(document):
    documented = {
        (method, path.removeprefix(V1)): operation_id
        for operation_id, (method, path, _) in document.operations().items()
    }
    assert documented == OPERATION_IDS


def test_codes_are_those_of_the_contract_and_every_failure_has_one_of_them(document):
    problem = document.root["components"]["schemas"]["Problem"]
    error = problem["properties"]["errors"]["items"]
    assert set(error["properties"]["code"]["enum"]) == CODES
    of_failures = {
        each.code
        for _, each in inspect.getmembers(errors, inspect.isclass)
        if issubclass(each, errors.AuthsiteError)
    }
    assert of_failures | {code for code, _ in problems.CODES.values()} == CODES


def test_every_example_fits_its_schema(document):
    checked = 0
    for _, _, operation in document.operations().values():
        body = operation.get("requestBody", {"content": {}})
        answers = [document.resolve(each) for each in operation["responses"].values()]
        for content in [body, *answers]:
            for media in content.get("content", {}).values():
                examples = [
                    document.resolve(each)["value"] for each in media.get("examples", {}).values()
                ]
                for example in [*examples, *([media["example"]] if "example" in media else [])]:
                    document.check(example, media["schema"])
                    checked += 1
    assert checked > 150


def test_every_refusal_is_documented_under_its_own_status_with_a_code_and_words(document):
    for operation_id, (_, _, operation) in document.operations().items():
        for status, response in operation["responses"].items():
            if status >= "400":
                media = document.resolve(response)["content"]["application/problem+json"]
                for example in media["examples"].values():
                    shown = document.resolve(example)["value"]
                    assert str(shown["status"]) == status, operation_id
                    assert shown["type"].endswith(f"#{shown['errors'][0]['code']}")


def test_operations_demand_a_token_exactly_where_the_document_says_so(bare_client, document):
    for operation_id, (method, path, operation) in document.operations().items():
        answer = bare_client.open(
            path.replace("{session_id}", UNKNOWN_ID), method=method, data="no JSON"
        )
        schemes = {scheme for each in operation["security"] for scheme in each}
        demanded = answer.headers.get("WWW-Authenticate", "").partition(" ")[0]
        assert (demanded == "Bearer") == ("bearer" in schemes), operation_id
        assert (demanded == "Basic") == ("service" in schemes), operation_id


def test_addresses_in_the_document_are_those_of_public_base_url_whatever_host_was_asked():
    """RS-05"""
    app = make_bare(PUBLIC_BASE_URL="https://accounts.example.com", SITE_NAME="Example")
    answer = app.test_client().get(
        f"{V1}/openapi.json", headers={"Host": "evil.example", "X-Forwarded-Host": "evil.example"}
    )
    assert "evil" not in answer.text
    root = answer.get_json()
    assert root["servers"] == [{"url": "https://accounts.example.com"}]
    assert root["info"]["title"] == "Example API"


def test_password_length_in_the_document_is_the_setting():
    app = make_bare(PASSWORD_MIN_LENGTH="15")
    body = Document(app.test_client())["register"]["requestBody"]["content"]["application/json"]
    password = body["schema"]["properties"]["password"]
    assert (password["minLength"], password["maxLength"]) == (15, 128)


def test_document_may_be_cached_and_is_not_sent_again_to_who_has_it(bare_client):
    answer = bare_client.get(f"{V1}/openapi.json")
    assert answer.mimetype == "application/json"
    assert answer.headers["Cache-Control"] == "public, max-age=300"
    again = bare_client.get(f"{V1}/openapi.json", headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")
    assert again.headers["Cache-Control"] == "public, max-age=300"


def test_page_says_once_what_calls_share_and_leaves_none_out(bare_client, document):
    html = unescape(bare_client.get(f"{V1}/docs").text)
    begin, end = html.index('<h2 id="shared-errors"'), html.index('<h2 id="tokens"')
    shared = html[begin:end]
    for message in ("The request could not be read", "Use https", "Access token has expired"):
        assert html.count(f"<td>{message}</td>") == shared.count(f"<td>{message}</td>") == 1
    for operation_id, (_, _, operation) in document.operations().items():
        article = html.partition(f'<article aria-labelledby="{operation_id}"')[2]
        article = article.partition("</article>")[0]
        for response in map(document.resolve, operation["responses"].values()):
            problems_ = response.get("content", {}).get("application/problem+json", {})
            for example in map(document.resolve, problems_.get("examples", {}).values()):
                for error in example["value"]["errors"]:
                    assert error["message"] in article or error["message"] in shared


def test_page_is_html_and_is_not_cached(bare_client):
    answer = bare_client.get(f"{V1}/docs")
    assert (answer.status_code, answer.content_type) == (200, "text/html; charset=utf-8")
    assert answer.headers["Cache-Control"] == "no-store"


def test_page_is_the_same_for_everybody_and_reads_no_cookie(bare_client):
    """SE-22"""
    bare_client.set_cookie("authsite", "eyJhIjoxfQ.aSRz4A.c2lnbmF0dXJl")
    answer = bare_client.get(f"{V1}/docs")
    bare_client.delete_cookie("authsite")
    assert answer.data == bare_client.get(f"{V1}/docs").data
    assert "Set-Cookie" not in answer.headers
    assert "Cookie" not in answer.headers["Vary"]


# What one may copy from the page, and what comes back.


def variables(client):
    """Return what a reader of the page has at hand: the two tokens, another device, a reset link."""
    register(client)
    other = log_in(client)
    held = log_in(client)
    client.post(f"{V1}/auth/password-reset/request", json={"email": EMAIL})
    return {
        "ACCESS_TOKEN": held["access_token"],
        "REFRESH_TOKEN": held["refresh_token"],
        "SESSION_ID": session_id(other),
        "RESET_TOKEN": reset_token_from_outbox(client.application),
        "EMAIL_TOKEN": email_token(client.application, EMAIL),
        "CHANGE_TOKEN": asked_to_change(client, held),
        **service(client),
    }


def asked_to_change(client, held, email="ada.lovelace@example.com"):
    """Ask for another address, and return the token of the link."""
    body = {"email": email}
    assert client.post(f"{V1}/users/me/email", json=body, headers=bearer(held)).status_code == 202
    return change_token(client.application)


def service(client):
    """Return the name and secret of a service that this application knows."""
    client.application.config["SERVICE_CLIENTS"] = [("billing", service_clients.digest("hidden"))]
    return {"SERVICE_NAME": "billing", "SERVICE_SECRET": "hidden"}


def run(client, command, shell):
    """Send what a curl command would send."""
    command = string.Template(command.replace("\\\n", " ")).substitute(shell)
    words = shlex.split(command)
    assert words.pop(0) == "curl"
    method, headers, fields, body, address = "GET", {}, {}, None, None
    while words:
        match words.pop(0):
            case "-X":
                method = words.pop(0)
            case "-H":
                name, _, value = words.pop(0).partition(": ")
                headers[name] = value
            case "-u":
                encoded = base64.b64encode(words.pop(0).encode()).decode()
                headers["Authorization"] = f"Basic {encoded}"
            case "-d":
                body = words.pop(0)
            case "--data-urlencode":
                name, _, value = words.pop(0).partition("=")
                fields[name] = value
            case word:
                address = urlsplit(word)
    return client.open(address.path, method=method, headers=headers, data=fields or body)


def begun(client):
    """Return the phone of an account with two-step sign-in, and a sign-in that waits for its code."""
    register(client)
    with client.application.app_context():
        phone, _ = turn_on(accounts.find_by_email(EMAIL))
    return phone, try_login(client).get_json()["mfa_token"]


def with_two_steps(client):
    """Return the token of a session that has shown a code, and the id of its user's recovery codes."""
    phone, mfa_token = begun(client)
    body = {"mfa_token": mfa_token, "code": phone.code()}
    held = client.post(f"{V1}/auth/login/second-step", json=body).get_json()
    found = client.get(f"{V1}/users/me/two-step", headers=bearer(held)).get_json()
    return {"ACCESS_TOKEN": held["access_token"], "SET_ID": found["recovery_set_id"]}


def beginning(client, access_token):
    held = {"access_token": access_token}
    setup = client.post(f"{V1}/users/me/two-step/app", headers=bearer(held)).get_json()
    return {"SETUP_TOKEN": setup["setup_token"], "CODE": Phone(setup["secret"]).code()}


WITH_PASSKEY = {"login_with_passkey", "add_passkey", "rename_passkey", "remove_passkey"}


def with_passkey(client, operation_id, access_token):
    """Return the id of a new passkey, and what a browser writes for the operation."""
    headers, key = bearer({"access_token": access_token}), Authenticator()

    def made():
        options = client.post(f"{V1}/users/me/passkeys/options", headers=headers).get_json()
        return {"credential": key.make(options["publicKey"])}

    added = client.post(f"{V1}/users/me/passkeys", json=made(), headers=headers).get_json()
    if operation_id == "login_with_passkey":
        options = client.post(f"{V1}/auth/passkey/options").get_json()["publicKey"]
        credential = key.sign(options)
    else:
        key = Authenticator()
        credential = made()["credential"]
    # In a shell what a variable holds is not read again.
    escaped = json.dumps(credential).replace('"', '\\"')
    return {"PASSKEY_ID": added["id"], "CREDENTIAL": escaped}


def claimed(client, document):
    """Register where addresses are confirmed first, and return the token of the link."""
    client.application.config["EMAIL_VERIFICATION"] = "required"
    answer = call(client, document, "register")
    assert answer.status_code == 202
    document.check_answer("register", answer)
    return registration_token(client.application)


SHELL_VARIABLES = ("ACCESS_TOKEN", "REFRESH_TOKEN", "SESSION_ID", "RESET_TOKEN", "EMAIL_TOKEN")
SHELL_VARIABLES += ("CHANGE_TOKEN",)
SHELL_VARIABLES += ("MFA_TOKEN", "CODE", "SETUP_TOKEN", "SET_ID")


@pytest.mark.slow
@pytest.mark.parametrize("operation_id", OPERATION_IDS.values())
def test_each_command_on_the_page_is_answered_as_documented(client, document, page, operation_id):
    """AP-20, AP-19: no member is answered that is not documented."""
    shell = dict.fromkeys(SHELL_VARIABLES, "")
    if operation_id == "complete_login":
        phone, mfa_token = begun(client)
        shell = {"MFA_TOKEN": mfa_token, "CODE": phone.code()}
    elif operation_id == "replace_recovery_codes":
        shell = with_two_steps(client)
    elif operation_id == "confirm_registration":
        shell = {"REGISTRATION_TOKEN": claimed(client, document)}
    elif operation_id != "register":
        shell = variables(client)
    if operation_id in WITH_PASSKEY:
        shell |= with_passkey(client, operation_id, shell["ACCESS_TOKEN"])
    if operation_id == "confirm_app_setup":
        shell |= beginning(client, shell["ACCESS_TOKEN"])
    method, path, operation = document.operations()[operation_id]
    path = path.replace("{session_id}", "$SESSION_ID").replace("{passkey_id}", "$PASSKEY_ID")
    (command,) = (
        each
        for each in page.commands
        if re.match(rf'curl (-X {method} )?"?http\S+{re.escape(path)}"?(\s|$)', each)
        and (method == "GET") == ("-X" not in each)
    )
    answer = run(client, command, shell)
    assert answer.status_code < 300, answer.text
    media = document.check_answer(operation_id, answer)
    if "message" in media.get("example", {}):
        without_figures = re.sub(r"\d+", "N", media["example"]["message"])
        named = without_figures.replace("Chrome on Windows", "Werkzeug")
        assert re.sub(r"\d+", "N", answer.get_json()["message"]) == named
    if limit := re.search(r"At most (\d+) requests a minute", operation["description"]):
        assert f";q={limit[1]};w=60" in answer.headers["RateLimit-Policy"]
    else:
        assert "RateLimit" not in answer.headers


# Refusals, each brought about for real. A case is (operation, status, code, what brings it about).


def call(client, document, operation_id, held=None, *, session=UNKNOWN_ID, **how):
    method, path, operation = document.operations()[operation_id]
    headers = (bearer(held) if held else {}) | how.pop("headers", {})
    if "requestBody" in operation and not {"json", "data"} & how.keys():
        ((media_type, content),) = operation["requestBody"]["content"].items()
        how["json" if media_type == "application/json" else "data"] = content["example"]
    path = path.replace("{session_id}", session).replace("{passkey_id}", session)
    return client.open(path, method=method, headers=headers, **how)


def deactivated(client, document):
    register(client)
    with client.application.app_context():
        accounts.deactivate(EMAIL)


def signed_in(client, email=EMAIL):
    register(client, email)
    return log_in(client, email)


def with_account(operation_id, **how):
    def refused(client, document):
        register(client)
        return call(client, document, operation_id, **how)

    return refused


def with_token(operation_id, **how):
    def refused(client, document):
        return call(client, document, operation_id, signed_in(client), **how)

    return refused


def with_a_strangers_session(operation_id):
    def refused(client, document):
        theirs = session_id(signed_in(client, OTHER_EMAIL))
        return call(client, document, operation_id, signed_in(client), session=theirs)

    return refused


def after(span, operation_id, member=None):
    """Sign in and call later, with the refresh token in a member of the body or the access token."""

    def refused(client, document):
        with time_machine.travel(clock.now(), tick=False) as traveller:
            held = signed_in(client)
            traveller.shift(span)
            how = {"json": {member: held["refresh_token"]}} if member else {"held": held}
            return call(client, document, operation_id, **how)

    return refused


def with_an_ended_session(operation_id, member=None):
    def refused(client, document):
        held = signed_in(client)
        client.post(f"{V1}/auth/logout-all", headers=bearer(held))
        how = {"json": {member: held["refresh_token"]}} if member else {"held": held}
        return call(client, document, operation_id, **how)

    return refused


def refreshing(token=str, *, span=timedelta(), is_ended=False):
    """Refresh as an OAuth library does, later or after a sign-out."""

    def refused(client, document):
        with time_machine.travel(clock.now(), tick=False) as traveller:
            held = signed_in(client)
            if is_ended:
                client.post(f"{V1}/auth/logout-all", headers=bearer(held))
            traveller.shift(span)
            form = {"grant_type": "refresh_token", "refresh_token": token(held["refresh_token"])}
            return call(client, document, "login_oauth", data=form)

    return refused


def too_often(operation_id):
    def refused(client, document):
        answers = [call(client, document, operation_id) for _ in range(11)]
        return answers[-1]

    return refused


def inactive(operation_id):
    def refused(client, document):
        deactivated(client, document)
        return call(client, document, operation_id)

    return refused


def unverified(operation_id):
    def refused(client, document):
        register(client)
        client.application.config["EMAIL_VERIFICATION"] = "required"
        return call(client, document, operation_id)

    return refused


def with_second_step(operation_id):
    def refused(client, document):
        begun(client)
        return call(client, document, operation_id)

    return refused


def nowhere(operation_id, **how):
    """Where the site is reached by an address."""

    def refused(client, document):
        held = signed_in(client)
        client.application.config["PASSKEY_RP_ID"] = None
        return call(client, document, operation_id, held, **how)

    return refused


def with_a_passkey_too_many(client, document):
    held = signed_in(client)
    body = {"credential": _made(client, held)}
    call(client, document, "add_passkey", held, json=body)
    key = Authenticator()
    options = call(client, document, "passkey_creation_options", held).get_json()["publicKey"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adding, "MOST", 1)
        body = {"credential": key.make(options)}
        return call(client, document, "add_passkey", held, json=body)


def with_a_passkey_twice(client, document):
    held, key = signed_in(client), Authenticator()
    for _ in range(2):
        body = {"credential": _made(client, held, key)}
        answer = call(client, document, "add_passkey", held, json=body)
    return answer


def with_a_foreign_page(client, document):
    held = signed_in(client)
    body = {"credential": _made(client, held, origin="http://evil.example")}
    return call(client, document, "add_passkey", held, json=body)


def with_no_passkey_of_mine(operation_id, **changed):
    def refused(client, document):
        options = client.post(f"{V1}/auth/passkey/options").get_json()["publicKey"]
        key = Authenticator()
        key.user_handle = bytes(16)
        body = {"credential": key.sign(options)}
        if operation_id == "login_with_passkey":
            return call(client, document, operation_id, json=body)
        body["mfa_token"] = begun(client)[1]
        return call(client, document, operation_id, json=body)

    return refused


def with_a_closed_account(code):
    def refused(client, document):
        held, key = signed_in(client), Authenticator()
        body = {"credential": _made(client, held, key)}
        call(client, document, "add_passkey", held, json=body)
        if code == "inactive_account":
            with client.application.app_context():
                accounts.deactivate(EMAIL)
        else:
            client.application.config["EMAIL_VERIFICATION"] = "required"
        options = client.post(f"{V1}/auth/passkey/options").get_json()["publicKey"]
        body = {"credential": key.sign(options)}
        return call(client, document, "login_with_passkey", json=body)

    return refused


def _made(client, held, key=None, **changed):
    answer = client.post(f"{V1}/users/me/passkeys/options", headers=bearer(held))
    return (key or Authenticator()).make(answer.get_json()["publicKey"], **changed)


def with_wrong_code(client, document):
    _phone, mfa_token = begun(client)
    body = {"mfa_token": mfa_token, "code": "000000"}
    return call(client, document, "complete_login", json=body)


def with_wrong_setup_code(client, document):
    held = signed_in(client)
    body = beginning(client, held["access_token"]) | {"CODE": "000000"}
    body = {name.lower(): value for name, value in body.items()}
    return call(client, document, "confirm_app_setup", held, json=body)


def with_an_older_set(client, document):
    held = {"access_token": with_two_steps(client)["ACCESS_TOKEN"]}
    return call(client, document, "replace_recovery_codes", held)


def with_claim(*, is_taken=False, **members):
    def refused(client, document):
        body = {"token": claimed(client, document), "password": PASSWORD} | members
        if is_taken:
            with client.application.app_context():
                accounts.register(email=EMAIL, password=PASSWORD, first_name="Ada")
        return call(client, document, "confirm_registration", json=body)

    return refused


def with_an_address_taken(client, document):
    held = signed_in(client)
    signed_in(client, OTHER_EMAIL)
    body = {"token": asked_to_change(client, held, OTHER_EMAIL)}
    return call(client, document, "confirm_email_change", held, json=body)


def logout_of_a_stranger(client, document):
    theirs = signed_in(client, OTHER_EMAIL)
    body = {"refresh_token": theirs["refresh_token"]}
    return call(client, document, "logout", signed_in(client), json=body)


def plainly(operation_id, **how):
    return lambda client, document: call(client, document, operation_id, **how)


JSON = {"Content-Type": "application/json"}
WRONG = {"email": EMAIL, "password": "something else entirely"}
STALE = (401, "insufficient_user_authentication")
REFUSALS = [
    ("register", 400, "malformed_request", plainly("register", data="{", headers=JSON)),
    ("register", 409, "email_taken", with_account("register")),
    ("register", 413, "payload_too_large", plainly("register", data="x" * 65537, headers=JSON)),
    ("register", 415, "unsupported_media_type", plainly("register", data="{}")),
    ("register", 422, "validation_error", plainly("register", json={})),
    ("register", 429, "rate_limited", too_often("register")),
    ("login", 401, "invalid_credentials", with_account("login", json=WRONG)),
    ("login", 401, "inactive_account", inactive("login")),
    ("login", 401, "email_not_verified", unverified("login")),
    ("login", 403, "mfa_required", with_second_step("login")),
    ("login_oauth", 403, "mfa_required", with_second_step("login_oauth")),
    ("complete_login", 400, "mfa_token_invalid", plainly("complete_login")),
    ("complete_login", 403, "invalid_code", with_wrong_code),
    ("complete_login", 403, "passkey_invalid", with_no_passkey_of_mine("complete_login")),
    (
        *("login_with_passkey", 401, "invalid_credentials"),
        with_no_passkey_of_mine("login_with_passkey"),
    ),
    *(
        ("login_with_passkey", 401, code, with_a_closed_account(code))
        for code in ("inactive_account", "email_not_verified")
    ),
    ("login_with_passkey", 422, "validation_error", plainly("login_with_passkey", json={})),
    ("passkey_sign_in_options", 409, "passkeys_unavailable", nowhere("passkey_sign_in_options")),
    ("login_with_passkey", 409, "passkeys_unavailable", nowhere("login_with_passkey")),
    ("passkey_creation_options", 409, "passkeys_unavailable", nowhere("passkey_creation_options")),
    ("add_passkey", 409, "passkeys_unavailable", nowhere("add_passkey")),
    ("add_passkey", 409, "too_many_passkeys", with_a_passkey_too_many),
    ("add_passkey", 409, "passkey_exists", with_a_passkey_twice),
    ("add_passkey", 422, "passkey_invalid", with_a_foreign_page),
    ("add_passkey", *STALE, after(timedelta(minutes=11), "add_passkey")),
    ("remove_passkey", *STALE, after(timedelta(minutes=11), "remove_passkey")),
    ("remove_passkey", 404, "not_found", with_token("remove_passkey")),
    ("rename_passkey", 404, "not_found", with_token("rename_passkey")),
    ("rename_passkey", 422, "validation_error", with_token("rename_passkey", json={"name": ""})),
    ("begin_app_setup", *STALE, after(timedelta(minutes=11), "begin_app_setup")),
    ("remove_app", *STALE, after(timedelta(minutes=11), "remove_app")),
    ("change_email", *STALE, after(timedelta(minutes=11), "change_email")),
    ("confirm_app_setup", 400, "setup_token_invalid", with_token("confirm_app_setup")),
    ("confirm_app_setup", 403, "invalid_code", with_wrong_setup_code),
    (
        *("switch_two_step", 409, "no_second_step"),
        with_token("switch_two_step", json={"enabled": True}),
    ),
    (
        *("switch_two_step", 422, "validation_error"),
        with_token("switch_two_step", json={"enabled": "yes"}),
    ),
    ("replace_recovery_codes", 409, "no_second_step", with_token("replace_recovery_codes")),
    ("replace_recovery_codes", 409, "already_replaced", with_an_older_set),
    ("complete_login", 422, "validation_error", plainly("complete_login", json={"code": "1"})),
    ("login", 422, "validation_error", with_account("login", headers={"X-Device-Id": "\x7f"})),
    ("login", 429, "rate_limited", too_often("login")),
    ("login_oauth", 400, "validation_error", plainly("login_oauth", data={"grant_type": "code"})),
    ("login_oauth", 401, "invalid_credentials", plainly("login_oauth")),
    ("login_oauth", 401, "inactive_account", inactive("login_oauth")),
    ("login_oauth", 401, "email_not_verified", unverified("login_oauth")),
    ("confirm_registration", 404, "not_found", plainly("confirm_registration")),
    ("confirm_registration", 400, "email_token_invalid", with_claim(token="x")),
    ("confirm_registration", 403, "invalid_credentials", with_claim(password="not it")),
    ("confirm_registration", 409, "email_taken", with_claim(is_taken=True)),
    ("login_oauth", 415, "unsupported_media_type", plainly("login_oauth", json={})),
    ("login_oauth", 422, "validation_error", plainly("login_oauth", data={"scope": "x"})),
    ("login_oauth", 401, "token_invalid", refreshing(lambda token: "x")),
    ("login_oauth", 401, "token_expired", refreshing(span=timedelta(days=8))),
    ("login_oauth", 401, "session_revoked", refreshing(is_ended=True)),
    ("login_oauth", 429, "rate_limited", too_often("login_oauth")),
    ("refresh_token", 401, "token_invalid", plainly("refresh_token")),
    (
        *("refresh_token", 401, "token_expired"),
        after(timedelta(days=8), "refresh_token", "refresh_token"),
    ),
    (
        *("refresh_token", 401, "session_revoked"),
        with_an_ended_session("refresh_token", "refresh_token"),
    ),
    ("get_current_user_profile", 401, "not_authenticated", plainly("get_current_user_profile")),
    (
        "get_current_user_profile",
        401,
        "token_expired",
        after(timedelta(minutes=16), "get_current_user_profile"),
    ),
    (
        "get_current_user_profile",
        401,
        "token_invalid",
        plainly("get_current_user_profile", held={"access_token": "x"}),
    ),
    (
        "get_current_user_profile",
        401,
        "session_revoked",
        with_an_ended_session("get_current_user_profile"),
    ),
    (
        *("get_current_user_profile", 400, "malformed_request"),
        with_token("get_current_user_profile", query_string={"access_token": "x"}),
    ),
    (
        "update_current_user",
        422,
        "validation_error",
        with_token("update_current_user", json={"first_name": ""}),
    ),
    (
        *("change_current_user_password", 403, "invalid_credentials"),
        with_token(
            "change_current_user_password",
            json={"current_password": "not at all this", "new_password": "four quite other words"},
        ),
    ),
    (
        *("change_current_user_password", 422, "validation_error"),
        with_token(
            "change_current_user_password",
            json={"current_password": PASSWORD, "new_password": "password"},
        ),
    ),
    ("confirm_password_reset", 400, "reset_token_invalid", plainly("confirm_password_reset")),
    ("verify_email", 400, "email_token_invalid", with_token("verify_email")),
    ("confirm_email_change", 400, "email_token_invalid", with_token("confirm_email_change")),
    ("confirm_email_change", 409, "email_taken", with_an_address_taken),
    ("change_email", 422, "validation_error", with_token("change_email", json={})),
    ("introspect_token", 401, "invalid_client", plainly("introspect_token")),
    ("revoke_token", 400, "malformed_request", plainly("revoke_token", data={"token": ""})),
    ("revoke_token", 415, "unsupported_media_type", plainly("revoke_token", json={})),
    ("logout", 403, "forbidden", logout_of_a_stranger),
    ("rename_session", 403, "forbidden", with_a_strangers_session("rename_session")),
    ("rename_session", 404, "not_found", with_token("rename_session")),
    ("rename_session", 422, "validation_error", with_token("rename_session", json={})),
    ("revoke_session", 403, "forbidden", with_a_strangers_session("revoke_session")),
    ("revoke_session", 404, "not_found", with_token("revoke_session")),
    ("revoke_session", 404, "not_found", with_token("revoke_session", session="no-id")),
]


@pytest.mark.parametrize(
    ("operation_id", "status", "code", "refused"),
    REFUSALS,
    ids=["-".join(map(str, refusal[:3])) for refusal in REFUSALS],
)
def test_each_refusal_is_documented_with_its_code_and_words(
    client, document, operation_id, status, code, refused
):
    """AP-20, AP-04"""
    answer = refused(client, document)
    assert answer.status_code == status, answer.text
    found = answer.get_json()
    assert {error["code"] for error in found["errors"]} == {code}
    media = document.check_answer(operation_id, answer)
    documented = [document.resolve(each)["value"] for each in media["examples"].values()]
    assert code in {each["errors"][0]["code"] for each in documented}
    if code not in {"validation_error", "malformed_request", "unsupported_media_type"}:
        assert found["detail"] in {each["detail"] for each in documented}


def test_a_database_that_is_gone_is_answered_as_documented(document):
    """FA-01"""
    url = f"postgresql://nobody@127.0.0.1:{services.free_port()}/gone"
    app = make_bare(DATABASE_URL=url)
    answer = call(app.test_client(), document, "request_password_reset")
    assert answer.status_code == 503
    document.check_answer("request_password_reset", answer)


def test_plain_http_in_production_is_refused_as_documented(document):
    app = make_bare(
        APP_ENV="production",
        DATABASE_URL="postgresql://nobody@127.0.0.1/none",
        PUBLIC_BASE_URL="https://accounts.example.com",
        MAIL_SERVER="127.0.0.1",
    )
    answer = app.test_client().get(f"{V1}/docs", base_url="http://accounts.example.com")
    assert answer.status_code == 403
    assert answer.get_json()["detail"] == "Use https"
    document.check_answer("docs", answer)


@pytest.mark.parametrize("path", ["/sessions/me", "/docs", "/nothing/here"])
def test_an_unknown_address_or_method_answers_with_a_problem_as_documented(
    bare_client, document, path
):
    """AP-03"""
    answer = bare_client.put(f"{V1}{path}")
    document.check(answer.get_json(), {"$ref": "#/components/schemas/Problem"})
    assert (answer.status_code == 405) == ("Allow" in answer.headers)


@pytest.mark.parametrize(
    "path", ["/sessions/%F2%83%8F%A0 z", "/%00", "/a%0Ab", "/%C3%A9%22<>", "/%25"]
)
def test_instance_of_a_problem_is_a_uri_reference_whatever_the_path(bare_client, document, path):
    """AP-04"""
    found = bare_client.get(f"{V1}{path}").get_json()
    document.check(found, {"$ref": "#/components/schemas/Problem"})
    assert re.fullmatch(r"(%[0-9A-F]{2}|[A-Za-z0-9/._~!$&'()*+,;=:@-])+", found["instance"])


# What the document says of an input is what the form says of it.

WITH_BODY = [
    each.rpartition(".")[2] for each, operation in openapi.OPERATIONS.items() if operation.form
]


def submit(app, document, operation_id, members):
    """Call an operation and return which members it names as wrong."""
    client = app.test_client()
    _, _, operation = document.operations()[operation_id]
    how = {"data" if operation_id == "login_oauth" else "json": members}
    session = None
    if operation["security"]:
        # Somebody new each time: an accepted body may change a password or end a session.
        email = f"{uuid.uuid4()}@example.com"
        register(client, email)
        session = log_in(client, email)
    named = session_id(session) if session else UNKNOWN_ID
    answer = call(client, document, operation_id, session, session=named, **how)
    if answer.status_code != 422:
        return set()
    return {error["field"] for error in answer.get_json()["errors"]}


def body_of(document, operation_id):
    (content,) = document[operation_id]["requestBody"]["content"].values()
    return content["schema"], content["example"]


# Of a step-up the account says whether it is the password or a code, which may be a passkey instead.
@pytest.mark.parametrize(
    "operation_id",
    [each for each in WITH_BODY if each not in {"confirm_step_up", "complete_login"}],
)
def test_members_that_the_document_requires_are_those_that_may_not_lack(
    open_app, document, operation_id
):
    schema, example = body_of(document, operation_id)
    for name in schema["properties"]:
        without = {key: value for key, value in example.items() if key != name}
        is_named = name in submit(open_app, document, operation_id, without)
        # Where one grant or another will do, the example is of the first.
        required = (
            schema["anyOf"][0]["required"] if "anyOf" in schema else schema.get("required", [])
        )
        assert is_named == (name in required), name


@pytest.mark.parametrize("operation_id", [each for each in WITH_BODY if each != "login_oauth"])
def test_members_that_the_document_lets_be_null_are_those_that_may_be(
    open_app, document, operation_id
):
    schema, example = body_of(document, operation_id)
    for name, member in schema["properties"].items():
        is_named = name in submit(open_app, document, operation_id, example | {name: None})
        assert is_named == ("null" not in member["type"]), name


@pytest.mark.parametrize("operation_id", WITH_BODY)
def test_lengths_in_the_document_are_those_that_are_held_to(open_app, document, operation_id):
    schema, example = body_of(document, operation_id)
    for name, member in schema["properties"].items():
        if "format" in member or "pattern" in member or "enum" in member:
            continue
        most, least = member.get("maxLength"), member.get("minLength")
        lengths = {most: False, most + 1: True} if most else {}
        lengths |= {least: False, least - 1: True} if least else {}
        for length, is_refused in lengths.items():
            text = ("q7 w8e9r" * (length // 8 + 1))[:length]
            refused = name in submit(open_app, document, operation_id, example | {name: text})
            assert refused == is_refused, (name, length)


@pytest.mark.parametrize(
    "text",
    ["+44 20 7946 0958", "0044 (0)20/79460958", "", "012", "1" * 16, "1" * 33, "call me", "+"],
)
def test_phone_numbers_that_fit_the_documents_pattern_are_those_that_are_taken(
    open_app, document, text
):
    schema, example = body_of(document, "register")
    member = schema["properties"]["phone_number"]
    fits = len(text) <= member["maxLength"] and bool(re.search(member["pattern"], text))
    refused = "phone_number" in submit(
        open_app, document, "register", example | {"phone_number": text}
    )
    assert refused != fits


@pytest.mark.parametrize(
    "text", ["a", "kitchen laptop", "x" * 255, "x" * 256, " a", "a ", "\x7f", "é", "~!"]
)
def test_device_ids_that_fit_the_documents_pattern_are_those_that_are_taken(
    open_app, document, text
):
    client = open_app.test_client()
    register(client)
    schema = document.root["components"]["parameters"]["X-Device-Id"]["schema"]
    fits = len(text) <= schema["maxLength"] and bool(re.search(schema["pattern"], text))
    answer = call(client, document, "login", headers={"X-Device-Id": text})
    assert answer.status_code == (200 if fits else 422)


# The page.


def test_page_shows_every_operation_with_its_address_its_inputs_and_a_command(document, page):
    for operation_id, (method, path, operation) in document.operations().items():
        assert operation_id in page.ids
        assert f"{method} {path}" in " ".join(page.text.split())
        for content in operation.get("requestBody", {"content": {}})["content"].values():
            for name, member in content["schema"]["properties"].items():
                assert name in page.text
                assert member["description"] in page.text
    commands = [each for each in page.commands if each.startswith("curl")]
    assert len(commands) == len(document.operations())


def test_page_shows_code_as_code_and_no_mark_of_the_document(bare_client, page):
    assert "`" not in page.text
    assert "<code>active: false</code>" in bare_client.get(f"{V1}/docs").text


def test_page_tells_what_each_call_has_to_bring(bare_client, document):
    html = unescape(bare_client.get(f"{V1}/docs").text)
    needed = {
        "[]": "Needs no access token.",
        "bearer": "Needs an access token.",
        "service": "Needs a service's name and secret, by HTTP Basic.",
    }
    told = dict(re.findall(r'<h3 id="(\w+)">.*?<p>(Needs [^<]*)</p>', html, re.DOTALL))
    assert told == {
        operation_id: needed[
            next(iter(operation["security"][0])) if operation["security"] else "[]"
        ]
        for operation_id, (_, _, operation) in document.operations().items()
    }
    assert "HTTP Basic" in told["introspect_token"]


def test_what_a_query_string_may_hold_is_told_as_it_is(open_app):
    """TK-12, AP-18: refused where it would count, else not read."""
    client = open_app.test_client()
    account = {"email": EMAIL, "password": PASSWORD, "first_name": "Ada"}
    client.post(f"{V1}/auth/register", json=account)
    token = client.post(f"{V1}/auth/login", json=account).get_json()["access_token"]
    me = f"{V1}/auth/me?access_token={token}"
    form = {"grant_type": "password", "username": EMAIL}
    answers = [
        client.get(me),
        client.get(me, headers={"Authorization": f"Bearer {token}"}),
        client.post(f"{V1}/auth/login?password={PASSWORD}", json={"email": EMAIL}),
        client.post(f"{V1}/auth/login?password=no", json=account),
        client.post(f"{V1}/auth/login/oauth?password={PASSWORD}", data=form),
    ]
    codes = [each.get_json().get("errors", [{"code": None}])[0]["code"] for each in answers]
    refused = "malformed_request"
    assert codes == ["not_authenticated", refused, "validation_error", None, refused]
    assert "a token or password came in the query string" not in shapes.CODES[refused]
    assert "beside the one in the header" in shapes.CODES[refused]


def test_every_problem_leads_to_a_place_on_the_page(page):
    """The `type` of a problem is the page's address and its code."""
    assert set(page.ids) >= CODES
    assert len(page.ids) == len(set(page.ids))


def test_the_parts_of_the_page_are_called_by_words(bare_client):
    text = bare_client.get(f"{V1}/docs").text
    names = re.findall("<h2[^>]*>([^<]*)</h2>", text)
    assert {"Email changes", "Step up", "Second steps"} <= set(names)
    assert all(re.fullmatch("[A-Z][a-z]*( [a-z]+)*", name) for name in names)


def test_every_link_within_the_page_leads_somewhere(page):
    within = [link.removeprefix("#") for link in page.links if link.startswith("#")]
    assert len(within) > 50
    assert set(within) <= set(page.ids)


def test_page_loads_nothing_from_elsewhere_and_holds_nothing_that_the_csp_forbids(
    bare_client, page
):
    """PG-09"""
    assert page.inline == []
    assert page.resources
    for address in page.resources:
        assert address.startswith("/static/")
        with bare_client.get(address) as answer:
            assert answer.status_code == 200
            if answer.mimetype == "text/css":
                assert not re.search(r"url\(|@import", answer.text)


def test_page_has_one_main_heading_and_skips_none_below_it(page):
    assert page.headings[0] == 1
    assert page.headings.count(1) == 1
    for above, below in zip(page.headings, page.headings[1:], strict=False):
        assert below <= above + 1
    assert page.landmarks == ["header", "main", "nav", "footer"]


def test_name_of_the_site_is_shown_as_text():
    """PG-14"""
    app = make_bare(SITE_NAME="<img src=x onerror=alert(1)>")
    html = app.test_client().get(f"{V1}/docs").text
    assert "<img" not in html
    assert "&lt;img" in html


@pytest.mark.parametrize(("seconds", "words"), [("30", "For 30 seconds"), ("0", "never answers")])
def test_page_tells_how_long_a_used_refresh_token_is_answered(seconds, words):
    app = make_bare(REFRESH_GRACE_SECONDS=seconds)
    assert words in app.test_client().get(f"{V1}/docs").text


def test_the_page_is_made_once_for_each_application(monkeypatch):
    """It takes 5 ms to make, and whoever likes may ask for it."""
    client, made = make_bare().test_client(), []
    right = openapi.document
    monkeypatch.setattr(openapi, "document", lambda: made.append(1) or right())
    first = client.get(f"{V1}/docs")
    count = len(made)
    assert client.get(f"{V1}/docs").data == first.data
    assert len(made) == count > 0
