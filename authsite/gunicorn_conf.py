"""gunicorn's settings, named by the Procfile. Heroku's router gives up after 30 s: everything stays below."""

import contextlib
import ctypes
import os
from typing import Any

bind = f"0.0.0.0:{os.environ.get('PORT', '8000')}"
workers = int(os.environ.get("WEB_CONCURRENCY", "1"))
worker_class = "gthread"
# Sign-ins wait for their turn to hash and hold a thread meanwhile; cheap requests need one that is free.
threads = 16
timeout = 25
graceful_timeout = 20
keepalive = 95  # longer than the router's 90, so that it never meets a closing connection
max_requests = 200_000
max_requests_jitter = 20_000
control_socket_disable = True
accesslog = None  # each request is logged by the application, with its id

M_MMAP_THRESHOLD = -3  # malloc.h


def post_fork(_server: Any, _worker: Any) -> None:
    """Have the C library give the 19 MiB of each hash back, instead of keeping them for each thread."""
    with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 1 << 20)
