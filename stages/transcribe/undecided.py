"""Room for the utterances of recorded calls whose text waits until the language of their call is decided.

Their audio stays in the runner's memory budget meanwhile. Without a limit, calls that wait for their next utterances
could fill the budget, so that no utterance could be read any more.
"""

import contextlib
from collections.abc import Iterator
from typing import Final

UNDECIDED_BYTES: Final = 8_000_000
"""Some 36 calls with a pack of 14 s at 8 kHz."""


class UndecidedAudio:
    """Counts the bytes of audio that wait. Shared by the calls of a lane."""

    def __init__(self, limit_bytes: int = UNDECIDED_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._used_bytes = 0

    @contextlib.contextmanager
    def holding(self, n_bytes: int) -> Iterator[bool]:
        """Take room inside the context. Yields False if there is none."""
        if self._used_bytes + n_bytes > self._limit_bytes:
            yield False
            return
        self._used_bytes += n_bytes
        try:
            yield True
        finally:
            self._used_bytes -= n_bytes
