"""The contiguous prefix of acknowledged positions.

Acknowledgements come in any order, because calls run concurrently. A broker may only be told the position up to which
everything is acknowledged. Faust 0.15.3 commits past a held record in three cases (seen on a real broker), so every
bus puts this tracker before its own acknowledgement.
"""

from collections import deque


class PrefixTracker:
    """Positions delivered and acknowledged in one assignment of one partition.

    Positions are delivered in rising order, with gaps where the broker has none (compaction, other subjects). Memory
    is bounded by the positions delivered and not in the prefix yet.
    """

    def __init__(self) -> None:
        self._order: deque[int] = deque()
        self._open: set[int] = set()
        self._delivered = -1
        self._floor = -1

    @property
    def floor(self) -> int:
        """The highest position up to which everything delivered is acknowledged; -1 before the first."""
        return self._floor

    def deliver(self, position: int) -> bool:
        """Note a delivery. Returns False for a repeat, which must not reach the stage a second time."""
        if position <= self._delivered:
            return False
        self._delivered = position
        self._order.append(position)
        self._open.add(position)
        return True

    def ack(self, position: int) -> int | None:
        """Note an acknowledgement; a repeat, or one of a position never delivered, does nothing.

        Returns the new floor, None if it did not rise.
        """
        if position not in self._open:
            return None
        self._open.discard(position)
        if self._order[0] != position:
            return None
        while self._order and self._order[0] not in self._open:
            self._floor = self._order.popleft()
        return self._floor
