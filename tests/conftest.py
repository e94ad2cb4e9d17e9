"""What holds for all tests: how property tests are judged, and which tests `make test` leaves to `make test-all`.

Property tests are judged by what they find, not by how fast a busy machine finds it.

A test is marked with each part that it needs (`kafka`, `ollama`, ...), which is found by following its code, its
fixtures and the functions of `tests` that those name, to the calls of `requirements.require_built` and its like. It is
marked `extra` where a part is one of `OPTIONAL` or it lies in one of `EXTRA_FOLDERS`.
"""

import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import structlog
from hypothesis import HealthCheck, settings

from tests.support import requirements
from tests.support.requirements import OPTIONAL

settings.register_profile("callstream", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("callstream")

# Without a configuration each logged exception is drawn with all its local variables, for seconds of CPU.
structlog.configure(
    processors=[
        *structlog.get_config()["processors"][:-1],
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
    ]
)

EXTRA_FOLDERS: Final = ("chaos", "contract")
"""Processes killed for minutes; each broker, by the same suite."""
INSTEAD: Final = {"kafka": {"jetstream", "memory", "nats"}, "qdrant": {"duckdb", "qdrant's client alone"}}
"""Parameters with which a test does without the part that it needs with others."""

_NEEDING: Final = ("missing", "require", "require_built")
_ROOT: Final = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        parts = needed_parts(item)
        for part in parts:
            item.add_marker(part)
        folder = item.path.relative_to(_ROOT).parts[0] if item.path.is_relative_to(_ROOT) else ""
        if parts or folder in EXTRA_FOLDERS:
            item.add_marker("extra")


def pytest_runtest_setup(item: pytest.Item) -> None:
    requirements.foreseen = {part for part in OPTIONAL if item.get_closest_marker(part)}


def needed_parts(item: pytest.Item) -> set[str]:
    """Return those of `OPTIONAL` that the test needs."""
    if not isinstance(item, pytest.Function):
        return set()
    manager = item.session._fixturemanager
    fixtures = set(item.fixturenames)
    found: set[str] = set()
    followed: set[Any] = set()
    waiting: list[Any] = [item.function]
    while waiting or fixtures:
        if fixtures:
            waiting += [made.func for made in manager.getfixturedefs(fixtures.pop(), item) or ()]
            continue
        function = waiting.pop()
        if function in followed:
            continue
        followed.add(function)
        names, constants = _said(function.__code__)
        if names & set(_NEEDING):
            found |= constants & set(OPTIONAL)
        if "getfixturevalue" in names:
            fixtures |= constants - set(item.fixturenames)
        waiting += [each for name in names for each in _functions(function.__globals__.get(name))]
    values = set(map(str, item.callspec.params.values())) if hasattr(item, "callspec") else set()
    return {part for part in found if not values & INSTEAD.get(part, set())}


def _said(code: types.CodeType) -> tuple[set[str], set[str]]:
    """Return the names and the strings in a function's code, that of functions inside it included."""
    names, strings = set(code.co_names), {each for each in code.co_consts if isinstance(each, str)}
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            more_names, more_strings = _said(inner)
            names, strings = names | more_names, strings | more_strings
    return names, strings


def _functions(value: object) -> Iterator[Callable[..., Any]]:
    """Yield the functions of a value that is a function or a class of `tests`."""
    value = getattr(value, "__wrapped__", value)  # a context manager's
    if not str(getattr(value, "__module__", "")).startswith("tests."):
        return
    if isinstance(value, types.FunctionType):
        yield value
    elif isinstance(value, type):
        for each in vars(value).values():
            yield from _functions(getattr(each, "__func__", each))
