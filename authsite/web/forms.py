"""Every input, once: the same forms read the pages' fields and the API's JSON.

What can be decided from the input alone is decided here; what needs the database or the clock is a named
failure of the verb.
"""

import functools
import json
import re
import uuid
from collections.abc import Sequence
from typing import Any, ClassVar, Self

from flask import request
from flask_wtf import FlaskForm
from werkzeug.datastructures import CombinedMultiDict, MultiDict
from werkzeug.exceptions import RequestEntityTooLarge
from wtforms import BooleanField, EmailField, Field, PasswordField, StringField, ValidationError
from wtforms import Form as WTForm
from wtforms.validators import AnyOf

from .. import password_policy, spelling
from ..database.models import MAX_DEVICE_NAME, MAX_EMAIL, MAX_NAME, MAX_PASSKEY_NAME, MAX_PHONE
from ..errors import (
    InvalidInput,
    MalformedRequest,
    UnsupportedEncoding,
    UnsupportedMediaType,
    WeakPassword,
)
from . import headers

MAX_TOKEN = 4096
MAX_CODE = 128
MAX_CREDENTIAL = 32 * 1024
MAX_DEPTH = 32
EMAIL_FORMAT = "Enter an email address in the correct format, like name@example.com"


class Text:
    """The one validator of text: required or not, at most so long, without what no field may hold."""

    def __init__(self, missing: str | None = None, *, most: int, name: str = "This") -> None:
        self.missing = missing
        self.most = most
        self.name = name

    def __call__(self, form: WTForm, field: Field) -> None:
        if not field.data:
            if self.missing:
                raise ValidationError(self.missing)
            return
        if len(field.data) > self.most:
            raise ValidationError(f"{self.name} must be {self.most} characters or fewer")


class TextUnless:
    """Text that may lack where another field of the form holds something: one of both is enough."""

    def __init__(self, other: str, missing: str, most: int, *, name: str = "Code") -> None:
        self.other = other
        self.required, self.optional = Text(missing, most=most, name=name), Text(most=most)

    def __call__(self, form: WTForm, field: Field) -> None:
        has_other = self.other in form and bool(form[self.other].data)
        (self.optional if has_other else self.required)(form, field)


def one_line(text: str | None) -> str | None:
    return spelling.one_line(text) if isinstance(text, str) else text


def is_email(form: WTForm, field: Field) -> None:
    """Accept what can be an address, and put its canonical spelling in the field."""
    # Only here: it compiles 20 ms of patterns, which a new worker's readers would wait for.
    from email_validator import EmailNotValidError, validate_email

    address = spelling.canonical_email(field.data or "")
    if not address:
        raise ValidationError("Enter your email address")
    if len(address) > MAX_EMAIL:
        raise ValidationError(f"Email address must be {MAX_EMAIL} characters or fewer")
    if not address.isascii() or "=?" in address:
        # Full-width letters or a Kelvin sign: one look, two addresses (CVE-2019-19844). An encoded word
        # (RFC 2047) is another mailbox to a server that decodes it.
        raise ValidationError(EMAIL_FORMAT)
    try:
        valid = validate_email(address, check_deliverability=False, allow_smtputf8=False)
    except EmailNotValidError:
        raise ValidationError(EMAIL_FORMAT) from None
    field.data = (valid.ascii_email or "").lower()
    if not field.data or len(field.data) > MAX_EMAIL:
        raise ValidationError(EMAIL_FORMAT)


def is_strong_password(form: WTForm, field: Field) -> None:
    """Hold a new password to the policy; the form's e-mail field, if it has one, is its context."""
    email = form["email"].data if "email" in form else None
    try:
        password_policy.require_strong(field.data or "", email=email)
    except WeakPassword as weak:
        raise ValidationError(weak.message) from None


def is_phone_number(form: WTForm, field: Field) -> None:
    """Accept what can be dialled, and put its canonical spelling in the field; none is none."""
    typed = spelling.trimmed(field.data or "")
    number = spelling.canonical_phone_number(typed)
    if typed and number is None:
        raise ValidationError("Enter a phone number, like +44 20 7946 0958")
    field.data = number or ""


def is_set_id(form: WTForm, field: Field) -> None:
    """Accept the id of a set of recovery codes, or nothing."""
    try:
        uuid.UUID(field.data or str(uuid.UUID(int=0)))
    except ValueError:
        raise ValidationError("Give the id of a set of recovery codes, or null") from None


class AddressField(EmailField):
    """Shows an address again as its owner writes it."""

    def _value(self) -> str:
        return spelling.readable_email(super()._value())


class PhoneField(StringField):
    """Shows a number again grouped as in its country."""

    def _value(self) -> str:
        return spelling.readable_phone_number(super()._value())


class Form(FlaskForm):
    """A form of the pages (with its CSRF field) that `from_json` also fills from an API request."""

    # Members that may be null in JSON, which forgets the value.
    nullable: ClassVar[frozenset[str]] = frozenset()
    # Fields that are not members in JSON.
    page_only: ClassVar[frozenset[str]] = frozenset()
    # Members that are true or false in JSON.
    switches: ClassVar[frozenset[str]] = frozenset()
    # Members that are objects in JSON, and in a page's form the text of one.
    objects: ClassVar[frozenset[str]] = frozenset()
    given: frozenset[str] = frozenset()
    nulls: frozenset[str] = frozenset()

    class Meta(FlaskForm.Meta):
        def wrap_formdata(self, form: WTForm, formdata: Any) -> Any:
            """Read fields of text only: none of ours is a file, and a field that is one is not there."""
            found = super().wrap_formdata(form, formdata)
            return request.form if isinstance(found, CombinedMultiDict) else found

    @classmethod
    def from_json(cls) -> Self:
        """Return the valid form of this request's JSON; raise what is wrong with it.

        MalformedRequest (not JSON), UnsupportedMediaType, or InvalidInput naming each member at fault.
        """
        return cls.from_members(read_json_object())

    @classmethod
    def from_json_if_any(cls) -> Self:
        """Like from_json; a request without a body is an empty object."""
        return cls.from_members(read_json_object() if _read_bytes() else {})

    @classmethod
    def from_members(cls, members: dict[str, Any]) -> Self:
        """Return the valid form of these members; raise InvalidInput naming each one at fault."""
        names = _member_names(cls)  # type: ignore[arg-type]
        errors: list[tuple[str | None, str]] = []
        values: dict[str, str] = {}
        for name in names & cls.switches:
            if not isinstance(members.get(name), bool):
                errors.append((name, "Give true or false"))
            elif members[name]:
                values[name] = "y"
        for name in names & cls.objects & members.keys():
            if isinstance(members[name], dict):
                values[name] = json.dumps(members[name])
            else:
                errors.append((name, "This must be an object"))
        for name in names - cls.switches - cls.objects:
            if name not in members or (members[name] is None and name in cls.nullable):
                continue
            problem = _text_problem(members[name])
            if problem:
                errors.append((name, problem))
            else:
                values[name] = members[name]
        form = cls(formdata=MultiDict(values), meta={"csrf": False})
        form.given = names & members.keys()
        form.nulls = form.given - values.keys()
        form._drop_absent()
        if not form.validate():
            reported = {name for name, _ in errors}
            errors += [
                (name, str(messages[0]))
                for name, messages in form.errors.items()
                if name not in reported
            ]
        if errors:
            raise InvalidInput(errors)
        return form

    def validate(self, extra_validators: Any = None) -> bool:
        """Return whether every field is right, CSRF included; text that no field may hold is not."""
        is_valid = bool(super().validate(extra_validators))
        for field in self:
            problem = _text_problem(field.data) if isinstance(field.data, str) else None
            if problem and not field.errors:
                field.errors = [problem]
                is_valid = False
        return is_valid

    def refuse(self, name: str | None, message: str) -> None:
        """Put what a verb found wrong at the field that it concerns, None where it is none that is seen."""
        if name is None:
            self.form_errors.append(message)
        else:
            self[name].errors = [message]

    def changes(self) -> dict[str, str | None]:
        """Return the members that the request named; empty text forgets a value as null does."""
        return {name: self[name].data or None for name in sorted(self.given)}

    def _drop_absent(self) -> None:
        """A form that changes only what is named has nothing to say of the rest."""


@functools.cache
def _member_names(form_class: type[Form]) -> frozenset[str]:
    """Return what JSON may name of a form; to find out, one has to be made."""
    form = form_class(formdata=None, meta={"csrf": False})
    return frozenset(field.name for field in form) - form_class.page_only


class LoginForm(Form):
    page_only = frozenset({"remember"})

    email = AddressField("Email address", validators=[is_email])
    password = PasswordField(
        "Password", validators=[Text("Enter your password", most=4096, name="Password")]
    )
    remember = BooleanField("Keep me signed in on this device")

    def _drop_absent(self) -> None:
        del self.remember


class PersonForm(Form):
    """What people tell of themselves; beside the first name it may stay unsaid."""

    nullable = frozenset({"last_name", "phone_number"})

    first_name = StringField(
        "First name",
        filters=[one_line],
        validators=[Text("Enter your first name", most=MAX_NAME, name="First name")],
    )
    last_name = StringField(
        "Last name", filters=[one_line], validators=[Text(most=MAX_NAME, name="Last name")]
    )
    phone_number = PhoneField(
        "Phone number",
        validators=[Text(most=MAX_PHONE, name="Phone number"), is_phone_number],
    )


class RegisterForm(PersonForm):
    email = AddressField("Email address", validators=[is_email])
    password = PasswordField("Create a password", validators=[is_strong_password])


class DetailsForm(PersonForm):
    """Changes what is named."""

    def _drop_absent(self) -> None:
        for name in {field.name for field in self} - self.given:
            del self[name]


class ChangePasswordForm(Form):
    current_password = PasswordField(
        "Current password",
        validators=[Text("Enter your current password", most=4096, name="Current password")],
    )
    new_password = PasswordField("New password", validators=[is_strong_password])


class EmailForm(Form):
    """Asks for a reset link."""

    email = AddressField("Email address", validators=[is_email])


class ResetForm(Form):
    """The API's: the token comes along with the password."""

    token = StringField("Token", validators=[Text("Give the token of the link", most=MAX_TOKEN)])
    new_password = PasswordField("New password", validators=[is_strong_password])


class EmailTokenForm(Form):
    """The API's, to confirm an address."""

    token = StringField("Token", validators=[Text("Give the token of the link", most=MAX_TOKEN)])


class ConfirmRegistrationForm(EmailTokenForm):
    """The API's: the link, and the password that was chosen."""

    password = PasswordField(
        "Password", validators=[Text("Enter your password", most=4096, name="Password")]
    )


class PasswordForm(Form):
    """Whose account it is, beside a link that came by mail."""

    password = PasswordField(
        "Password", validators=[Text("Enter your password", most=4096, name="Password")]
    )


class CodeForm(Form):
    """The second step of a sign-in on a page, which keeps the pending one in its cookie."""

    code = StringField("Code", validators=[TextUnless("credential", "Enter the code", MAX_CODE)])
    credential = StringField("Passkey", validators=[Text(most=MAX_CREDENTIAL)])
    trust = BooleanField("Do not ask on this browser again")


class CredentialForm(Form):
    """What a passkey has answered, as the browser writes it in JSON."""

    objects = frozenset({"credential"})

    credential = StringField(
        "Passkey", validators=[Text("Send what the passkey has answered", most=MAX_CREDENTIAL)]
    )


class NewPasskeyForm(CredentialForm):
    """The API's."""

    nullable = frozenset({"name"})

    name = StringField(
        "Name", filters=[one_line], validators=[Text(most=MAX_PASSKEY_NAME, name="Name")]
    )


class PasskeyNameForm(Form):
    name = StringField(
        "Name",
        filters=[one_line],
        validators=[Text("Enter a name", most=MAX_PASSKEY_NAME, name="Name")],
    )


class SecondStepForm(Form):
    """The API's; one of code and credential has to be there."""

    objects = frozenset({"credential"})

    mfa_token = StringField(
        "Pending sign-in",
        validators=[Text("Give the mfa_token of the sign-in", most=MAX_TOKEN)],
    )
    code = StringField("Code", validators=[Text(most=MAX_CODE, name="Code")])
    credential = StringField("Passkey", validators=[Text(most=MAX_CREDENTIAL)])


class AppSetupForm(Form):
    """The API's: the setup that waits, and a code of the app that has taken it up."""

    setup_token = StringField(
        "Setup", validators=[Text("Give the setup_token of the setup", most=MAX_TOKEN)]
    )
    code = StringField("Code", validators=[Text("Enter the code", most=MAX_CODE, name="Code")])


class TwoStepForm(Form):
    """The API's."""

    switches = frozenset({"enabled"})

    enabled = BooleanField("Two-step sign-in")


class RecoveryCodesForm(Form):
    """Which set of codes the asker knows; null is none."""

    nullable = frozenset({"replaces"})

    replaces = StringField("Replaces", validators=[is_set_id])

    @property
    def set_id(self) -> uuid.UUID | None:
        return uuid.UUID(self.replaces.data) if self.replaces.data else None


class StepUpForm(Form):
    """The API's; which has to be there depends on the account."""

    objects = frozenset({"credential"})

    password = PasswordField("Password", validators=[Text(most=4096, name="Password")])
    code = StringField("Code", validators=[Text(most=64, name="Code")])
    credential = StringField("Passkey", validators=[Text(most=MAX_CREDENTIAL)])


class ConfirmingForm(Form):
    """Of pages that want fresh proof of who sends them: the fields stand in it only where they are needed."""

    CONFIRMING: ClassVar[tuple[str, ...]] = ("current_password", "current_code", "current_passkey")

    # What a passkey may answer in `current_passkey`.
    passkey_options: dict[str, Any] | None = None

    current_password = PasswordField(
        "Enter your password to confirm it is you",
        validators=[
            TextUnless(
                "current_passkey",
                "Enter your password to confirm it is you",
                4096,
                name="Your password",
            )
        ],
    )
    current_code = StringField(
        "Enter a code from your authenticator app to confirm it is you",
        validators=[TextUnless("current_passkey", "Enter a code to confirm it is you", 64)],
    )
    current_passkey = StringField("Passkey", validators=[Text(most=MAX_CREDENTIAL)])

    def wants(self, *names: str) -> None:
        """Leave of the confirming fields only these."""
        for each in self.CONFIRMING:
            if each not in names and each in self:
                del self[each]

    @property
    def asks_for_proof(self) -> bool:
        return any(each in self for each in self.CONFIRMING)

    def proof(self, name: str) -> str:
        """Return what was typed in one of the confirming fields; nothing if it is not there."""
        return (self[name].data or "") if name in self else ""


class AddPasskeyForm(ConfirmingForm):
    """The page's; who has only confirmed who it is has no passkey to show yet."""

    credential = StringField("Passkey", validators=[Text(most=MAX_CREDENTIAL)])


class PasskeySignInForm(Form):
    """The page's."""

    credential = StringField("Passkey", validators=[Text(most=MAX_CREDENTIAL)])
    remembers = BooleanField("Keep me signed in on this device")


class ChangeEmailForm(ConfirmingForm):
    """The page's."""

    email = AddressField("New email address", validators=[is_email])


class ExportForm(ConfirmingForm):
    """Asks for the file; there is nothing to say but who it is."""


class DeleteAccountForm(ConfirmingForm):
    """Asks for the password always, and for a code too where that is what is not fresh."""

    CONFIRMING = ("current_code",)

    current_password = PasswordField(
        "Enter your password to confirm it is you",
        validators=[
            Text("Enter your password to confirm it is you", most=4096, name="Your password")
        ],
    )


class KeepAccountForm(EmailForm):
    """Which of two buttons was pressed, and the address that a link went to."""

    choice = StringField(
        "Choice", validators=[AnyOf(("keep", "keep_and_reset"), "Choose what to do")]
    )


class AppForm(ConfirmingForm):
    """The page's; the setup stands in the cookie."""

    code = StringField(
        "Code", validators=[Text("Enter the code that the app shows", most=MAX_CODE, name="Code")]
    )


class NewCodesForm(ConfirmingForm, RecoveryCodesForm):
    """The page's."""


class SavedCodesForm(Form):
    """The codes that stand on the page, sent back to be saved as a file."""

    codes = StringField("Codes", validators=[Text("There are no codes", most=1024, name="Codes")])


class NewPasswordForm(Form):
    """The page's: its link stands in the cookie."""

    password = PasswordField("New password", validators=[is_strong_password])


class RefreshForm(Form):
    refresh_token = StringField(
        "Refresh token",
        validators=[Text("Give the refresh token", most=MAX_TOKEN, name="Refresh token")],
    )


class LogoutForm(Form):
    nullable = frozenset({"refresh_token"})

    # Any text will do: one that names no session ends the caller's own.
    refresh_token = StringField("Refresh token")


class DeviceNameForm(Form):
    nullable = frozenset({"device_name"})

    device_name = StringField(
        "Name", filters=[one_line], validators=[Text(most=MAX_DEVICE_NAME, name="Name")]
    )


class RenameForm(Form):
    name = StringField(
        "Name", filters=[one_line], validators=[Text(most=MAX_DEVICE_NAME, name="Name")]
    )


class OAuthPasswordForm(Form):
    """RFC 6749 §4.3.2; `scope` is ignored."""

    username = StringField("Username", validators=[Text("username is missing", most=MAX_EMAIL)])
    password = PasswordField("Password", validators=[Text("password is missing", most=4096)])
    grant_type = StringField("Grant type", validators=[Text(most=64)])
    # Of the other grant, which needs nothing else.
    refresh_token = StringField(
        "Refresh token", validators=[Text(most=MAX_TOKEN, name="Refresh token")]
    )


def read_json_object() -> dict[str, Any]:
    """Return the request's JSON object, read strictly (RFC 8259).

    Duplicate members, NaN, nesting beyond 32 and UTF-16 are MalformedRequest; another content type is
    UnsupportedMediaType (text/plain would pass a browser without a preflight).
    """
    if request.mimetype != "application/json":
        raise UnsupportedMediaType("Send the body as application/json")
    text = read_body().removeprefix(
        "\ufeff"
    )  # a byte order mark, which RFC 8259 §8.1 lets us ignore
    try:
        # The depth is known before the parser recurses.
        if text.count("[") + text.count("{") > MAX_DEPTH and _depth(text) > MAX_DEPTH:
            raise MalformedRequest("The JSON is nested too deeply")
        found = _DECODER.decode(text)
    except (ValueError, RecursionError):
        raise MalformedRequest("The body is not valid JSON") from None
    if not isinstance(found, dict):
        raise InvalidInput([(None, "The body must be a JSON object")])
    return found


def read_urlencoded(names: Sequence[str]) -> dict[str, Any]:
    """Return the named fields of a form body; each may stand once (RFC 6749 §3.2)."""
    # The one kind of body that a foreign page may send to the API unasked.
    headers.require_no_foreign_page()
    if request.mimetype != "application/x-www-form-urlencoded":
        raise UnsupportedMediaType("Send the body as application/x-www-form-urlencoded")
    if any(name in request.args for name in names):
        raise MalformedRequest("Credentials belong in the body, not in the query string")
    _read_bytes()
    fields = request.form
    if any(len(values) > 1 for values in fields.listvalues()):
        raise MalformedRequest("A field is given more than once")
    return {name: fields[name] for name in names if name in fields}


def read_body() -> str:
    """Return the body as text."""
    try:
        return _read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        raise MalformedRequest("The body is not UTF-8") from None


def _read_bytes() -> bytes:
    """Return the body; raise RequestEntityTooLarge also where its length was not declared.

    What is compressed is UnsupportedEncoding: its size is not known before it has been unpacked.
    """
    if request.headers.get("Content-Encoding", "").strip().lower() not in {"", "identity"}:
        raise UnsupportedEncoding
    most = request.max_content_length
    if request.content_length is None and most is not None:
        # Werkzeug cuts a chunked body at the limit and says nothing: one byte more tells.
        request.max_content_length = most + 1
    body = request.get_data(cache=True)
    if most is not None and len(body) > most:
        raise RequestEntityTooLarge
    return body


def _depth(text: str) -> int:
    """Return how deep the brackets nest, strings left out."""
    depth = deepest = 0
    # A string need not end: to look for an end that is not there, anew from each quote, takes 20 s of 64 KiB.
    for bracket in re.sub(r'"(?:[^"\\]|\\.)*"?', "", text):
        if bracket in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif bracket in "]}":
            depth -= 1
    return deepest


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member is given twice")
    return members


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant)


def _text_problem(value: object) -> str | None:
    """Return why a value is not text that can be stored, or None."""
    if not isinstance(value, str):
        return "This must be text"
    if _UNUSABLE.search(value):
        return "This holds a character that cannot be used"
    return None


_UNUSABLE = re.compile("[\x00\ud800-\udfff]")
