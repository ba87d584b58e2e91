"""What gunicorn serves where tests/racing.py lets requests race: the service, in two modes at once.

A site that makes accounts at once and one that keeps claims first differ in one setting; started apart they
would cost twice the time. The request says which of the two it is for. Mail waits in the outbox to be
counted, and a password's hash is as cheap as in the tests' own process.
"""

import os
from collections.abc import Iterable
from typing import Any

from argon2 import PasswordHasher

from authsite import create_app
from authsite.crypto import hashing

hashing.HASHER = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
_APPS = {
    mode: create_app(os.environ | {"EMAIL_VERIFICATION": mode}) for mode in ("off", "required")
}
for _each in _APPS.values():
    _each.config["DELIVER_MAIL_AFTER_COMMIT"] = False


def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    mode = environ.get("HTTP_EMAIL_VERIFICATION", "off")
    return _APPS[mode](environ, start_response)
