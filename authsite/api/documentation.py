"""What this API is, for programs and for people: the same document twice."""

import json
import re
import shlex
from collections.abc import Callable, Iterator
from typing import Any

from flask import Blueprint, Response, current_app, render_template, request
from markupsafe import Markup, escape

from ..web import authentication, openapi, shapes

blueprint = Blueprint("documentation", __name__)

# What of an error is read: its status, code and words.
Said = tuple[int, str, str]

# What stands for a secret or an id in a command that is to be copied.
# What each kind of token is called, where a member is called no more than that.
LINK_TOKENS = {
    shapes.TOKEN: "$ACCESS_TOKEN",
    shapes.REGISTRATION_TOKEN: "$REGISTRATION_TOKEN",
    shapes.EMAIL_TOKEN: "$EMAIL_TOKEN",
    shapes.CHANGE_TOKEN: "$CHANGE_TOKEN",
}
SHELL_VARIABLES = {
    "refresh_token": "$REFRESH_TOKEN",
    "token": "$RESET_TOKEN",
    "session_id": "$SESSION_ID",
    "passkey_id": "$PASSKEY_ID",
    "credential": "$CREDENTIAL",
    "mfa_token": "$MFA_TOKEN",
    "code": "$CODE",
    "setup_token": "$SETUP_TOKEN",
    "replaces": "$SET_ID",
}


@blueprint.get("/openapi.json")
@authentication.public
def openapi_document() -> Response:
    """Return the OpenAPI document, which is the same for everybody."""
    response = Response(openapi.as_json(), mimetype=openapi.JSON)
    response.headers["Cache-Control"] = "public, max-age=300"
    response.add_etag()
    response.make_conditional(request)
    return response


@blueprint.get("/docs")
@authentication.public
def docs() -> str:
    """Return the OpenAPI document as a page, made once."""
    page: str = openapi.once("authsite.api_docs", _docs)
    return page


def _docs() -> str:
    document = openapi.document()
    operations = list(_operations(document))
    shared = _shared_errors(operations)
    said = {_said(error) for errors in shared.values() for error in errors}
    for operation in operations:
        operation["errors"] = [each for each in operation["errors"] if _said(each) not in said]
    return render_template(
        "api/docs.html",
        document=document,
        shared_errors=shared,
        base_url=document["servers"][0]["url"],
        sections={
            tag["name"]: [each for each in operations if tag["name"] in each["tags"]]
            for tag in document["tags"]
        },
        shapes={name: document["components"]["schemas"][name] for name in SHOWN},
        codes=shapes.CODES,
        grace_seconds=current_app.config["REFRESH_GRACE_SECONDS"],
        lost_answer_seconds=current_app.config["REFRESH_LOST_ANSWER_SECONDS"],
        resolve=openapi.resolve,
        prose=_prose,
        breakable=_breakable,
        in_words=_in_words,
        as_text=lambda example: json.dumps(example, indent=2),
    )


def _operations(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield each operation with its method, its path, what may go wrong, and a command that calls it."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield operation | {
                "method": method.upper(),
                "path": path,
                "errors": list(_errors(operation)),
                "needs": _needs(operation),
                "curl": _curl(document["servers"][0]["url"], method.upper(), path, operation),
            }


def _needs(operation: dict[str, Any]) -> str:
    """Return what a call has to bring, as programs read it in `security`."""
    if not operation["security"]:
        return "Needs no access token."
    (scheme,) = operation["security"][0]  # of several the first: OAuth's brings the same token
    return f"Needs {NEEDED[scheme]}."


def _errors(operation: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for response in operation["responses"].values():
        content = openapi.resolve(response).get("content", {}).get(openapi.PROBLEM, {})
        for example in content.get("examples", {}).values():
            yield openapi.resolve(example)["value"]


def _shared_errors(operations: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return what may go wrong with every operation of a kind, by kind: it is said once."""
    shared: dict[str, list[dict[str, Any]]] = {}
    said: set[Said] = set()
    for kind, is_of_kind in KINDS_OF_CALLS.items():
        of_kind = [each["errors"] for each in operations if is_of_kind(each)]
        by_all = set.intersection(*({_said(error) for error in errors} for errors in of_kind))
        shared[kind] = [error for error in of_kind[0] if _said(error) in by_all - said]
        said |= by_all
    return shared


def _said(error: dict[str, Any]) -> Said:
    return error["status"], error["errors"][0]["code"], error["detail"]


def _curl(base_url: str, method: str, path: str, operation: dict[str, Any]) -> str:
    """Return a command for a shell; secrets and ids stand in it as variables."""
    address = re.sub(r"{(\w+)}", lambda match: SHELL_VARIABLES[match[1]], base_url + path)
    words = [
        f"curl -X {method} {_quote(address)}" if method != "GET" else f"curl {_quote(address)}"
    ]
    if {"bearer": []} in operation["security"]:
        words.append('-H "Authorization: Bearer $ACCESS_TOKEN"')
    if {"service": []} in operation["security"]:
        words.append('-u "$SERVICE_NAME:$SERVICE_SECRET"')
    for media_type, body in operation.get("requestBody", {"content": {}})["content"].items():
        members = {name: _shell_value(name, each) for name, each in body["example"].items()}
        if media_type == openapi.JSON:
            # An object that a browser has written: it stands there as it is, and not as text.
            text = json.dumps(members).replace('"$CREDENTIAL"', "$CREDENTIAL")
            words += [f"-H 'Content-Type: {media_type}'", f"-d {_quote(text)}"]
        else:
            words += [f"--data-urlencode {_quote(f'{name}={members[name]}')}" for name in members]
    return " \\\n  ".join(words)


def _shell_value(name: str, example: Any) -> Any:
    """Return the variable that stands for a secret member, or the example as it is."""
    if name == "token" and example in LINK_TOKENS:
        return LINK_TOKENS[example]
    return SHELL_VARIABLES.get(name, example)


def _quote(text: str) -> str:
    """Return text as one word of a shell command in which variables still count."""
    if "$" not in text:
        return shlex.quote(text)
    return '"' + re.sub(r'(["\\`])', r"\\\1", text) + '"'


def _prose(text: str) -> Markup:
    """Return text as HTML, with what stands between backticks as code."""
    parts = text.split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(_breakable(part)) if number % 2 else escape(part)
        for number, part in enumerate(parts)
    )


def _breakable(path: str) -> Markup:
    """Return a path as HTML that a narrow line breaks behind a slash, and not within a word."""
    return Markup("/<wbr>").join(path.split("/"))


def _in_words(schema: dict[str, Any]) -> str:
    """Return what a schema allows, in a few words."""
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    words = [str(KINDS.get(kind, kind)) for kind in kinds]
    if kinds[0] == "array":
        words[0] = f"list of {_in_words(schema['items'])}" if "$ref" in schema["items"] else "list"
    if "format" in schema:
        words[0] = FORMATS[schema["format"]]
    if "const" in schema:
        words[0] = json.dumps(schema["const"])
    if "enum" in schema:
        words[0] = "one of " + ", ".join(map(str, schema["enum"]))
    if "maxLength" in schema:
        words[0] += f", {schema.get('minLength', 0)} to {schema['maxLength']} characters"
    elif "minLength" in schema:
        words[0] += ", not empty"
    return ", or ".join(words)


KINDS_OF_CALLS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "Every call": lambda _: True,
    "Calls with a limit": lambda operation: "429" in operation["responses"],
    "Calls with a body": lambda operation: "requestBody" in operation,
    "Calls with an access token": lambda operation: {"bearer": []} in operation["security"],
}
NEEDED = {"bearer": "an access token", "service": "a service's name and secret, by HTTP Basic"}
KINDS = {"string": "text", "integer": "whole number", "boolean": "true or false"}
FORMATS = {
    "email": "e-mail address",
    "uuid": "UUID",
    "date-time": "time (RFC 3339)",
    "uri": "URL",
    "uri-reference": "path",
}
SHOWN = ("User", "Session", "Tokens", "Message", "Problem")
