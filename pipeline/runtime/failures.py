"""Whose fault an error is, and how often a record has failed.

One place decides, because each answer alone loses something. If every error is the record's, a full disk turns calls
into dead letters. If every error is the machine's, one bad record stops its lane for ever.

- The record's: a stage refuses it (`RejectedInput`). It becomes a dead letter at once.
- The machine's: disk, memory, device, network, threads. Nothing is given up. The call retries until it succeeds.
- The bus's: the lane restarts from its floor.
- Anything else may be either: the call retries, and the record is given up after `MAX_ATTEMPTS`. The stage decides
  what that means for the call. It may be killed meanwhile, or fail again, and is asked `MAX_ATTEMPTS` times.
"""

import enum
from typing import Final

import msgspec

from pipeline.bus.protocol import Bus, Record
from pipeline.errors import BusError
from pipeline.runtime.publisher import Publisher
from schemas import topics
from schemas.calls import CallRef
from schemas.status import JobStatus, letter_id
from stages.errors import MachineFailure, RejectedInput
from stages.ledger import ledger_entry

MAX_ATTEMPTS: Final = 3
"""A record that fails this often, for a reason that is not the machine's or the bus's, is given up."""

_MAX_CALLS: Final = 1_000
"""Calls whose earlier failures are remembered. Those of others are read from the ledger again."""


class Blame(enum.Enum):
    RECORD = "record"
    MACHINE = "machine"
    BUS = "bus"
    UNKNOWN = "unknown"


def blame(error: BaseException) -> Blame:
    """Return whose fault an error is, as far as the error alone tells."""
    if isinstance(error, RejectedInput):
        return Blame.RECORD
    if isinstance(error, BusError):
        return Blame.BUS if error.retryable else Blame.UNKNOWN
    if isinstance(error, MachineFailure | MemoryError | OSError):
        return Blame.MACHINE
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return Blame.MACHINE
    return Blame.UNKNOWN


class Attempts:
    """Counts the failures of records, by topic, partition and position.

    Each failure is an entry of its call's ledger. A new process, on whichever machine, continues the count.
    """

    def __init__(self, bus: Bus, publisher: Publisher, *, job: str) -> None:
        self._bus = bus
        self._publisher = publisher
        self._job = job
        self._counts: dict[CallRef, dict[str, int]] = {}

    def of(self, record: Record, call: CallRef) -> int:
        """Return how often the record has failed, as far as this process knows."""
        counts = self._counts.get(call) if self._counts else None
        return 0 if counts is None else counts.get(self._name(record), 0)

    async def add(self, record: Record, call: CallRef, error: BaseException) -> int:
        """Count a failure, and note it in the ledger. Returns the number of failures, those before this process too.

        Raises BusError if the ledger cannot be read or written.
        """
        counts = self._counts.get(call)
        if counts is None:
            while len(self._counts) >= _MAX_CALLS:
                del self._counts[next(iter(self._counts))]
            counts = self._counts[call] = await self._from_ledger(call)
        name = self._name(record)
        attempt = counts.get(name, 0) + 1
        detail = {
            "record": name,
            "attempt": attempt,
            "error": f"{type(error).__name__}: {error}",
            "topic": record.topic,
            "partition": record.partition,
            "position": record.position,
        }
        event_id = f"{name}/attempt/{attempt}"
        entry = ledger_entry(call, self._job, "retrying", detail, at=record.timestamp_s, event_id=event_id)
        await self._publisher.send(entry, call)
        counts[name] = attempt
        return attempt

    async def _from_ledger(self, call: CallRef) -> dict[str, int]:
        found: dict[str, int] = {}
        async for record in self._bus.stored(topics.STATUS, key=call.key):
            try:
                entry = msgspec.json.decode(record.value, type=JobStatus)
            except (ValueError, RecursionError):
                continue
            name, attempt = entry.detail.get("record"), entry.detail.get("attempt")
            if entry.job == self._job and entry.status == "retrying" and isinstance(name, str):
                found[name] = max(found.get(name, 0), attempt if isinstance(attempt, int) else 0)
        return found

    def _name(self, record: Record) -> str:
        return letter_id(self._job, record.topic, record.partition, record.position)
