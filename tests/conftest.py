"""What holds for all tests: how property tests are judged, and which tests `make test` leaves to `make test-all`.

Property tests are judged by what they find, not by how fast a busy machine finds it. What a test changes of the
logging is taken back after it: another test that reads the log may run next in the same process.

A test carries the mark of each part that it needs of `requirements.OPTIONAL` (`kafka`, `ollama`, ...), and fails
without the mark. It is marked `extra` here where it carries one or lies in one of `EXTRA_FOLDERS`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

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

_ROOT: Final = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        folder = item.path.relative_to(_ROOT).parts[0] if item.path.is_relative_to(_ROOT) else ""
        if needed_parts(item) or folder in EXTRA_FOLDERS:
            item.add_marker("extra")


def pytest_runtest_setup(item: pytest.Item) -> None:
    requirements.marked = needed_parts(item)


@pytest.fixture(autouse=True)
def structlog_as_before() -> Iterator[None]:
    before = structlog.get_config()
    yield
    structlog.configure(**before)


def needed_parts(item: pytest.Item) -> set[str]:
    """Return those of `OPTIONAL` that the test is marked with."""
    return {part for part in OPTIONAL if item.get_closest_marker(part)}
