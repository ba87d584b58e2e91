"""The servers that are compared: the floor, and the service under gunicorn or granian."""

import hashlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from tests import services

GUNICORN = ["-m", "gunicorn", "--config", "authsite/server/gunicorn_conf.py"]


class Server(services.Site):
    """A site that any command serves, with the memory that it holds."""

    def __init__(self, command: list[str], environ: dict[str, str], *, workers: int) -> None:
        super().__init__(environ, workers=workers)
        self._command = [each.replace("{port}", str(self.port)) for each in command]

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *self._command],
            cwd=services.ROOT,
            env=self.environ,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )
        services.wait_until(self.answers, seconds=30, what="the site's start")

    def megabytes(self) -> list[float]:
        """Return each worker's share of the memory in use (PSS), shared pages divided."""
        return [_pss(pid) / 1024 for pid in self.worker_pids()]


def floor(dsn: str, *, workers: int) -> Server:
    """Return the floor under gunicorn's own threaded worker, with as many threads as suited it best."""
    options = ["--worker-class", "gthread", "--threads", "4", "--keep-alive", "95"]
    bind = ["--workers", str(workers), "--bind", f"{services.HOST}:{{port}}"]
    environ = {"FLOOR_DSN": dsn, "PYTHONPATH": str(services.ROOT)}
    command = ["-m", "gunicorn", *options, *bind, "tests.bench.floor:app"]
    return Server(command, environ, workers=workers)


def ours(database_url: str, redis_url: str, *, workers: int, server: str = "gunicorn") -> Server:
    """Return the service as the Procfile runs it, in production, behind one proxy that speaks https."""
    return Server(command(server, workers), production(database_url, redis_url), workers=workers)


def command(server: str, workers: int) -> list[str]:
    if server == "gunicorn":
        return [*GUNICORN, "--bind", f"{services.HOST}:{{port}}", "wsgi:app"]
    if importlib.util.find_spec("granian") is None:
        raise SystemExit("granian is missing: pip install granian")
    return [
        *("-m", "granian", "--interface", "wsgi", "--no-ws", "--http", "1"),
        *("--host", services.HOST, "--port", "{port}", "--workers", str(workers)),
        *("--blocking-threads", str(_threads()), "wsgi:app"),
    ]


def production(database_url: str, redis_url: str) -> dict[str, str]:
    return {
        "APP_ENV": "production",
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "PUBLIC_BASE_URL": f"https://{services.HOST}",
        "TRUSTED_PROXY_HOPS": "1",
        "FORWARD_AUTH_ORIGINS": "https://wiki.example.com",
        "SERVICE_CLIENTS": f"bench:{hashlib.sha256(b'secret of the benchmark').hexdigest()}",
        "MAIL_SERVER": services.HOST,
        "MAIL_DEFAULT_SENDER": "accounts@example.com",
        "MAIL_PORT": "9",  # nobody listens: no workload sends mail
    }


def _threads() -> int:
    spec = importlib.util.spec_from_file_location(
        "gunicorn_conf", services.ROOT / "authsite" / "server" / "gunicorn_conf.py"
    )
    assert spec is not None
    assert spec.loader is not None
    conf = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conf)
    return int(conf.threads)


def _pss(pid: int) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))


def machine() -> str:
    cpu = next(
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    )
    load = os.getloadavg()[0]
    return f"{os.cpu_count()} x {cpu}, Python {sys.version.split()[0]}, load at start {load:.1f}"
