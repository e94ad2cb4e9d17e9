"""Imports that a library tries and does without."""

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def absent(module: str) -> Iterator[None]:
    """Make importing `module` fail inside, as if it were not installed, unless it is imported already."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]  # Python's own way to say so
    try:
        yield
    finally:
        del sys.modules[module]
