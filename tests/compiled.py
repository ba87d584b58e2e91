"""What every application of a test run compiles alike: routes and templates. Here it is done once.

It was most of the time that making one takes, and a test makes one for each new set of settings.
"""

from collections.abc import Callable
from typing import Any

import pytest
from jinja2 import BytecodeCache
from jinja2.bccache import Bucket
from werkzeug.routing import Rule


class Templates(BytecodeCache):
    """Keeps in memory what a template was compiled to, by its name and content."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], Any] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        bucket.code = self._kept.get((bucket.key, bucket.checksum))

    def dump_bytecode(self, bucket: Bucket) -> None:
        self._kept[bucket.key, bucket.checksum] = bucket.code


TEMPLATES = Templates()


def once_for_all_applications(patch: pytest.MonkeyPatch) -> None:
    """Have rules that are written alike share the functions that build their URLs.

    Such a function finds converters by the rule that it is asked for; all else in it was in the key.
    """
    compile_ = Rule._compile_builder
    compiled: dict[tuple[Any, ...], Callable[..., Any]] = {}

    def look_up(rule: Rule, append_unknown: bool = True) -> Callable[..., Any]:
        defaults = repr(rule.defaults)
        key = (append_unknown, rule.rule, *rule._trace, frozenset(rule.arguments), defaults)
        if key not in compiled:
            compiled[key] = compile_(rule, append_unknown)
        return compiled[key]

    patch.setattr(Rule, "_compile_builder", look_up)
