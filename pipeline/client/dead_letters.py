"""Dead letters for the operator: list, show, replay, drop.

All state is on the topic `calls.dead-letters`. A letter is open until a `LetterResolved` about it is stored there, and
open again if the same letter is stored later. All operators therefore see the same, and an interrupted replay can be
repeated: the record keeps its `ce_id` and number, and stages drop repeats.
"""

import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Literal

import msgspec
import structlog
from msgspec import UNSET

from pipeline.bus.protocol import Bus, Outgoing
from pipeline.clock import unix_time_s
from pipeline.errors import InputError, StoreFullError
from pipeline.wiring.stage_list import STAGES
from schemas import cloudevents, topics
from schemas.calls import CallRef
from schemas.status import DEAD_LETTER_TYPE, RESOLVED_TYPE, DeadLetter, LetterResolved

SOURCE: Final = "callstream/operator"
IN_ORDER_ONLY: Final = frozenset(wiring.name for wiring in STAGES if wiring.in_order)
"""Stages that skip a record once they have taken a later one of its call, as they do with any repeat."""
_MAX_DIGITS: Final = 18


class NotReplayable(InputError):
    """The record cannot be published again, or its stage would skip it. The message says why."""


class Letter(msgspec.Struct, frozen=True, kw_only=True):
    """A dead letter and its state. `letter.value` is empty: `DeadLetters.whole` reads it."""

    letter_id: str
    key: bytes
    partition: int
    position: int
    """Position of the letter where it was stored last."""
    letter: DeadLetter
    call: CallRef | None
    """The record's call; None if its key is not a call's."""
    seq: int | None
    """The record's number in its call on its topic."""
    resolved: LetterResolved | None = None
    resolved_at: int = -1
    """Position of the resolution."""

    @property
    def state(self) -> Literal["open", "replayed", "dropped"]:
        return "open" if self.resolved is None else self.resolved.action

    @property
    def is_noted(self) -> bool:
        """True if the letter was dropped: its resolution tells of it, and the letter itself need not be there."""
        return self.resolved is not None and self.resolved.letter is not UNSET


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """A filter: letters that match every given field. `error` is a class name or a part of the message."""

    ids: frozenset[str] = frozenset()
    call: str | None = None
    tenant: str | None = None
    stage: str | None = None
    error: str | None = None
    topic: str | None = None

    def fits(self, letter: Letter) -> bool:
        about, call = letter.letter, letter.call
        return (
            (not self.ids or letter.letter_id in self.ids)
            and (self.call is None or (call is not None and call.call_id == self.call))
            and (self.tenant is None or (call is not None and call.tenant == self.tenant))
            and self.stage in (None, about.stage)
            and self.topic in (None, about.topic)
            and (self.error is None or self.error == about.error or self.error.lower() in about.message.lower())
        )


class DeadLetters:
    """The letters of a bus at the time of `read`."""

    def __init__(self, bus: Bus, letters: Iterable[Letter], clock: Callable[[], float]) -> None:
        self._bus = bus
        self._letters = {letter.letter_id: letter for letter in letters}
        self._clock = clock
        self._numbers: dict[tuple[str, str, int, bytes], list[int]] = {}

    @classmethod
    async def read(cls, bus: Bus, *, clock: Callable[[], float] = unix_time_s) -> "DeadLetters":
        """Read all letters. Raises BusError if the broker stays away for longer than the bus waits."""
        letters: dict[str, Letter] = {}
        resolutions: dict[str, tuple[int, LetterResolved]] = {}
        partitions: dict[str, int] = {}
        log = structlog.get_logger("callstream.dead_letters")
        async for record in bus.stored(topics.DEAD_LETTERS):
            letter_id, event_type = record.headers.get("ce_id", ""), record.headers.get("ce_type")
            try:
                if event_type == DEAD_LETTER_TYPE:
                    about = msgspec.json.decode(record.value, type=DeadLetter)
                    letters[letter_id] = _letter(letter_id, about, record.partition, record.position)
                elif event_type == RESOLVED_TYPE:
                    resolved = msgspec.json.decode(record.value, type=LetterResolved)
                    resolutions[resolved.letter_id] = (record.position, resolved)
                    partitions[resolved.letter_id] = record.partition
                else:
                    raise ValueError(f"{event_type!r} is no record of this topic")
            except (ValueError, RecursionError) as error:
                log.warning(
                    "record of the dead-letter topic skipped",
                    topic=record.topic,
                    position=record.position,
                    error=str(error),
                )
        for letter_id, (position, resolved) in resolutions.items():
            letter = letters.get(letter_id)
            if letter is None and isinstance(resolved.letter, DeadLetter):
                letter = letters[letter_id] = _letter(
                    letter_id, resolved.letter, partitions[letter_id], resolved.position
                )
            if letter is not None and resolved.position >= letter.position:
                letters[letter_id] = msgspec.structs.replace(letter, resolved=resolved, resolved_at=position)
        return cls(bus, letters.values(), clock)

    def select(self, selection: Selection, *, resolved: bool = False) -> list[Letter]:
        """Return the selected letters, grouped by call and in the order of each call; with `resolved` also closed ones.

        Raises InputError for an unknown id.
        """
        for letter_id in sorted(selection.ids):
            if letter_id not in self._letters:
                raise InputError(f"there is no dead letter {letter_id!r}")
        found = [one for one in self._letters.values() if selection.fits(one) and (resolved or one.resolved is None)]
        return sorted(found, key=_order)

    async def stored(self, letter: Letter) -> DeadLetter:
        """Return the letter with the part of the value that it holds: none of it once it was dropped.

        Raises NotReplayable if it has expired.
        """
        stored = await self._bus.read(topics.DEAD_LETTERS, letter.partition, letter.position)
        if stored is None and letter.is_noted:
            return msgspec.structs.replace(letter.letter, cut=True)
        if stored is None:
            raise NotReplayable(f"{letter.letter_id} is no longer kept")
        return msgspec.json.decode(stored.value, type=DeadLetter)

    async def whole(self, letter: Letter) -> DeadLetter:
        """Return the letter with the whole value, key and headers, read from the record's origin if they were cut.

        Raises NotReplayable if the origin has expired.
        """
        about = await self.stored(letter)
        if not about.cut:
            return about
        origin = await self._bus.read(about.topic, about.partition, about.position)
        if origin is None or len(origin.value) != about.value_bytes or not origin.value.startswith(about.value):
            raise NotReplayable(
                f"{letter.letter_id} holds {len(about.value)} of {about.value_bytes} bytes of the value, and"
                f" {about.topic} no longer holds the record"
            )
        return msgspec.structs.replace(
            about, key=origin.key, value=origin.value, headers=dict(origin.headers), cut=False
        )

    async def replay(self, letter: Letter) -> None:
        """Publish the record unchanged to its partition, and mark the letter as replayed.

        Raises NotReplayable, and what `Bus.publish` raises.
        """
        await self._check_order(letter)
        record = await self.whole(letter)
        await self._bus.publish(
            Outgoing(
                record.topic,
                key=record.key,
                value=record.value,
                event_id=_event_id(letter, "again"),
                headers=record.headers,
            ),
            partition=record.partition,
        )
        await self._resolve(letter, "replayed")

    async def drop(self, letter: Letter) -> None:
        """Delete the letter, and keep a note of it. If the store has no room even for the note, the letter goes alone.

        A broker that cannot delete keeps the letter, marked as dropped. Raises what `Bus.publish` raises.
        """
        try:
            await self._resolve(letter, "dropped")
        except StoreFullError:
            if not await self._bus.delete(topics.DEAD_LETTERS, letter.partition, letter.position):
                raise
            with contextlib.suppress(StoreFullError):
                await self._resolve(letter, "dropped")
        else:
            await self._bus.delete(topics.DEAD_LETTERS, letter.partition, letter.position)

    async def _resolve(self, letter: Letter, action: Literal["replayed", "dropped"]) -> None:
        resolved = LetterResolved(
            letter_id=letter.letter_id,
            position=letter.position,
            action=action,
            at=self._clock(),
            letter=letter.letter if action == "dropped" or letter.is_noted else UNSET,
        )
        event_id = _event_id(letter, action)
        headers = {
            cloudevents.CONTENT_TYPE_HEADER: cloudevents.JSON_TYPE,
            "ce_specversion": "1.0",
            "ce_id": event_id,
            "ce_source": SOURCE,
            "ce_type": RESOLVED_TYPE,
        }
        await self._bus.publish(
            Outgoing(
                topics.DEAD_LETTERS,
                key=letter.key,
                value=msgspec.json.encode(resolved),
                event_id=event_id,
                headers=headers,
            ),
            partition=letter.partition,
        )

    async def _check_order(self, letter: Letter) -> None:
        """Raise NotReplayable for a record that its stage would skip, having taken a later one of the call."""
        about = letter.letter
        if about.stage not in IN_ORDER_ONLY or letter.seq is None:
            return
        place = (about.stage, about.topic, about.partition, about.key)
        if place not in self._numbers:
            self._numbers[place] = await self._taken(about)
        later = next((number for number in self._numbers[place] if number > letter.seq), None)
        if later is not None:
            raise NotReplayable(
                f"{letter.letter_id} is record {letter.seq} of its call, and {about.stage} has taken record {later}: it"
                " would skip this one. Send the call again under another id, or drop the letter"
            )

    async def _taken(self, about: DeadLetter) -> list[int]:
        """Return the numbers of the key's records that the letter's stage did not reject."""
        rejected = {
            one.letter.position
            for one in self._letters.values()
            if (one.letter.stage, one.letter.topic, one.letter.partition) == (about.stage, about.topic, about.partition)
        }
        numbers = [
            _number(record.headers)
            async for record in self._bus.stored(about.topic, key=about.key)
            if record.partition == about.partition and record.position not in rejected
        ]
        return [number for number in numbers if number is not None]


def _letter(letter_id: str, about: DeadLetter, partition: int, position: int) -> Letter:
    call, seq = _call_of(about)
    return Letter(
        letter_id=letter_id,
        key=about.key,
        partition=partition,
        position=position,
        letter=msgspec.structs.replace(about, value=b""),
        call=call,
        seq=seq,
    )


def _call_of(about: DeadLetter) -> tuple[CallRef | None, int | None]:
    """Return the record's call and its number in the call, as far as they can be read."""
    if about.topic in (topics.AUDIO, topics.AUDIO_BATCH):
        try:
            event = cloudevents.decode_audio_event(about.headers, about.key, about.value)
        except ValueError:
            pass
        else:
            return event.call, event.seq
    seq = _number(about.headers)
    try:
        call = CallRef.from_key(about.key)
    except UnicodeDecodeError:
        return None, seq
    if about.headers.get("ce_subject"):
        call = CallRef(about.headers.get("ce_tenant", call.tenant), about.headers["ce_subject"])
    return call, seq


def _number(headers: Mapping[str, str]) -> int | None:
    text = headers.get("ce_callseq", "")
    return int(text) if text.isdecimal() and len(text) <= _MAX_DIGITS else None


def _order(letter: Letter) -> tuple[bool, CallRef, bool, int, str, int, int]:
    about = letter.letter
    call = letter.call or CallRef("", "")
    number = -1 if letter.seq is None else letter.seq
    return letter.call is None, call, letter.seq is None, number, about.topic, about.partition, about.position


def _event_id(letter: Letter, what: str) -> str:
    """Return an id that repeats with a repeated command, and changes once the letter's state has changed."""
    return f"{letter.letter_id}/{what}/{max(letter.position, letter.resolved_at)}"
