"""OAuth's password grant, as an OAuth library of a client sees it, against the real server."""

import re

import pytest
from authlib.integrations.base_client import OAuthError
from authlib.integrations.requests_client import OAuth2Session as AuthlibSession
from oauthlib.oauth2 import (
    InsecureTransportError,
    InvalidGrantError,
    LegacyApplicationClient,
    OAuth2Error,
    UnsupportedGrantTypeError,
)
from requests_oauthlib import OAuth2Session

from authsite import create_app, database
from tests import services
from tests.api.conftest import EMAIL, V1
from tests.factories import NEW_PASSWORD, PASSWORD, account, turn_on

pytestmark = pytest.mark.site


@pytest.fixture
def session(monkeypatch):
    # oauthlib insists on https, which loopback does not need.
    monkeypatch.setenv("OAUTHLIB_INSECURE_TRANSPORT", "1")
    with OAuth2Session(client=LegacyApplicationClient(client_id="any")) as session:
        yield session


def fetch(session, site, **more):
    details = {"username": EMAIL, "password": PASSWORD} | more
    return session.fetch_token(f"{site.url}{V1}/auth/login/oauth", **details)


def test_an_oauth_client_fetches_a_token_that_opens_the_api(session, site):
    """AP-18"""
    token = fetch(session, site)
    assert token["token_type"] == "bearer"
    assert token["expires_in"] == 900
    answer = session.get(f"{site.url}{V1}/auth/me")
    assert (answer.status_code, answer.json()["email"]) == (200, EMAIL)


def test_an_oauth_client_may_send_its_own_id_and_secret_and_a_scope(session, site):
    """AP-18"""
    more = {"include_client_id": True, "client_secret": "any", "scope": ["everything"]}
    assert fetch(session, site, **more)["access_token"]


@pytest.mark.parametrize("wrong", [{"password": NEW_PASSWORD}, {"username": "nobody@example.com"}])
def test_an_oauth_client_is_told_that_its_grant_is_invalid(session, site, wrong):
    """AP-18, LT-01"""
    with pytest.raises(InvalidGrantError, match="Invalid email or password"):
        fetch(session, site, **wrong)
    assert not session.authorized


def test_an_oauth_client_is_told_that_its_grant_type_is_unsupported(session, site):
    """AP-18"""
    session._client.grant_type = "client_credentials"
    with pytest.raises(UnsupportedGrantTypeError):
        fetch(session, site)
    assert not session.authorized


def test_an_oauth_client_is_told_that_its_request_is_invalid(session, site):
    with pytest.raises(OAuth2Error) as refusal:
        fetch(session, site, username="x" * 300)
    assert refusal.value.error == "invalid_request"
    assert not session.authorized


def test_the_client_in_the_readme_finishes_a_sign_in_that_wants_a_second_step(session, site):
    """AP-18: what the library raises for `mfa_required`, and the ten lines that go on from there."""
    app = create_app(site.environ)
    with app.app_context():
        phone, _ = turn_on(account("two-step@example.com"))
        database.engine().dispose()
    with pytest.raises(OAuth2Error) as refusal:
        fetch(session, site, username="two-step@example.com")
    assert refusal.value.error == "mfa_required"
    assert not session.authorized
    readme = (services.ROOT / "README.md").read_text()
    (client,) = re.findall(r"```python\n(from oauthlib.*?)```", readme, re.S)
    exec(client, names := {})
    # As the README says of http.
    assert "`OAUTHLIB_INSECURE_TRANSPORT=1`" in readme
    with pytest.MonkeyPatch.context() as environ:
        environ.delenv("OAUTHLIB_INSECURE_TRANSPORT")
        with pytest.raises(InsecureTransportError):
            names["sign_in"](f"{site.url}{V1}", EMAIL, PASSWORD, lambda _: "")
    asked = []
    signed_in = names["sign_in"](
        f"{site.url}{V1}",
        "two-step@example.com",
        PASSWORD,
        lambda methods: asked.append(methods) or phone.code(),
    )
    assert asked == [["otp", "recovery_code"]]
    assert signed_in.get(f"{site.url}{V1}/auth/me").json()["email"] == "two-step@example.com"
    with pytest.raises(InvalidGrantError):
        names["sign_in"](f"{site.url}{V1}", "two-step@example.com", "not it", lambda _: "")


def refreshing_with_oauthlib(url, token, save):
    """A client whose access token has just expired, by its own clock."""
    client = LegacyApplicationClient(client_id="any")
    how = {"auto_refresh_url": url, "token_updater": save}
    return OAuth2Session(client=client, token=token | {"expires_at": 1}, **how)


def refreshing_with_authlib(url, token, save):
    how = {"token_endpoint": url, "token_endpoint_auth_method": "none"}
    return AuthlibSession(
        "any", token=token | {"expires_at": 1}, update_token=lambda new, **_: save(new), **how
    )


@pytest.mark.parametrize(
    ("library", "refusal"),
    [(refreshing_with_oauthlib, InvalidGrantError), (refreshing_with_authlib, OAuthError)],
)
def test_a_library_refreshes_by_itself_until_the_session_ends(session, site, library, refusal):
    """RFC 6749 §6: with what its library knows of OAuth, and no code of ours."""
    url, saved = f"{site.url}{V1}/auth/login/oauth", []
    token = dict(fetch(session, site))
    with library(url, token, saved.append) as client:
        assert client.get(f"{site.url}{V1}/auth/me").json()["email"] == EMAIL
    [new] = saved
    assert new["refresh_token"] != token["refresh_token"]
    with library(url, dict(new), saved.append) as client:
        assert client.get(f"{site.url}{V1}/auth/me").status_code == 200
    newest = dict(saved[-1])
    with OAuth2Session(token=newest) as other:
        assert other.post(f"{site.url}{V1}/auth/logout", json={}).ok
    with library(url, newest, saved.append) as client, pytest.raises(refusal) as refused:
        client.get(f"{site.url}{V1}/auth/me")
    assert refused.value.error == "invalid_grant"
    assert len(saved) == 2
