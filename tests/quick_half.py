"""Which tests are of the quick half: those without a mark of setup.cfg, which start no process.

A test that asks for a server or a browser is marked here. One that starts a process by itself has to say so,
and fails where it does not.
"""

import sys
from typing import Any

import pytest

SLOW = {"postgresql", "redis", "browser", "site", "slow"}
# What the session starts once, by its fixture, and the mark of each test that asks for it.
STARTED = {
    "postgresql_server_url": "postgresql",
    "valkey_url": "redis",
    "playwright": "browser",
}
_STARTS_A_PROCESS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"}
_running: list[pytest.Item] = []


def mark(item: pytest.Item) -> None:
    for fixture in STARTED.keys() & set(getattr(item, "fixturenames", ())):
        item.add_marker(STARTED[fixture])
    callspec = getattr(item, "callspec", None)
    if callspec and callspec.params.get("database_url", "sqlite") != "sqlite":
        item.add_marker("postgresql")


def is_quick(item: pytest.Item) -> bool:
    return SLOW.isdisjoint(mark.name for mark in item.iter_markers())


def begin(item: pytest.Item) -> None:
    _running[:] = [item] if is_quick(item) else []


def end() -> None:
    """What the session ends with its last test is no test's."""
    _running.clear()


def _look(event: str, _arguments: Any) -> None:
    if event in _STARTS_A_PROCESS and _running:
        pytest.fail(f"{_running[0].nodeid} starts a process ({event}): mark it `site`")


sys.addaudithook(_look)
