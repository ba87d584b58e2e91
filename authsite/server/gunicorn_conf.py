"""gunicorn's settings, named by the Procfile. Heroku's router gives up after 30 s: everything stays below."""

import importlib.util
import os
import runpy
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def _load(module: str, name: str) -> type:
    """Return a class of a file beside this one: a reload (SIGHUP) reads both anew."""
    loaded: type = runpy.run_path(str(HERE / f"{module}.py"))[name]
    return loaded


def _settings() -> dict[str, Any]:
    """Return the application's settings, or end with what is wrong with them, before any worker is started.

    A worker that cannot start would be started again for ever. The package itself is not imported: workers
    would inherit it, and a reload change nothing.
    """
    name = "authsite_config_of_gunicorn"
    spec = importlib.util.spec_from_file_location(name, HERE.parent / "config" / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    config = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(config)
        loaded: dict[str, Any] = config.load(os.environ)
    except Exception as error:
        if type(error).__name__ != "ConfigError":
            raise
        sys.exit(str(error))
    finally:
        for each in [each for each in sys.modules if each.startswith(name)]:
            del sys.modules[each]
    return loaded


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


_site = _settings()
bind = _address(_site)
workers = _site["WORKERS"]
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
logger_class: Any = _load("log", "Log")
logger_class.writes_json = _site["LOG_FORMAT"] == "json"
