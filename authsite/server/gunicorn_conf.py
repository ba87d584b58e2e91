"""gunicorn's settings, named by the Procfile. Heroku's router gives up after 30 s: everything stays below."""

import os
import runpy
from pathlib import Path


def _load(module: str, name: str) -> type:
    """Return a class of a file beside this one: a reload (SIGHUP) reads both anew."""
    loaded: type = runpy.run_path(str(Path(__file__).with_name(f"{module}.py")))[name]
    return loaded


def _address() -> str:
    """Return where to listen: on this machine alone, unless a platform in production names the port.

    Behind a proxy of one's own nobody else may reach the port, for he could invent his address. Where
    APP_ENV was forgotten, a development's database and secret are open to nobody else either.
    """
    is_production = os.environ.get("APP_ENV", "").lower() == "production" or "DYNO" in os.environ
    port = os.environ.get("PORT")
    if port is None or not is_production:
        return f"127.0.0.1:{port or 8000}"
    # Both families; a kernel without the sixth version has no such file.
    return f"[::]:{port}" if Path("/proc/net/if_inet6").exists() else f"0.0.0.0:{port}"


bind = _address()
workers = int(os.environ.get("WEB_CONCURRENCY", "1"))
threads = 4  # at work at once; see authsite/server/threads.py
worker_class = _load("worker", "Worker")
limit_request_field_size = 16 * 1024  # what is too long is refused in our own words
sendfile = False  # it would wait for the client to make room
worker_connections = 4000  # a connection that waits costs a socket and no thread
timeout = 25
graceful_timeout = 20
keepalive = 95  # longer than the router's 90, so that it never meets a closing connection
max_requests = 200_000
max_requests_jitter = 20_000
control_socket_disable = True
forwarded_allow_ips = ""  # whom to believe about addresses is TRUSTED_PROXY_HOPS, and nothing else
accesslog = None  # each request is logged by the application, with its id
logger_class = _load("log", "Log")
