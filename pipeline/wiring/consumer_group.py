"""What a stage reads: topics, lanes, decoder, and how much of them it may hold."""

from typing import Final

import msgspec

from pipeline.bus.protocol import Subscription
from pipeline.runtime.decoding import Decoder
from pipeline.runtime.movement import STANDSTILL_S
from schemas.topics import Lane, in_lane

LANES: Final[tuple[Lane, ...]] = ("live", "batch")


class ConsumerGroup(msgspec.Struct, frozen=True, kw_only=True):
    """What one group of readers of a stage reads, and how its records are decoded.

    `reads` names topics as in the live lane. A group whose topics exist once for each lane has a subscription in each;
    any other reads the calls of both lanes in one.
    """

    name: str
    reads: tuple[str, ...]
    budget_bytes: int
    """The most that a reader holds, in each lane, of records that it has taken and not finished."""
    decoder: Decoder | None = None
    """None where the stage decodes by itself, as batch stages do."""
    progress: str | None = None
    """The topic whose records carry the group's progress: that of the stage's numbered outputs."""

    standstill_s: float = STANDSTILL_S
    """How long one record may take before the group counts as standing still. Infinite where records wait for a service
    outside."""

    @property
    def lanes(self) -> tuple[Lane, ...]:
        return LANES if any(in_lane(topic, "batch") != topic for topic in self.reads) else ("live",)

    def subscription(self, lane: Lane) -> Subscription:
        return Subscription(
            group=self.name if lane == "live" else f"{self.name}-{lane}",
            topics=tuple(in_lane(topic, lane) for topic in self.reads),
            progress_topic=None if self.progress is None else in_lane(self.progress, lane),
        )
