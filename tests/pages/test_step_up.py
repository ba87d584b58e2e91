"""Step-up on pages: a field of the form that wants it, there only when it is needed, never a detour."""

from datetime import timedelta

import pytest
from wtforms import StringField

from authsite import clock
from authsite.pages import answers, step_up
from authsite.web import authentication
from authsite.web.forms import MAX_NAME, ConfirmingForm, Text
from tests.factories import NEW_PASSWORD, PASSWORD
from tests.pages.conftest import (
    EMAIL,
    Browser,
    api_tokens,
    elements,
    flash,
    session_row,
    summary,
    words,
)

LABEL = "Enter your password to confirm it is you"
OLD = timedelta(minutes=10, seconds=1)
TEMPLATE = """{% extends "layout.html" %}
{% from "macros.html" import confirming_fields, csrf_field, field %}
{% block title %}Bomb{% endblock %}
{% block content %}<h1>Bomb</h1><form method="post" novalidate>{{ csrf_field() }}{{ field(form.word) }}
{{ confirming_fields(form, "ada@example.com") }}<button>Go</button></form>{% endblock %}"""


class BombForm(ConfirmingForm):
    word = StringField("Word", validators=[Text("Enter a word", most=MAX_NAME, name="Word")])


@pytest.fixture
def app(make_app):
    """An application with a page more, whose act cannot be taken back."""
    app = make_app(is_of_its_own=True)
    app.jinja_env.loader = _with_bomb(app.jinja_env.loader)

    @authentication.login_required
    def bomb():
        form = step_up.prepared(BombForm())
        if form.is_submitted() and form.validate() and step_up.confirmed(form):
            return answers.done(f"Boom {form.word.data}", "/account")
        return answers.page("bomb.html", form=form)

    app.add_url_rule("/account/bomb", "pages.accounts.bomb", bomb, methods=["GET", "POST"])
    return app


def _with_bomb(loader):
    from jinja2 import ChoiceLoader, DictLoader

    return ChoiceLoader([DictLoader({"bomb.html": TEMPLATE}), loader])


def asks(answer):
    return len(elements(answer, "input", name="current_password")) == 1


def test_right_after_signing_in_the_form_asks_for_nothing_more(ada):
    """SE-18"""
    assert not asks(ada.get("/account/bomb"))
    assert ada.post("/account/bomb", word="now").status_code == 303
    assert flash(ada.get("/account")) == "Boom now"


def test_ten_minutes_later_it_asks_for_the_password(ada, later):
    later(OLD)
    page = ada.get("/account/bomb")
    assert asks(page)
    assert LABEL in words(page)
    assert ada.post("/account/bomb", word="now", current_password=PASSWORD).status_code == 303
    assert not asks(ada.get("/account/bomb"))


def test_freshness_that_runs_out_while_the_form_is_filled_in_brings_it_back_with_the_field(
    ada, later
):
    """Nothing is done, nothing lost, and nothing is sent again by itself."""
    fields = {"csrf_token": ada.csrf_token("/account/bomb"), "word": "kept"}
    later(OLD)
    answer = ada.send("/account/bomb", fields)
    assert answer.status_code == 422
    assert asks(answer)
    assert summary(answer) == [("current_password", LABEL)]
    assert elements(answer, "input", name="word", value="kept")
    assert flash(ada.get("/account")) is None


def test_a_password_that_is_not_needed_is_not_looked_at(ada):
    assert ada.post("/account/bomb", word="now", current_password="wrong").status_code == 303


def test_a_wrong_password_does_nothing_and_is_never_shown_again(ada, later):
    later(OLD)
    answer = ada.post("/account/bomb", word="kept", current_password="not the one")
    assert answer.status_code == 422
    assert summary(answer) == [("current_password", "Your current password is wrong")]
    assert elements(answer, "input", name="word", value="kept")
    assert "not the one" not in answer.text
    assert asks(ada.get("/account/bomb"))
    assert flash(ada.get("/account")) is None


def test_wrong_passwords_here_count_as_failed_sign_ins(ada, later, open_browser):
    """LT-09"""
    later(OLD)
    for _ in range(10):
        assert ada.post("/account/bomb", word="x", current_password="wrong").status_code == 422
    stranger = open_browser(address="192.0.2.1")
    assert stranger.try_sign_in(EMAIL, PASSWORD).status_code == 429


def test_a_confirmation_renews_the_secret_in_the_cookie(app, ada, later):
    """ASVS 7.2.4: a copy of the cookie made before opens nothing from then on; the session stays."""
    later(OLD)
    thief = Browser(app)
    thief.client.set_cookie("authsite", ada.cookie().value)
    assert thief.is_signed_in()
    session_id, ended_before = ada.session_id(), session_row(app, ada.session_id()).ended_at
    assert ada.post("/account/bomb", word="x", current_password=PASSWORD).status_code == 303
    assert ada.is_signed_in()
    assert ada.session_id() == session_id
    assert not thief.is_signed_in()
    row = session_row(app, session_id)
    assert (row.ended_at, row.authenticated_at) == (ended_before, clock.now())


def test_confirming_here_makes_no_other_session_fresh(app, ada, later, open_browser):
    other = open_browser(address="192.0.2.1")
    other.sign_in()
    held = api_tokens(app)
    later(OLD)
    assert ada.post("/account/bomb", word="x", current_password=PASSWORD).status_code == 303
    assert asks(other.get("/account/bomb"))
    answer = app.test_client().get(
        "/api/v1/auth/step-up", headers={"Authorization": f"Bearer {held['access_token']}"}
    )
    assert answer.get_json()["fresh_until"] is None


def test_being_in_use_keeps_nothing_fresh(ada, later):
    """Freshness is of the proof, not of the last request."""
    for _ in range(3):
        later(timedelta(minutes=3))
        assert not asks(ada.get("/account/bomb"))
    later(timedelta(minutes=1))
    assert asks(ada.get("/account/bomb"))


def test_a_change_of_password_is_a_proof(ada, later):
    later(OLD)
    changed = ada.post("/account/password", current_password=PASSWORD, new_password=NEW_PASSWORD)
    assert changed.status_code == 303
    assert not asks(ada.get("/account/bomb"))
