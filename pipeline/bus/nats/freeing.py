"""What may be deleted from a stream, and its deletion: records that every stage has read, the oldest call first.

Between stages a record is read once the progress of its key, on the reading stage's own topic, releases it: after a
crash the stage would not need it again. The floor of the partition knows less, because the slowest call holds it. It
counts for what producers send, which has no such number, and for topics that several groups read.
"""

from collections.abc import AsyncIterator
from typing import Final, NamedTuple

from pipeline.bus.nats.connection import Session
from pipeline.bus.nats.listing import Listed, all_records, newest_by_subject
from pipeline.bus.nats.purge import floors, purge
from pipeline.bus.nats.stored import record_at_or_after
from pipeline.bus.nats.subjects import NO_PARTITION, PRODUCER_TOPICS, stream_name, subject_base
from pipeline.bus.protocol import TopicSpec

_FREED: Final = "callstream.state.freed"


class Freed(NamedTuple):
    """One deletion. `open_call` says that the call was not read to its end."""

    records: int
    open_call: bool = False


class Readings:
    """What the readers of a topic have read, as it was when this was made."""

    def __init__(self, spec: TopicSpec, floors_: dict[int, int], released: dict[str, int]) -> None:
        self._floors = floors_
        self._released = released
        self.by_progress = _has_numbers(spec)

    @classmethod
    async def of(cls, session: Session, spec: TopicSpec) -> "Readings":
        """Raises ApiError and SessionLost."""
        stream = stream_name(spec.name)
        read = await floors(session, stream, (reader.group for reader in spec.readers))
        released: dict[str, int] = {}
        if _has_numbers(spec):
            [reader] = spec.readers
            assert reader.progress_topic is not None
            base = subject_base(reader.progress_topic)
            for last in await newest_by_subject(session, stream_name(reader.progress_topic), f"{base}.*.*"):
                released[last.place] = last.released
        return cls(spec, read, released)

    def floor(self, partition: int) -> int:
        return self._floors.get(partition, 0)

    def released(self, record: Listed) -> int:
        """Return the number below which records of the same key have been read."""
        return self._released.get(record.place, 0)

    def has(self, record: Listed) -> bool:
        """Return True if all readers have read the record, or none ever will."""
        if record.partition == NO_PARTITION or record.position <= self.floor(record.partition):
            return True
        return self.by_progress and 0 <= record.number < self.released(record)


async def free(session: Session, spec: TopicSpec) -> AsyncIterator[Freed]:
    """Delete what all readers have read: call by call, as long as the iteration goes on.

    Calls that are read to their end come first, the one that ended first before all. Then come the records of the other
    calls. Between stages the last record of a call stays: it is the progress of the stage that wrote it.
    Raises ApiError and SessionLost.
    """
    stream, base = stream_name(spec.name), subject_base(spec.name)
    newest = await newest_by_subject(session, stream, f"{base}.*.*")
    readings = await Readings.of(session, spec)
    counts = await _counts(session, stream, f"{base}.*.*")
    keeps_last = spec.name not in PRODUCER_TOPICS
    unfinished = []
    for last in newest:
        keeps = keeps_last and last.partition != NO_PARTITION
        if counts.get(last.subject, 0) <= keeps:
            continue
        if not readings.has(last):
            unfinished.append(last)
            continue
        records = await purge(session, stream, last.subject, before=last.position + (not keeps))
        await _note_freed(session, spec.name, last.subject)
        yield Freed(records)
    for last in unfinished:
        before = await _first_unread(session, stream, last, readings)
        records = await purge(session, stream, last.subject, before=before) if before else 0
        if records:
            await _note_freed(session, spec.name, last.subject)
            yield Freed(records, open_call=True)


async def expire(session: Session, spec: TopicSpec, *, now: float) -> int:
    """Delete the calls whose last record is older than the topic's retention and read. Return the number of records.

    A call that the writing stage may still go on with keeps its records. That is unknown while the stage has input of
    the first half of the retention left to read. Raises ApiError and SessionLost.
    """
    stream, base = stream_name(spec.name), subject_base(spec.name)
    old = [last for last in await newest_by_subject(session, stream, f"{base}.*.*") if _is_old(last, spec, now)]
    if not old:
        return 0
    readings = await Readings.of(session, spec)
    behind: dict[int, bool] = {}
    expired = 0
    for last in old:
        if not readings.has(last):
            continue
        if last.partition not in behind:
            behind[last.partition] = await _is_behind(session, spec, last.partition, now - spec.retention_s / 2)
        if not behind[last.partition]:
            expired += await purge(session, stream, last.subject, before=last.position + 1)
    return expired


async def drop_oldest(session: Session, spec: TopicSpec, *, excess_bytes: int) -> int:
    """Delete the oldest records until `excess_bytes` are free. Return their number. Raises ApiError and SessionLost.

    Half of what is missing is estimated from the records' average size, again until it is enough: to list all of them
    would take time and memory for each that there is.
    """
    stream = stream_name(spec.name)
    dropped, target = 0, None
    while True:
        held = (await session.api(f"STREAM.INFO.{stream}"))["state"]
        n_bytes, first, last = int(held["bytes"]), int(held["first_seq"]), int(held["last_seq"])
        target = n_bytes - excess_bytes if target is None else target
        if n_bytes <= max(0, target) or not int(held["messages"]):
            return dropped
        share = (n_bytes - target) / n_bytes / 2
        before = first + int(share * (last - first)) + 1
        dropped += await purge(session, stream, f"{subject_base(spec.name)}.*.*", before=before)


def freed_mark(topic: str, token: str) -> str:
    """Return the subject of the record that says when records of a producer's key were freed."""
    return f"{_FREED}.{subject_base(topic)}.{token}"


def _has_numbers(spec: TopicSpec) -> bool:
    if spec.name in PRODUCER_TOPICS or len(spec.readers) != 1:
        return False
    return spec.readers[0].progress_topic is not None


def _is_old(last: Listed, spec: TopicSpec, now: float) -> bool:
    return last.timestamp_s < now - spec.retention_s


async def _first_unread(session: Session, stream: str, last: Listed, readings: Readings) -> int:
    """Return the position of the first record of a call that is not read, at most that of its last one."""
    if not readings.by_progress:
        return min(readings.floor(last.partition) + 1, last.position)
    before = 0
    if readings.released(last):
        for record in await all_records(session, stream, last.subject):
            if not readings.has(record):
                break
            before = record.position + 1
    return min(before, last.position)


async def _is_behind(session: Session, spec: TopicSpec, partition: int, since: float) -> bool:
    """Return True if a writer of the topic has input of before `since` left to read."""
    for writer in spec.writers:
        for topic in writer.topics:
            read = await floors(session, stream_name(topic), (writer.group,))
            subjects = f"{subject_base(topic)}.{partition}.*"
            oldest = await record_at_or_after(session, topic, subjects, read.get(partition, 0) + 1)
            if oldest is not None and oldest.timestamp_s < since:
                return True
    return False


async def _counts(session: Session, stream: str, subjects: str) -> dict[str, int]:
    """Return the number of records of each subject."""
    counts: dict[str, int] = {}
    total = 1
    while len(counts) < total:
        info = await session.api(f"STREAM.INFO.{stream}", {"subjects_filter": subjects, "offset": len(counts)})
        page = info["state"].get("subjects") or {}
        if not page:
            break
        counts |= page
        total = int(info.get("total", 0))
    return counts


async def _note_freed(session: Session, topic: str, subject: str) -> None:
    """Keep the time at which a producer's records were freed, so that who looks for them is told."""
    if topic in PRODUCER_TOPICS:
        await session.request(freed_mark(topic, subject.rpartition(".")[2]), b"")
