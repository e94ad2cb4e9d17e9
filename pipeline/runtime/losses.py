"""Records that a broker deleted before their stage had read them: log, metric, and the ledger of each call known.

A broker that deletes by age alone, as Kafka does, does not say whose records they were. Two things tell:

- The records that are left in the partition. If the first of a call has a higher number than the stage has read, those
  between are lost.
- The ledger. A call that the stage had begun and not finished keeps a record on the bus, and so does one that the stage
  before has finished and this one has not. If nothing of it is left, the rest of it is lost.

The second is known only for calls in the partition that follows from their key.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec
import structlog

from pipeline.bus.protocol import Bus, Expired, Partition, Record
from pipeline.clock import unix_time_s
from pipeline.runtime.decoding import Decoder
from pipeline.runtime.publisher import Publisher
from pipeline.telemetry.metrics import Metrics
from schemas import topics
from schemas.calls import CallRef
from schemas.status import EXPIRED_TYPE, JOBS, JobStatus, RecordsExpired
from stages.ledger import ledger_entry

_MOST_LOOKED_AT: Final = 20_000
"""Records of the partition. Calls whose first record comes later stay without a name."""
_LOOK_WITHIN_S: Final = 20.0
_LOGGED_CALLS: Final = 20
_WRITTEN_BY: Final = {topics.SEGMENTS: "transcribe", topics.TRANSCRIPTS: "merge"}
"""The job whose end in the ledger means that everything of the call is on the topic. Not for the topics of a lane: the
ledger does not tell a call's lane."""

ReadTo = Callable[[CallRef], int]
"""Returns the number of the next input of a call, as far as this process has taken it; 0 if it is not in memory."""


def _nothing(_call: CallRef) -> int:
    return 0


class _Lost(NamedTuple):
    """The inputs of a call that are lost. `last` is None if none of the call is left after `first`."""

    first: int
    last: int | None


class _Left(NamedTuple):
    """What a partition still has: the lowest number of each call (None without numbers), and when it was stored."""

    numbers: dict[CallRef, int | None]
    begins_at_s: float
    complete: bool


class Losses:
    """Tells of the records that one group has lost."""

    def __init__(
        self,
        bus: Bus,
        publisher: Publisher,
        metrics: Metrics,
        *,
        stage: str,
        group: str,
        has_progress: bool = False,
        decoder: Decoder | None = None,
    ) -> None:
        """`has_progress`: the group's outputs carry the progress of calls."""
        self._bus = bus
        self._publisher = publisher
        self._metrics = metrics
        self._stage = stage
        self._group = group
        self._has_progress = has_progress
        self._decoder = decoder
        self._told: dict[tuple[str, int], int] = {}
        self._log = structlog.get_logger("callstream.runner").bind(stage=stage, group=group)

    async def tell(self, expired: Expired, partition: Partition, read_to: ReadTo = _nothing) -> None:
        """Log, count and store what has expired. Returns once the ledger has it. Raises BusError."""
        place = (expired.topic, expired.partition)
        first = max(expired.first, self._told.get(place, -1) + 1)
        if first > expired.last:
            return
        left = await self._left(expired)
        calls = await self._calls(partition, left, read_to)
        for call, lost in sorted(calls.items()):
            await self._publisher.send(self._entry(call, lost, expired, left.begins_at_s), call)
        at = left.begins_at_s
        record = RecordsExpired(
            stage=self._stage,
            group=self._group,
            topic=expired.topic,
            partition=expired.partition,
            first=first,
            last=expired.last,
            calls=len(calls),
            at=at,
        )
        name = f"{self._group}/{expired.topic}/{expired.partition}/{first}-{expired.last}"
        key = f"{expired.topic}/{expired.partition}".encode()
        await self._publisher.note(topics.STATUS, key, record, event_id=f"{name}/{at}", event_type=EXPIRED_TYPE)
        self._told[place] = expired.last
        self._metrics.records_expired_unread.labels(self._stage, expired.topic).inc(expired.last - first + 1)
        self._log.error(
            "records expired unread",
            topic=expired.topic,
            partition=expired.partition,
            first=first,
            last=expired.last,
            records=expired.last - first + 1,
            calls=len(calls),
            named=[call.call_id for call in sorted(calls)[:_LOGGED_CALLS]],
        )

    def _entry(self, call: CallRef, lost: _Lost, expired: Expired, at: float) -> Any:
        to = "on" if lost.last is None else f"to {lost.last}"
        detail = {
            "topic": expired.topic,
            "partition": expired.partition,
            "first_number": lost.first,
            "last_number": lost.last,
            "error": f"records of {expired.topic} expired unread: from number {lost.first} {to}",
        }
        event_id = call.event_id(self._stage, "expired", expired.topic, lost.first, str(lost.last), str(at))
        return ledger_entry(call, self._stage, "expired", detail, at=at, event_id=event_id)

    async def _left(self, expired: Expired) -> _Left:
        numbers: dict[CallRef, int | None] = {}
        begins_at_s: float | None = None
        complete, seen = False, 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_WITHIN_S):
                async for record in self._bus.stored(expired.topic, start=(expired.partition, expired.last + 1)):
                    seen += 1
                    if begins_at_s is None:
                        begins_at_s = record.timestamp_s
                    if seen > _MOST_LOOKED_AT:
                        break
                    for call, number in self._decoded(record):
                        known = numbers.get(call)
                        numbers[call] = number if known is None or number is None else min(known, number)
                else:
                    complete = True
        return _Left(numbers, unix_time_s() if begins_at_s is None else begins_at_s, complete)

    def _decoded(self, record: Record) -> list[tuple[CallRef, int | None]]:
        """Return the record's call and number; nothing for a record that cannot be read."""
        try:
            if self._decoder is None:
                return [(CallRef.from_key(record.key), None)]
            decoded = self._decoder(record)
        except Exception:
            return []
        return [(decoded.call, decoded.seq)]

    async def _calls(self, partition: Partition, left: _Left, read_to: ReadTo) -> dict[CallRef, _Lost]:
        calls: dict[CallRef, _Lost] = {}
        for call, number in left.numbers.items():
            read = await self._read_to(call, partition, read_to)
            if number is not None and number > (read or 0):
                calls[call] = _Lost(read or 0, number - 1)
        if left.complete:
            for call, is_written in (await self._open_calls(partition, left.begins_at_s)).items():
                read = await self._read_to(call, partition, read_to)
                if call not in left.numbers and (read is not None or is_written):
                    calls[call] = _Lost(read or 0, None)
        return calls

    async def _read_to(self, call: CallRef, partition: Partition, read_to: ReadTo) -> int | None:
        """Return the number of the call's next input, None if the stage has not begun it."""
        in_memory = read_to(call)
        progress = await partition.progress(call.key) if self._has_progress else None
        return max(in_memory, progress.released) if progress is not None else in_memory or None

    async def _open_calls(self, partition: Partition, before_s: float) -> dict[CallRef, bool]:
        """Return the calls that the ledger of before `before_s` has and the stage has not finished.

        The value is True if everything of the call was on the topic.
        """
        state = await self._bus.describe((topics.STATUS,))
        if self._stage not in JOBS or not state or partition.number >= state[0].partitions:
            return {}
        jobs: dict[CallRef, dict[str, str]] = {}
        async for record in self._bus.stored(topics.STATUS, start=(partition.number, 0)):
            try:
                entry = msgspec.json.decode(record.value, type=JobStatus)
            except msgspec.MsgspecError:
                continue
            if entry.at < before_s and entry.status in ("started", "completed", "failed"):
                jobs.setdefault(CallRef(entry.tenant, entry.call_id), {})[entry.job] = entry.status
        writer = _WRITTEN_BY.get(partition.topic, "")
        return {
            call: states.get(writer) == "completed"
            for call, states in jobs.items()
            if states.get(self._stage, "started") == "started"
        }
