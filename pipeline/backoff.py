"""The pause after each failed attempt."""

import asyncio
from collections.abc import Sequence


class Backoff:
    """Pauses in seconds, one after each failure in a row; the last of them after every further failure."""

    def __init__(self, pauses_s: Sequence[float]) -> None:
        self.failures = 0
        self._pauses_s = pauses_s

    def next_s(self) -> float:
        """Count a failure and return the pause after it."""
        pause_s = self._pauses_s[min(self.failures, len(self._pauses_s) - 1)]
        self.failures += 1
        return pause_s

    async def pause(self) -> None:
        """Count a failure and sleep for the pause after it."""
        await asyncio.sleep(self.next_s())

    def reset(self) -> None:
        """Begin with the first pause again: an attempt has succeeded."""
        self.failures = 0
