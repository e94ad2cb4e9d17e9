"""Calls that are not in memory although inputs of theirs are not acknowledged: only where those inputs are is kept.

A call that is quiet for long may go on: its speakers may be silent, or a stage before this one may be down. It may also
never go on: nobody ends what an outsider began on a topic between two stages. Either way its next input opens it again
from its checkpoint, after the inputs that the checkpoint does not hold: the same path as after a crash.
"""

from array import array
from collections.abc import Iterable
from typing import Final

from pipeline.bus.protocol import Partition
from schemas.calls import CallRef

Place = tuple[str, int]
"""Topic and partition."""


class RestingCall:
    """`positions` of the inputs to read again, in order. `taken_to`: the number after the highest of all inputs."""

    __slots__ = ("positions", "taken_to")

    def __init__(self, positions: Iterable[int], taken_to: int) -> None:
        self.positions: Final = array("q", positions)
        self.taken_to: Final = taken_to


class RestingCalls:
    """The resting calls of one runner."""

    def __init__(self) -> None:
        self._by_place: dict[Place, dict[CallRef, RestingCall]] = {}

    def put(self, partition: Partition, call: CallRef, resting: RestingCall) -> None:
        self._by_place.setdefault((partition.topic, partition.number), {})[call] = resting

    def get(self, partition: Partition, call: CallRef) -> RestingCall | None:
        calls = self._by_place.get((partition.topic, partition.number))
        return None if calls is None else calls.get(call)

    def take(self, partition: Partition, call: CallRef) -> RestingCall | None:
        """Return the call and forget it; None if it does not rest."""
        calls = self._by_place.get((partition.topic, partition.number))
        return None if calls is None else calls.pop(call, None)

    def drop(self, partition: Partition) -> None:
        """Forget the calls of a partition, whose inputs another worker gets."""
        self._by_place.pop((partition.topic, partition.number), None)

    def clear(self) -> None:
        self._by_place.clear()

    def places(self) -> set[Place]:
        """Return the partitions with inputs that were delivered and are not acknowledged."""
        return {place for place, calls in self._by_place.items() if calls}
