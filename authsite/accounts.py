"""Accounts: register, authenticate, update, deactivate."""

import uuid
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import NamedTuple

from flask import current_app
from sqlalchemy import (
    Boolean,
    ColumnElement,
    String,
    Uuid,
    bindparam,
    delete,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from . import (
    activity,
    clock,
    database,
    events,
    password_policy,
    sessions,
    spelling,
    throttling,
    webhooks,
)
from .crypto import hashing
from .database.models import (
    ACCOUNT_COLUMNS,
    Account,
    PasswordReset,
    User,
    UserEmail,
)
from .errors import (
    AccountBeingDeleted,
    EmailNotVerified,
    EmailTaken,
    InactiveAccount,
    InvalidCredentials,
    InvalidInput,
    SessionRevoked,
    UnknownAccount,
)
from .mail import emails, outbox

OTHER_ADDRESS = "Type the email address that our email went to"


class Authenticated(NamedTuple):
    """An account whose password was right, when that was set, and since when it is not enough alone."""

    account: Account
    password_changed_at: datetime
    two_step_since: datetime | None = None


class Holder(NamedTuple):
    """Whose an address is, None for nobody's, and whether `user_emails` lists it."""

    id: uuid.UUID | None
    is_listed: bool = True


def register(
    *,
    email: str,
    password: str,
    first_name: str,
    last_name: str | None = None,
    phone_number: str | None = None,
    is_superuser: bool = False,
    is_verified: bool = False,
) -> Authenticated:
    """Create an account; raise WeakPassword, or EmailTaken whatever the case of its letters.

    Unless `is_verified`, its address gets a link to confirm it.
    """
    email = spelling.canonical_email(email)
    password_policy.require_strong(password, email=email)
    return create(
        email=email,
        password_hash=hashing.hash_password(password),
        first_name=first_name,
        last_name=last_name,
        phone_number=phone_number,
        is_superuser=is_superuser,
        is_verified=is_verified,
    )


def create(
    *,
    email: str,
    password_hash: str,
    first_name: str,
    last_name: str | None,
    phone_number: str | None,
    is_superuser: bool = False,
    is_verified: bool,
) -> Authenticated:
    """Create an account whose password was held to the policy, or raise EmailTaken."""
    now = clock.now()
    account = Account(
        id=database.uuid7(now),
        email=email,
        email_verified_at=now if is_verified else None,
        first_name=first_name,
        last_name=last_name,
        phone_number=phone_number,
        is_active=True,
        is_superuser=is_superuser,
        created_at=now,
        updated_at=now,
    )
    try:
        # The constraints decide: of two registrations at once, a query first would let both pass.
        with database.transaction():
            database.run(
                insert(User),
                account._asdict() | {"password_hash": password_hash, "password_changed_at": now},
            )
            if not take_email(account.id, email):
                raise EmailTaken(field="email")
            send_verification(account)
            activity.record("registered", account.id)
            webhooks.emit("user.created", account.id)
    except (IntegrityError, EmailTaken):
        events.record("register", outcome="refused", code=EmailTaken.code)
        raise EmailTaken(field="email") from None
    events.record("register", user_id=account.id)
    return Authenticated(account, now)


def authenticate(
    email: str, password: str, *, browser: str | None = None, even_unverified: bool = False
) -> Authenticated:
    """Return whose e-mail and password these are; `browser` is the device id in its cookie, if any.

    Raise InvalidCredentials (in the same time for an unknown address and a wrong password),
    InactiveAccount, AccountBeingDeleted, EmailNotVerified (all only after the right password) or
    TooManyAttempts.
    `even_unverified` is for who brings the proof of the address along.
    """
    # The place for hashing is held from the look at the counter to the count of a failure: of many
    # attempts at once, only as many as there are places can see a counter that is about to move.
    with hashing.slot():
        key = throttling.key_for(email)
        holder = _holder(email)
        found = _find_with_failures(holder.id or NOBODY, key)
        is_known = found.has_failures and browser and sessions.is_known_browser(found.id, browser)
        with throttling.attempt(
            email,
            has_failures=found.has_failures,
            known_browser=browser if is_known else None,
            user_id=found.id,
        ) as attempt:
            if not hashing.is_correct(password, found.password_hash):
                events.record("login", outcome="failure", user_id=found.id)
                raise InvalidCredentials
            attempt.succeeded()
    require_welcome(
        _account(found), delete_after=found.delete_after, even_unverified=even_unverified
    )
    if not holder.is_listed:
        take_email(found.id, found.email)
    _renew_hash(found, password)
    return Authenticated(_account(found), found.password_changed_at, found.two_step_since)


def require_welcome(
    account: Account, *, delete_after: datetime | None, even_unverified: bool = False
) -> None:
    """Raise InactiveAccount where an account is closed, AccountBeingDeleted, or EmailNotVerified.

    Only for who has shown to be its owner: the link to confirm its address, or to keep it, is mailed.
    """
    if delete_after is not None:
        _remind(account, delete_after)
        events.record("login", outcome="refused", user_id=account.id, code=InactiveAccount.code)
        raise AccountBeingDeleted(delete_after)
    if not account.is_active:
        events.record("login", outcome="refused", user_id=account.id, code=InactiveAccount.code)
        raise InactiveAccount
    if has_to_verify(account) and not even_unverified:
        with database.transaction():
            send_verification(account)
        events.record("login", outcome="refused", user_id=account.id, code=EmailNotVerified.code)
        raise EmailNotVerified


def _remind(account: Account, delete_after: datetime) -> None:
    """Mail the link once more that keeps an account, while it can be kept, at most 3 times in any hour."""
    now = clock.now()
    with database.transaction():
        if delete_after > now and throttling.may_mail("keep_account", str(account.id)):
            outbox.queue(
                emails.deletion_reminder(account.id, asked_at=now, delete_after=delete_after)
            )


def has_to_verify(account: Account) -> bool:
    """Return whether the site lets nobody in unverified, and the account is."""
    is_required: bool = current_app.config["EMAIL_VERIFICATION"] == "required"
    return is_required and account.email_verified_at is None


def update_details(user_id: uuid.UUID, changes: Mapping[str, str | None]) -> Account:
    """Write the named details (`first_name`, `last_name`, `phone_number`) and return the account.

    Raise SessionRevoked where it has been deleted meanwhile, and the asking session with it.
    """
    allowed = {name: changes[name] for name in EDITABLE if name in changes}
    statement = (
        update(User)
        .where(User.id == user_id)
        .values(**allowed, updated_at=clock.now())
        .returning(*ACCOUNT_COLUMNS)
    )
    with database.transaction():
        row = database.row(statement)
        if row is None:
            raise SessionRevoked
        activity.record("details_changed", user_id)
        webhooks.emit("user.updated", user_id)
    return Account._make(row)


def deactivate(email: str) -> Account:
    """Close the account to sign-ins and end its sessions and links.

    Raise UnknownAccount or, where it is closed because it will be deleted, AccountBeingDeleted: whoever has
    the link that keeps it could open it again.
    """
    account = find_by_email(email)
    with database.transaction():
        scheduled = database.row(_CLOSE, {"owner_id": account.id, "now": clock.now()})
        if scheduled is not None and scheduled.delete_after is not None:
            raise AccountBeingDeleted(scheduled.delete_after)
        activity.record("deactivated", account.id)
        webhooks.emit("user.deactivated", account.id)
        sessions.end_all(account.id, reason="deactivated")
        end_resets(account.id)
    events.record("deactivate", user_id=account.id)
    return account


def activate(email: str) -> Account:
    """Open the account to sign-ins again, and keep it if it was to be deleted; raise UnknownAccount."""
    account = find_by_email(email)
    with database.transaction():
        if not database.run(_OPEN, {"owner_id": account.id, "now": clock.now()}):
            raise UnknownAccount
        activity.record("activated", account.id)
        webhooks.emit("user.activated", account.id)
    events.record("activate", user_id=account.id)
    return account


def find_by_email(email: str) -> Account:
    """Return the account of this address; raise UnknownAccount."""
    return find_by_id(find_id(email))


def find_by_id(user_id: uuid.UUID) -> Account:
    """Return the account; raise UnknownAccount."""
    row = database.row(_BY_ID, {"user_id": user_id})
    if row is None:
        raise UnknownAccount
    return Account._make(row)


def find_id(email: str) -> uuid.UUID:
    """Return whose address it is; NOBODY where it is nobody's, so that both cost the same statements."""
    return _holder(email).id or NOBODY


def require_typed(typed: str, email: str) -> None:
    """Raise InvalidInput unless the person typed this address, which a scanner of mails does not."""
    if spelling.canonical_email(typed) != email:
        raise InvalidInput([("email", OTHER_ADDRESS)])


def take_email(user_id: uuid.UUID, email: str) -> bool:
    """Make an address the user's, if it is nobody's, is kept for nobody any longer, or is his already.

    Return whether it is his now. Of two who take it at once the primary key gives it to one.
    """
    taking = database.upsert(UserEmail).values(email=email, user_id=user_id)
    taken = taking.on_conflict_do_update(
        index_elements=[UserEmail.email],
        set_={"user_id": user_id, "kept_until": None},
        where=or_(UserEmail.kept_until < clock.now(), UserEmail.user_id == user_id),
    )
    return database.row(taken.returning(UserEmail.email)) is not None


def give_up_email(user_id: uuid.UUID, email: str, *, kept_until: datetime | None) -> None:
    """Make an address no longer the user's: anybody's at once, or kept for its owner until then."""
    if kept_until is None:
        database.run(
            delete(UserEmail).where(UserEmail.user_id == user_id, UserEmail.email == email)
        )
        return
    keeping = database.upsert(UserEmail).values(email=email, user_id=user_id, kept_until=kept_until)
    database.run(
        keeping.on_conflict_do_update(
            index_elements=[UserEmail.email],
            set_={"kept_until": kept_until},
            where=UserEmail.user_id == user_id,
        )
    )


def delete_given_up() -> Iterator[int]:
    """Delete addresses that are kept for nobody any longer, in short transactions; yield how many in each."""
    yield from database.delete_in_batches(UserEmail.email, UserEmail.kept_until < clock.now())


def adopt(since: datetime) -> int:
    """List the addresses of accounts made since then by code that did not list them; return how many.

    During a release the code of the one before still serves. Accounts are found by their ids, which are
    ordered by time. That code cannot serve where the tables are spread: there nothing is to be done.
    """
    if database.has_citus():
        return 0
    unlisted = select(User.email, User.id).where(
        User.id >= database.first_uuid7(since), ~exists().where(UserEmail.email == User.email)
    )
    adopting = database.upsert(UserEmail).from_select(["email", "user_id"], unlisted)
    return database.run(adopting.on_conflict_do_nothing())


def send_verification(account: Account) -> bool:
    """Mail a link to confirm the account's address, unless that is done or the site wants none.

    At most 3 go to an account in any hour; return whether this is one. In the caller's transaction.
    """
    if account.email_verified_at or current_app.config["EMAIL_VERIFICATION"] == "off":
        return False
    may_mail = throttling.may_mail("verify_email", str(account.id))
    if may_mail:
        outbox.queue(emails.verify_email(account.id, requested_at=clock.now()))
    return may_mail


def end_resets(user_id: uuid.UUID) -> None:
    """Make every reset link of the user worthless."""
    database.run(
        update(PasswordReset)
        .where(PasswordReset.user_id == user_id, PasswordReset.ended_at.is_(None))
        .values(ended_at=clock.now())
    )


def _holder(email: str) -> Holder:
    key = {"email": spelling.canonical_email(email)}
    if database.has_citus():
        # One machine knows the list's row of an address. Who shows it, any might: all would have to be asked.
        listed = database.row(_LISTED, key)
        return Holder(None if listed is None else listed.user_id)
    holder = database.row(_HOLDER, key)
    assert holder is not None
    return Holder._make(holder)


def _find_with_failures(user_id: uuid.UUID, counter: bytes) -> database.Row:
    """Return the account, all None where there is none, and whether anything is on the counter."""
    if database.has_citus():
        # They may lie on two machines.
        told = throttling.has_failures(counter)
        found = database.row(_BY_ID_TOLD, {"user_id": user_id, "told": told})
    else:
        found = database.row(_BY_ID_WITH_FAILURES, {"user_id": user_id, "counter": counter})
    assert found is not None
    return found


def _renew_hash(found: database.Row, password: str) -> None:
    """Bring an older hash to today's parameters, now that the password is at hand."""
    if not hashing.is_outdated(found.password_hash):
        return
    database.run(
        update(User)
        # Not over a password that was changed meanwhile.
        .where(User.id == found.id, User.password_hash == found.password_hash)
        .values(password_hash=hashing.hash_password(password))
    )


def _account(row: database.Row) -> Account:
    return Account._make(getattr(row, name) for name in Account._fields)


EDITABLE = ("first_name", "last_name", "phone_number")

# An id that no row has: with it, an unknown address runs the statements of a known one.
NOBODY = uuid.UUID(int=0)

_EMAIL = bindparam("email", type_=String())
_USER_ID = bindparam("user_id", type_=Uuid())
_IS_LISTED = (UserEmail.email == _EMAIL, UserEmail.kept_until.is_(None))
_LISTED = database.Prepared(select(UserEmail.user_id).where(*_IS_LISTED))
# An account that code of the release before has made is found by the address that it shows.
_HOLDER = database.Prepared(
    select(
        func.coalesce(
            select(UserEmail.user_id).where(*_IS_LISTED).scalar_subquery(),
            select(User.id).where(User.email == _EMAIL).scalar_subquery(),
        ).label("id"),
        exists().where(*_IS_LISTED).label("is_listed"),
    )
)
_CLOSE = (
    update(User)
    .where(User.id == bindparam("owner_id"))
    .values(is_active=False, updated_at=bindparam("now"))
    .returning(User.delete_after)
)
_OPEN = (
    update(User)
    .where(User.id == bindparam("owner_id"))
    .values(is_active=True, delete_after=None, updated_at=bindparam("now"))
)
_BY_ID = select(*ACCOUNT_COLUMNS).where(User.id == _USER_ID)
# One row whether or not there is such an account: both take the same statements and the same time.
_NOBODY = select(literal(1).label("one")).subquery()


def _by_id_with(has_failures: ColumnElement[bool]) -> database.Prepared:
    return database.Prepared(
        select(
            *ACCOUNT_COLUMNS,
            User.password_hash,
            User.password_changed_at,
            User.two_step_since,
            User.delete_after,
            has_failures.label("has_failures"),
        ).select_from(_NOBODY.outerjoin(User, User.id == _USER_ID))
    )


_BY_ID_WITH_FAILURES = _by_id_with(throttling.HAS_FAILURES)
_BY_ID_TOLD = _by_id_with(bindparam("told", type_=Boolean()))
