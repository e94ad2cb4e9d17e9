"""Live text of one call: its turns and partials as they arrive, and the request for partials.

An outside program can do the same: it follows topics that consumers read, and publishes requests on the call's audio
topic (see `schemas.audio.CallWatched`).
"""

import asyncio
import secrets
from collections.abc import Iterable
from typing import Final, TypeVar

import msgspec
import structlog

from pipeline.bus.protocol import Bus, Outgoing, Record
from pipeline.errors import BusError
from schemas import cloudevents, topics
from schemas.audio import CallWatched
from schemas.calls import CallRef
from schemas.partials import PARTIAL_TYPE, Partial
from schemas.transcripts import COMPLETED_TYPE, TURN_TYPE, TranscriptCompleted, Turn

T = TypeVar("T")

FOLLOWED: Final = (topics.PARTIALS, topics.SEGMENTS, topics.TRANSCRIPTS)
"""Segments and progress records tell within seconds that a call is live, and in which partition it is."""
SOURCE: Final = "callstream/watch"
LEASE_S: Final = 60.0
RENEW_S: Final = 20.0


class CallViewer:
    """The state of one call's display. Records may be repeated, and records of different topics arrive in any order.

    Turns that arrive before `catch_up` are held until it has delivered the earlier ones.
    """

    def __init__(self) -> None:
        self.known = False
        self.completed: TranscriptCompleted | None = None
        self._caught_up = False
        self._turns: dict[str, Turn] = {}
        self._later: list[Record] = []
        self._ids: set[str] = set()
        self._partials: dict[str, Partial] = {}
        self._changed: dict[str, Partial] = {}
        self._settled: set[str] = set()

    @property
    def over(self) -> bool:
        """True once the call has ended for good. A provisional end (the idle limit) may be reopened."""
        return self._caught_up and self.completed is not None and not self.completed.provisional

    @property
    def open_partials(self) -> list[Partial]:
        """Utterances that are in progress or not in a turn yet, in order of time."""
        return sorted(self._partials.values(), key=lambda partial: (partial.start_s, partial.channel))

    def catch_up(self, stored: Iterable[Record]) -> None:
        """Apply what the transcripts topic already held of the call. Called once."""
        for record in (*stored, *self._later):
            self._transcript(record)
        self._later.clear()
        self._caught_up = True

    def apply(self, record: Record) -> None:
        """Apply a record of one of the topics in `FOLLOWED`. An outsider's that cannot be read changes nothing."""
        self.known = True
        if record.topic == topics.PARTIALS:
            if record.headers.get("ce_type") == PARTIAL_TYPE and (partial := _decoded(record, Partial)) is not None:
                self._partial(partial)
        elif record.topic == topics.TRANSCRIPTS:
            if self._caught_up:
                self._transcript(record)
            else:
                self._later.append(record)

    def take_turns(self) -> list[Turn]:
        """Return the turns settled since the last call."""
        turns = list(self._turns.values())
        self._turns.clear()
        return turns

    def take_partials(self) -> list[Partial]:
        """Return the newest partial of each utterance that changed since the last call."""
        partials = [partial for partial in self._changed.values() if not partial.final]
        self._changed.clear()
        return partials

    def _partial(self, partial: Partial) -> None:
        newest = self._partials.get(partial.utterance_id)
        if partial.utterance_id in self._settled or (newest is not None and newest.revision >= partial.revision):
            return
        if partial.final and not partial.committed:
            self._partials.pop(partial.utterance_id, None)
            self._settled.add(partial.utterance_id)
            return
        self._partials[partial.utterance_id] = self._changed[partial.utterance_id] = partial

    def _transcript(self, record: Record) -> None:
        self.known = True
        event_id = record.headers.get("ce_id", "")
        if event_id in self._ids:
            return
        self._ids.add(event_id)
        if record.headers.get("ce_type") == TURN_TYPE:
            turn = _decoded(record, Turn)
            if turn is None:
                return
            self._turns[turn.turn_id] = turn
            self._settled.update(turn.segment_ids)
            for utterance_id in turn.segment_ids:
                self._partials.pop(utterance_id, None)
        elif record.headers.get("ce_type") == COMPLETED_TYPE:
            completed = _decoded(record, TranscriptCompleted)
            if completed is not None and completed.part == completed.parts:
                self.completed = completed
                self._partials.clear()


def _decoded(record: Record, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(record.value, type=kind)
    except (ValueError, RecursionError):
        return None


class PartialsRequest:
    """Requests a call's partials, and renews the request until it is cancelled."""

    def __init__(self, bus: Bus, call: CallRef, *, lease_s: float = LEASE_S, renew_s: float = RENEW_S) -> None:
        self._bus = bus
        self._call = call
        self._lease_s = lease_s
        self._renew_s = renew_s
        self._partition: int | None = None
        self._found = asyncio.Event()
        self._viewer = secrets.token_hex(8)
        self._log = structlog.get_logger("callstream.viewer").bind(call=call.call_id)

    def found(self, partition: int) -> None:
        """Set the partition that holds the call's records in every topic, whichever one its key hashes to."""
        if self._partition != partition:
            self._partition = partition
            self._found.set()

    async def run(self) -> None:
        """Run until cancelled. A request that the bus refuses is retried."""
        number = 0
        while True:
            self._found.clear()
            await self._ask(number)
            number += 1
            try:
                await asyncio.wait_for(self._found.wait(), self._renew_s)
            except TimeoutError:
                continue

    async def _ask(self, number: int) -> None:
        event_id = f"{self._call.tenant}/{self._call.call_id}/watched/{self._viewer}/{number}"
        headers, value = cloudevents.encode_watch(
            CallWatched(seconds=self._lease_s), call=self._call, event_id=event_id, source=SOURCE
        )
        try:
            await self._bus.publish(
                Outgoing(topics.AUDIO, key=self._call.key, value=value, event_id=event_id, headers=headers),
                partition=self._partition,
            )
        except BusError as error:
            self._log.warning("request for partials failed", error=str(error))
