"""rich's consoles, for text of others: they style it, and print no control character in it."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions
from rich.segment import Segment

from pipeline.printable import without_controls


class CleanConsole(Console):
    """A console that leaves control characters out of whatever it prints. Its own, such as colours, come later."""

    def render(self, renderable: Any, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=without_controls(segment.text))


def console() -> Console:
    """Return a console on standard error for what a long-running command says."""
    return CleanConsole(stderr=True, highlight=False, soft_wrap=True)


def stdout_console() -> Console:
    return _wide(stderr=False)


def stderr_console() -> Console:
    return _wide(stderr=True)


def _wide(*, stderr: bool) -> Console:
    """Return a console; without a terminal, one wide enough for the table of metrics."""
    made = CleanConsole(stderr=stderr, highlight=False, soft_wrap=True)
    return made if made.is_terminal else CleanConsole(stderr=stderr, highlight=False, soft_wrap=True, width=120)
