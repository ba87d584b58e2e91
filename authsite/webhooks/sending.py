"""One signed POST to a receiver: no redirect, no proxy from the environment, ten seconds at most.

The operator names the URL, so a private address may be meant. What never is: the link-local addresses and
those at which a cloud tells a machine its credentials, whatever name leads there.
"""

import base64
import contextlib
import hashlib
import hmac
import http.client
import socket
import threading
import time
from typing import Any
from urllib.parse import urlsplit

import urllib3
from flask import current_app
from urllib3.connection import HTTPConnection, HTTPSConnection

from ..config import metadata
from ..crypto import certificates

TIMEOUT_SECONDS = 10
USER_AGENT = "authsite-webhooks"
FAILURES = (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError, ValueError)


class ForbiddenAddress(OSError):
    """The name leads where no receiver is."""


def post(url: str, body: bytes, *, message_id: str) -> int:
    """Send an event and return the status of the answer; raise one of FAILURES."""
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    headers = {
        "content-type": "application/json",
        "user-agent": USER_AGENT,
        **signature_headers(body, message_id=message_id, timestamp=int(time.time())),
    }
    with _deadline(_connection(url)) as connection:
        connection.request("POST", target, body=body, headers=headers, preload_content=False)
        # What the receiver says beyond the status is not read: it may be of any length.
        return int(connection.getresponse().status)


def signature_headers(body: bytes, *, message_id: str, timestamp: int) -> dict[str, str]:
    """Return the headers of Standard Webhooks, with a signature for each secret, newest first."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    signatures = [
        "v1," + base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode()
        for secret in current_app.config["WEBHOOK_SECRETS"]
    ]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(signatures),
    }


def refuse_forbidden(address: str) -> None:
    """Raise ForbiddenAddress for a link-local address or one of a cloud's metadata, however written."""
    if metadata.is_forbidden(address):
        raise ForbiddenAddress


class _Guarded:
    """A connection that goes to no forbidden address, and whose socket another thread may shut."""

    host: str
    port: int
    spare: socket.socket | None = None

    def _new_conn(self) -> socket.socket:
        for *_, found in socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM):
            refuse_forbidden(str(found[0]))
        connected: socket.socket = super()._new_conn()  # type: ignore[misc]
        try:
            # The name may have led elsewhere the second time.
            refuse_forbidden(connected.getpeername()[0])
            # TLS takes the socket itself over before it is done; a copy can be shut at any time.
            self.spare = connected.dup()
        except BaseException:
            connected.close()
            raise
        return connected


class _Plain(_Guarded, HTTPConnection):
    pass


class _Secure(_Guarded, HTTPSConnection):
    pass


def _connection(url: str) -> Any:
    parts = urlsplit(url)
    assert parts.hostname
    if parts.scheme == "https":
        context = certificates.verifying_context("http")
        port = parts.port or 443
        return _Secure(parts.hostname, port, timeout=TIMEOUT_SECONDS, ssl_context=context)
    return _Plain(parts.hostname, parts.port or 80, timeout=TIMEOUT_SECONDS)


@contextlib.contextmanager
def _deadline(connection: Any) -> Any:
    """Close the connection after the block, and shut it within the time if that is not over by then.

    A timeout of the socket alone begins anew with every byte that trickles in.
    """

    def shut() -> None:
        if connection.spare is not None:
            with contextlib.suppress(OSError):
                connection.spare.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(TIMEOUT_SECONDS, shut)
    timer.daemon = True
    timer.start()
    try:
        yield connection
    finally:
        timer.cancel()
        connection.close()
        if connection.spare is not None:
            connection.spare.close()
