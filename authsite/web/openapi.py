"""The OpenAPI document: paths and methods from the routes, inputs from the forms, the rest from OPERATIONS.

A new endpoint is described by one entry in api/operations, and a test fails while it has none. What a form
demands, what a view is limited to and which status a failure has are asked of them, never written again.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from http import HTTPStatus
from itertools import groupby
from typing import Any, NamedTuple

import orjson
from apispec import APISpec
from flask import current_app
from wtforms import BooleanField, Field

from .. import spelling, step_up
from ..database.models import MAX_EMAIL
from ..errors import (
    AuthsiteError,
    Forbidden,
    InsufficientAuthentication,
    InvalidInput,
    MalformedRequest,
    NotAuthenticated,
    SessionRevoked,
    TokenExpired,
    TokenInvalid,
    UnsupportedMediaType,
)
from ..password_policy import MAX_LENGTH
from . import forms, limits, problems, shapes
from .authentication import DEVICE_ID_HEADER

VERSION = "1.1.0"
JSON = "application/json"
PROBLEM = "application/problem+json"
URLENCODED = "application/x-www-form-urlencoded"


class Operation(NamedTuple):
    """What neither the route nor the form of an endpoint can say."""

    summary: str
    description: str
    answer: str  # its name in shapes.SCHEMAS
    status: int = 200
    message: str = ""  # the words of an answer that is a Message
    form: type[forms.Form] | None = None
    members: Mapping[str, Mapping[str, Any]] | None = None  # of a urlencoded body without a form
    example: Mapping[str, Any] | None = None  # of a request
    accepted: str = ""  # the words of a 202, where it also answers that
    errors: tuple[AuthsiteError | HTTPStatus, ...] = ()  # beside those of _common_errors
    takes_device_id: bool = False
    query: tuple[str, ...] = ()  # names in shapes.PARAMETERS
    may_lack_body: bool = False
    is_for_services: bool = False  # HTTP Basic instead of a bearer token
    answer_type: str = JSON
    is_conditional: bool = False


WHOSE = {
    "address": "At most {} requests a minute from one address.",
    "user": "At most {} requests a minute by one user.",
    "session": "At most {} requests a minute for one session, whose refresh token is sent; of anything else"
    " as many from one address.",
}

# By endpoint; filled by api/operations, where each stands beside its noun.
OPERATIONS: dict[str, Operation] = {}

# What a client may put in each input. How long it may be and whether it may lack is asked of the form, and
# what a new password may be of RULES.
INPUTS = {
    "email": "Upper and lower case are the same, and so are the two spellings of a domain beyond ASCII.",
    "password": "The password, to the letter.",
    "mfa_token": "What the refusal mfa_required has under this name.",
    "setup_token": "What the answer to the beginning of the setup has under this name.",
    "enabled": "Whether a second step is asked for.",
    "replaces": "The id of the set of recovery codes that you know, null where there is none.",
    "credential": "What the browser has answered for the passkey, by its method toJSON.",
    "name": "The name to show for the passkey.",
    "code": "A code of the authenticator app, or a recovery code.",
    "first_name": "Given name.",
    "last_name": "Family name.",
    "phone_number": "With the country code; kept as a plus sign and digits (E.164). Without one the digits"
    " are kept.",
    "current_password": "The password that is to be replaced.",
    "token": "The token in the link that was mailed.",
    "refresh_token": "A refresh token, as it came.",
    "device_name": "The name to show for this device.",
    "username": "The e-mail address.",
    "grant_type": "What is sent: a password, if it is not given.",
}
# Their views tell a member that lacks from one that is null.
MAY_BE_NULL: dict[type[forms.Form], str] = {
    forms.DeviceNameForm: "device_name",
    forms.RecoveryCodesForm: "replaces",
}
CHOICES = {"grant_type": ["password", limits.REFRESH_GRANT]}
# What another grant needs in the place of what the form requires.
INSTEAD: dict[type[forms.Form], list[str]] = {
    forms.OAuthPasswordForm: ["grant_type", "refresh_token"]
}

DESCRIPTION = """\
Accounts, and every place where they are signed in.

Every answer is JSON in UTF-8, errors too. Bodies are JSON objects of at most 64 KiB; members that are not \
listed are ignored. Text may not hold U+0000 or half of a surrogate pair. An address that does not answer to \
a method says so with 405 and the header Allow.

Authentication is an access token in the header Authorization, and nothing else: no cookie, no query string.\
"""


def as_json() -> bytes:
    """Return the document of this app as JSON, made once: only settings change it."""
    text: bytes = once("authsite.openapi.json", lambda: orjson.dumps(document()))
    return text


def document() -> dict[str, Any]:
    """Return the document of this app, made once; not to be changed."""
    made: dict[str, Any] = once("authsite.openapi", _build)
    return made


def resolve(node: dict[str, Any]) -> dict[str, Any]:
    """Return what a node of the document stands for, where it is a reference."""
    while "$ref" in node:
        found: Any = document()
        for step in node["$ref"].removeprefix("#/").split("/"):
            found = found[step]
        node = found
    return node


def once(name: str, make: Callable[[], Any]) -> Any:
    """Return what `make` makes for this application, made at the first call."""
    # Two threads may both make it at first; what they make is the same.
    if name not in current_app.extensions:
        current_app.extensions[name] = make()
    return current_app.extensions[name]


def _build() -> dict[str, Any]:
    base_url = current_app.config["PUBLIC_BASE_URL"]
    spec = APISpec(
        title=f"{current_app.config['SITE_NAME']} API",
        version=VERSION,
        openapi_version="3.1.0",
        info={"description": DESCRIPTION},
        servers=[{"url": base_url}],
        externalDocs={"url": f"{base_url}/api/v1/docs", "description": "The same as a page"},
    )
    for name, schema in shapes.SCHEMAS.items():
        spec.components.schema(name, schema)
    for name, header in shapes.HEADERS.items():
        spec.components.header(name, header)
    for name, (location, parameter) in shapes.PARAMETERS.items():
        spec.components.parameter(name, location, parameter)
    spec.components.security_scheme(
        "bearer", {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
    )
    spec.components.security_scheme("service", {"type": "http", "scheme": "basic"})
    token_url = f"{base_url}/api/v1/auth/login/oauth"
    spec.components.security_scheme(
        "oauth2", {"type": "oauth2", "flows": {"password": {"tokenUrl": token_url, "scopes": {}}}}
    )
    for tag in dict.fromkeys(_tag(endpoint) for endpoint in OPERATIONS):
        spec.tag({"name": tag})
    for endpoint, operation in OPERATIONS.items():
        for rule in current_app.url_map.iter_rules(endpoint):
            path = re.sub(r"<(?:[^:<>]+:)?([^<>]+)>", r"{\1}", rule.rule)
            described = _describe(spec, Place(endpoint, path, operation))
            methods = (rule.methods or set()) - {"HEAD", "OPTIONS"}
            spec.path(path, operations={method.lower(): described for method in methods})
    return spec.to_dict()


class Place(NamedTuple):
    """Where an operation is to be had, and what its view says of itself."""

    endpoint: str
    path: str
    operation: Operation

    @property
    def is_public(self) -> bool:
        return getattr(current_app.view_functions[self.endpoint], "is_public", False)

    @property
    def needs_step_up(self) -> bool:
        return getattr(current_app.view_functions[self.endpoint], "needs_step_up", False)

    @property
    def limit(self) -> limits.Limit | None:
        return limits.of(current_app.view_functions[self.endpoint])

    @property
    def is_oauth(self) -> bool:
        return self.endpoint in problems.OAUTH_ENDPOINTS


def _describe(spec: APISpec, place: Place) -> dict[str, Any]:
    operation, limit = place.operation, place.limit
    parameters = ["X-Request-Id", *re.findall(r"{(\w+)}", place.path)]
    parameters += operation.query
    if operation.takes_device_id:
        parameters.append(DEVICE_ID_HEADER)
    description = [operation.description]
    if limit:
        whose = WHOSE[limit.whose]
        description.append(whose.format(limit.per_minute))
    described: dict[str, Any] = {
        "operationId": place.endpoint.rpartition(".")[2],
        "tags": [_tag(place.endpoint)],
        "summary": operation.summary,
        "description": "\n\n".join(description),
        "parameters": parameters,
        "security": _security(place),
        "responses": _answers(place) | _refusals(spec, place),
    }
    if operation.form:
        described["requestBody"] = _body(place, operation.form)
    if operation.members:
        schema = {"type": "object", "properties": operation.members, "required": ["token"]}
        content = {URLENCODED: {"schema": schema, "example": operation.example}}
        described["requestBody"] = {"required": True, "content": content}
    return described


def _security(place: Place) -> list[dict[str, list[str]]]:
    if place.operation.is_for_services:
        return [{"service": []}]
    return [] if place.is_public else [{"bearer": []}, {"oauth2": []}]


def _tag(endpoint: str) -> str:
    return endpoint.split(".")[1].replace("_", " ").capitalize()


def _refusal(form: type[forms.Form], members: dict[str, Any]) -> InvalidInput | None:
    """Return what the form says of these members, in its own words; None if they are right."""
    try:
        form.from_members(members)
    except InvalidInput as refusal:
        return refusal
    return None


def _required(form: type[forms.Form]) -> set[str]:
    """Return the members without which the form is not right."""
    if form in MAY_BE_NULL:
        return {MAY_BE_NULL[form]}
    refusal = _refusal(form, {})
    return {str(field) for field, _ in refusal.errors} if refusal else set()


def _fields(form: type[forms.Form]) -> dict[str, Field]:
    """Return the fields that the API reads: a page's checkbox is none of them."""
    fields = form(formdata=None, meta={"csrf": False})
    return {
        field.name: field
        for field in fields
        if not isinstance(field, BooleanField) or field.name in form.switches
    }


def _body(place: Place, form: type[forms.Form]) -> dict[str, Any]:
    required = _required(form)
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {
            name: _input_schema(form, field, is_required=name in required)
            for name, field in _fields(form).items()
        },
    }
    if required:
        schema["required"] = [name for name in schema["properties"] if name in required]
    if form in INSTEAD:
        schema["anyOf"] = [{"required": schema.pop("required")}, {"required": INSTEAD[form]}]
    media_type = URLENCODED if place.is_oauth else JSON
    return {
        "required": not place.operation.may_lack_body,
        "content": {media_type: {"schema": schema, "example": place.operation.example}},
    }


def _input_schema(form: type[forms.Form], field: Field, *, is_required: bool) -> dict[str, Any]:
    """Return what the validators of a field demand, in JSON Schema's words."""
    if field.name in form.switches:
        return {"type": "boolean", "description": INPUTS[field.name]}
    if field.name in form.objects:
        return {"type": "object", "description": INPUTS[field.name]}
    schema = shapes.text(description=INPUTS.get(field.name))
    if field.name in CHOICES:
        schema["enum"] = CHOICES[field.name]
    for validator in field.validators:
        if isinstance(validator, forms.Text):
            schema["maxLength"] = validator.most
            is_required = is_required or bool(validator.missing)
        else:
            schema |= RULES[validator]()
    if is_required:
        schema.setdefault("minLength", 1)
    return shapes.or_null(schema) if field.name in form.nullable else schema


RULES: dict[Any, Callable[[], dict[str, Any]]] = {
    forms.is_set_id: lambda: {"format": "uuid"},
    forms.is_email: lambda: {"format": "email", "maxLength": MAX_EMAIL},
    forms.is_phone_number: lambda: {"pattern": f"^({spelling.PHONE_NUMBER})?$"},
    forms.is_strong_password: lambda: {
        "minLength": current_app.config["PASSWORD_MIN_LENGTH"],
        "maxLength": MAX_LENGTH,
        "description": "Characters of any kind, spaces too; no common password, nor the e-mail address or"
        " the name of this site.",
    },
}


def _answers(place: Place) -> dict[str, Any]:
    """Return what an operation answers with when all is well."""
    operation, schema = place.operation, shapes.SCHEMAS[place.operation.answer]
    content: dict[str, Any] = {"schema": operation.answer}
    if operation.answer == "Nothing":
        headers = _headers(place, HTTPStatus(operation.status))
        return {str(operation.status): {"description": schema["description"], "headers": headers}}
    if operation.message:
        content["example"] = {"success": True, "message": operation.message}
    elif "examples" in schema:
        content["example"] = schema["examples"][0]
    answers: dict[str, Any] = {
        str(operation.status): {
            "description": schema["description"],
            "headers": _headers(place, HTTPStatus(operation.status)),
            "content": {operation.answer_type: content},
        }
    }
    if operation.accepted:
        message = {"success": True, "message": operation.accepted}
        answers["202"] = {
            "description": shapes.SCHEMAS["Message"]["description"],
            "headers": _headers(place, HTTPStatus.ACCEPTED),
            "content": {JSON: {"schema": "Message", "example": message}},
        }
    if operation.is_conditional:
        answers["200"]["headers"]["ETag"] = "ETag"
        answers["304"] = {
            "description": "What the client has is current.",
            "headers": answers["200"]["headers"],
        }
    return answers


def _refusals(spec: APISpec, place: Place) -> dict[str, Any]:
    """Return what an operation answers with when something is wrong, by status.

    What all operations say alike stands once, among the components.
    """
    common = _common_errors(place)
    errors = sorted([*place.operation.errors, *common], key=_status)
    refusals: dict[str, Any] = {}
    for status, group in groupby(errors, key=_status):
        of_status = list(group)
        refusal = {
            "description": status.phrase,
            "headers": _headers(place, status),
            "content": {
                PROBLEM: {
                    "schema": "OAuthProblem" if place.is_oauth else "Problem",
                    "examples": dict(_examples(spec, place, of_status)),
                }
            },
        }
        is_shared = place.limit and all(error in common for error in of_status)
        if is_shared and not place.is_oauth and status != HTTPStatus.UNPROCESSABLE_ENTITY:
            name = status.phrase.replace(" ", "")
            if any(isinstance(error, InsufficientAuthentication) for error in of_status):
                name += "OrNotFresh"
            if name not in spec.components.responses:
                spec.components.response(name, refusal)
            refusals[str(int(status))] = name
        else:
            refusals[str(int(status))] = refusal
    return refusals


def _common_errors(place: Place) -> list[AuthsiteError | HTTPStatus]:
    """Return what may go wrong with any operation of its kind."""
    errors: list[AuthsiteError | HTTPStatus] = [
        MalformedRequest(),
        Forbidden("Use https"),
        HTTPStatus.INTERNAL_SERVER_ERROR,
    ]
    if not place.is_public:
        errors += [NotAuthenticated(), TokenExpired(), TokenInvalid(), SessionRevoked()]
    if place.needs_step_up:
        errors.append(InsufficientAuthentication(int(step_up.max_age().total_seconds())))
    if form := place.operation.form:
        refusal = _refusal(form, {}) or _refusal(form, dict.fromkeys(_fields(form), 1))
        assert refusal
        errors.append(refusal)
    if place.operation.form or place.operation.members:
        errors += [UnsupportedMediaType(), HTTPStatus.REQUEST_ENTITY_TOO_LARGE]
    if place.limit or place.operation.is_for_services:
        errors += [HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE]
    return errors


def _headers(place: Place, status: HTTPStatus) -> dict[str, str]:
    names = ["X-Request-Id", *shapes.HEADERS_OF_STATUS.get(status, [])]
    if place.limit or (place.operation.is_for_services and status >= HTTPStatus.BAD_REQUEST):
        names += ["RateLimit", "RateLimit-Policy"]
    return {name: name for name in names}


def _examples(
    spec: APISpec, place: Place, errors: Iterable[AuthsiteError | HTTPStatus]
) -> Iterator[tuple[str, Any]]:
    """Yield each problem by name: itself, or where others say the same its name among the components."""
    for error in errors:
        example = _problem_example(error, place)
        name = re.sub(r"\W+", "_", example["summary"].lower()).strip("_")
        if place.is_oauth or isinstance(error, InvalidInput):
            yield name, example
        else:
            if name not in spec.components.examples:
                spec.components.example(name, example)
            yield name, name


def _status(error: AuthsiteError | HTTPStatus) -> HTTPStatus:
    return error if isinstance(error, HTTPStatus) else HTTPStatus(problems.status_of(error))


def _problem_example(error: AuthsiteError | HTTPStatus, place: Place) -> dict[str, Any]:
    status = _status(error)
    if isinstance(error, HTTPStatus):
        code, message = problems.CODES[status]
        members: list[tuple[str | None, str]] = [(None, message)]
    else:
        code, message = error.code, error.message
        members = error.errors if isinstance(error, InvalidInput) else [(error.field, message)]
    problem = {
        "type": f"{current_app.config['PUBLIC_BASE_URL']}/api/v1/docs#{code}",
        "title": status.phrase,
        "status": int(status),
        "detail": message,
        "instance": place.path.replace("{session_id}", str(shapes.SESSION["id"])),
        "success": False,
        "request_id": "3f6b2c1d-4e5f-4a57-9b1d-7c4e01936f2a",
        "errors": [{"code": code, "message": text, "field": field} for field, text in members],
    }
    if isinstance(error, AuthsiteError):
        problem |= problems.extensions_of(error)
    if place.is_oauth:
        oauth_errors: Mapping[Any, str] = problems.OAUTH_ERRORS
        problem["error"] = oauth_errors.get(type(error), "invalid_request")
        problem["error_description"] = message
    return {"summary": message, "value": problem}
