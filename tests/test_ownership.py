"""The guard over every statement on a user's rows: that it sees what it is for, and what it lets pass."""

import importlib
import inspect
import re

import pytest
from sqlalchemy import and_, bindparam, delete, exists, func, or_, select, update

from authsite import database, sessions
from authsite.database.models import PasswordReset, User, UserSession
from tests import factories, ownership, services

PACKAGE = services.ROOT / "authsite"

USER_ID = bindparam("of_user")
MINE = UserSession.user_id == USER_ID
NAMED = [
    select(UserSession.id).where(MINE),
    select(UserSession.id).where(
        and_(MINE, or_(UserSession.browser == "x", UserSession.os == "y"))
    ),
    select(User.email).join_from(UserSession, User, User.id == UserSession.user_id).where(MINE),
    update(UserSession).where(MINE, exists().where(User.id == UserSession.user_id)).values(os="x"),
    delete(UserSession).where(MINE, UserSession.id.in_(select(UserSession.id).where(MINE))),
    select(exists().where(MINE), select(func.count()).where(MINE).scalar_subquery()),
    select(User.id).where(User.id == USER_ID),
]
UNNAMED = [
    select(UserSession.id),
    select(UserSession.id).where(UserSession.id == bindparam("x")),
    select(User.email).join_from(UserSession, User).where(UserSession.id == bindparam("x")),
    select(UserSession.id).where(or_(MINE, UserSession.id == bindparam("x"))),
    select(UserSession.id).where(UserSession.user_id != USER_ID),
    update(UserSession).where(UserSession.id == bindparam("x")).values(os="x"),
    delete(UserSession).where(UserSession.user_id == UserSession.user_id),
    delete(PasswordReset).where(PasswordReset.id == bindparam("x")),
    delete(UserSession).where(MINE, UserSession.id.in_(select(UserSession.id))),
    select(exists().where(MINE), select(func.count(UserSession.id)).scalar_subquery()),
    select(User.id).where(User.id == USER_ID, exists().where(UserSession.user_id == User.id)),
    select(select(UserSession.id).subquery().c.id),
    select(PasswordReset.id, UserSession.id).where(MINE),
]


@pytest.mark.parametrize("statement", NAMED)
def test_a_statement_that_names_the_user_passes(statement):
    assert ownership.unnamed(statement) == []


@pytest.mark.parametrize("statement", UNNAMED)
def test_a_statement_that_does_not_always_name_the_user_is_seen(statement):
    assert ownership.unnamed(statement)


@pytest.mark.parametrize("table", ownership.with_a_user(), ids=str)
def test_each_table_with_a_users_rows_is_watched(table):
    assert ownership.unnamed(delete(table)) == [table.name]


def test_the_service_cannot_execute_one_while_a_test_runs(app_context, monkeypatch):
    """However it is reached: the statement of a verb, built at import, loses its user."""
    ada = factories.account()
    held = factories.grant(ada)
    nameless = select(UserSession.id).where(UserSession.id == bindparam("session_id"))
    monkeypatch.setattr(sessions.listing, "_FIND_OWN", nameless)

    with pytest.raises(ownership.NamesNoUser):
        sessions.find_own(ada.id, held.session_id)
    assert database.row(nameless, {"session_id": held.session_id}), "a test's own may"


@pytest.mark.parametrize("name", ownership.EXCEPTIONS)
def test_each_exception_is_a_function_of_today(name):
    module, _, function = name.rpartition(".")
    assert inspect.isfunction(getattr(importlib.import_module(module), function))


def test_no_verb_writes_its_statement_as_text():
    """The guard reads statements, not strings."""
    verbs = [path for path in PACKAGE.rglob("*.py") if path.parent.name != "database"]
    assert len(verbs) > 50
    as_text = re.compile(r"from sqlalchemy import .*\btext\b|\.exec_driver_sql\(|\.text\(\"")
    found = [path.name for path in verbs if as_text.search(path.read_text())]
    assert found == []
