"""The command line: one line around a verb each. Exit 0 done, 1 failed, 2 bad arguments."""

from . import (
    accounts,
    activity,
    cleanup,
    mail,
    products,
    second_steps,
    services,
    sessions,
    settings,
    spreading,
    worker,
)
from .shell import blueprint

__all__ = [
    "accounts",
    "activity",
    "blueprint",
    "cleanup",
    "mail",
    "products",
    "second_steps",
    "services",
    "sessions",
    "settings",
    "spreading",
    "worker",
]
