"""gunicorn's settings, named by the Procfile. Heroku's router gives up after 30 s: everything stays below."""

import contextlib
import importlib.util
import json
import os
import resource
import runpy
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

HERE = Path(__file__).parent
# A connection that waits costs a socket and no thread. Beside them each worker has files of its own open.
MOST_CONNECTIONS = 4000
OTHER_FILES = 200
OF_SETTINGS = ("IS_PRODUCTION", "PORT", "WORKERS", "LOG_FORMAT")


def _load(module: str, name: str) -> type:
    """Return a class of a file beside this one: a reload (SIGHUP) reads both anew."""
    loaded: type = runpy.run_path(str(HERE / f"{module}.py"))[name]
    return loaded


def _settings() -> dict[str, Any]:
    """Return the application's settings that count here, or end with what is wrong with any of them.

    Before a worker is started: one that cannot start would be started again for ever. In a process of its
    own: workers would inherit what is imported for it, and a reload after an upgrade mix two versions.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _tell_settings(writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        told = pipe.read()
    with contextlib.suppress(
        ChildProcessError
    ):  # after a reload gunicorn's main loop may have met it first
        os.waitpid(child, 0)
    if not told:
        sys.exit(1)
    settings: dict[str, Any] = json.loads(told)
    return settings


def _tell_settings(pipe: int) -> NoReturn:
    """Write the settings as JSON, or their problems to standard error, and end this process."""
    name = "authsite_settings"
    try:
        # By its path: the package around it is the whole application.
        spec = importlib.util.spec_from_file_location(name, HERE.parent / "config" / "__init__.py")
        assert spec is not None
        assert spec.loader is not None
        config = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(config)
        try:
            settings = config.load(os.environ)
            os.write(pipe, json.dumps({each: settings[each] for each in OF_SETTINGS}).encode())
        except config.ConfigError as refusal:
            print(refusal, file=sys.stderr, flush=True)  # noqa: T201
    except BaseException:
        traceback.print_exc()
    os._exit(0)


def _address(settings: dict[str, Any]) -> str:
    """Return where to listen: on this machine alone, unless a platform in production names the port.

    Behind a proxy of one's own nobody else may reach the port, for he could invent his address. Where
    APP_ENV was forgotten, a development's database and secret are open to nobody else either.
    """
    port = settings["PORT"]
    if port is None or not settings["IS_PRODUCTION"]:
        return f"127.0.0.1:{port or 8000}"
    # Both families; a kernel without the sixth version has no such file.
    return f"[::]:{port}" if Path("/proc/net/if_inet6").exists() else f"0.0.0.0:{port}"


def _connections() -> int:
    """Return how many connections a worker may hold: as many as this process may open files for.

    Without a descriptor none can be let in, and none be told so.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = MOST_CONNECTIONS + OTHER_FILES
    if soft < files:
        soft = min(files, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))  # workers inherit it
    return max(1, min(MOST_CONNECTIONS, soft - OTHER_FILES))


_site = _settings()
bind = _address(_site)
workers = _site["WORKERS"]
threads = 6  # at work at once, at most; see authsite/server/threads.py
worker_class = _load("worker", "Worker")
limit_request_field_size = 16 * 1024  # what is too long is refused in our own words
sendfile = False  # it would wait for the client to make room
worker_connections = _connections()
timeout = 25
graceful_timeout = 20
keepalive = 95  # longer than the router's 90, so that it never meets a closing connection
max_requests = 200_000
max_requests_jitter = 20_000
control_socket_disable = True
forwarded_allow_ips = ""  # whom to believe about addresses is TRUSTED_PROXY_HOPS, and nothing else
accesslog = None  # each request is logged by the application, with its id
logger_class: Any = _load("log", "Log")
logger_class.writes_json = _site["LOG_FORMAT"] == "json"
