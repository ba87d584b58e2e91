"""Whose certificates we believe when we are the client: of a mail server, of a webhook's receiver."""

import os
import ssl
from functools import lru_cache


def verifying_context(protocol: str) -> ssl.SSLContext:
    """Return what verifies a server's certificate and name by the system's authorities, or SSL_CERT_FILE's.

    Reading those costs 20 ms of CPU, as much as a password's hash: once per process and protocol. Threads
    may share it; protocols may not, since a library for one of them offers that one in the handshake.
    """
    return _read(protocol, os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))


@lru_cache(maxsize=2)
def _read(_protocol: str, _file: str | None, _directory: str | None) -> ssl.SSLContext:
    return ssl.create_default_context()
