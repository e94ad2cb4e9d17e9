"""The numbered outputs of one partition on JetStream, each stored directly after the output before it or not at all.

An output names the position of its subject's last record (`EXPECTED_LAST`): the one that was read with the progress,
then that of the last output of this worker. The server refuses it if any other record came after that. No clock and no
de-duplication window is needed: a worker that stood still for any time is refused. After a refusal the subject's last
record decides:

- It carries the progress of the refused output: that is stored already, and its acknowledgement was lost.
- It carries the progress that is known, or none: a record was put beside the outputs. The output is sent again,
  directly after it.
- It carries other progress: another worker has published for this key since, and its state is ahead. This worker has
  lost the partition, and reads the key's progress again if it gets the partition back.

Large states are stored before their output, in places of this worker's own (`pipeline.bus.nats.large_states`), so a
refused worker has overwritten nothing.
"""

import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec

from pipeline.bus.nats.connection import ApiError, NatsConnection, Session, SessionLost, check_publish
from pipeline.bus.nats.large_states import drop_states, read_state, write_state
from pipeline.bus.nats.publishing import ANOTHER_CAME_BEFORE, EXPECTED_LAST, put_beside, storing, wire_headers
from pipeline.bus.nats.subjects import KeyLocation, progress_from_wire, progress_to_wire, state_place
from pipeline.bus.protocol import Outgoing, Progress
from pipeline.errors import BusError

_KNOWN_KEYS: Final = 20_000
"""Keys whose last record is remembered. Of another key it is read before the next output."""

Locate = Callable[[str, bytes, int], Awaitable[KeyLocation]]
"""Returns where the records of a key are: topic, key, number of the partition."""


class Superseded(Exception):
    """Another worker has published an output of this key after the last one that is known here."""


class _Last(msgspec.Struct):
    """The last record of a key's subject, as far as it is known here."""

    location: KeyLocation
    position: int = 0
    """0: there was none."""
    seq: int = -1
    """The number of the last output; -1: there was none."""
    place: str | None = None
    """The place of the last output's state, which may be another worker's; None if it is in the headers."""
    old_states: int = 0
    """The position up to which the key has states of other workers, which the next output replaces; 0: none."""
    own_states: int = 0
    """The position up to which the key has states of this worker; 0: none."""
    is_certain: bool = True
    """False from the moment an output is sent until its answer is here: if that was cut off, only the store knows."""


class NumberedOutputs:
    """Reads the progress of keys and publishes their outputs, while one worker holds a partition.

    It begins with nothing known, so a worker that gets a partition back reads the progress of every key anew. One
    output of a key is published at a time.
    """

    def __init__(self, connection: NatsConnection, locate: Locate, *, topic: str | None, number: int) -> None:
        self.topic = topic
        self._connection = connection
        self._locate = locate
        self._number = number
        self._writer = secrets.token_hex(4)
        self._known: dict[bytes, _Last] = {}

    async def progress(self, key: bytes) -> Progress | None:
        """Return the progress that the key's last record carries. Raises BusError if a large state is gone."""
        if self.topic is None:
            return None
        location = await self._locate(self.topic, key, self._number)

        async def read(session: Session) -> tuple[Progress | None, _Last]:
            position = -1
            while True:
                last, headers = await _read_last(session, location)
                stored = progress_from_wire(headers)
                if stored is None or stored[1]:
                    return None if stored is None else stored[0], last
                progress, place = stored[0], state_place(headers)
                state = await read_state(session, location, place, progress.seq)
                if state is not None:
                    last.old_states = state.position
                    return msgspec.structs.replace(progress, state=state.content), last
                if last.position == position:
                    raise BusError(f"the state of output {progress.seq} of {key!r} on {location.topic} is gone")
                position = last.position  # unless another output has replaced it meanwhile, it is gone

        progress, last = await self._connection.retrying(read)
        self._remember(key, last)
        return progress

    async def publish(self, record: Outgoing, progress: Progress) -> None:
        """Store an output and its progress. Raises Superseded, and what `Bus.publish` raises."""
        last = await self._last(record)
        location = last.location
        place = self._next_place(last) if progress.is_large else None
        headers = wire_headers(record)
        headers.update(progress_to_wire(progress, place))
        headers[EXPECTED_LAST] = str(last.position)

        async def send(session: Session) -> None:
            last.is_certain = False
            first_piece = 0
            if place is not None:
                first_piece, last.own_states = await write_state(session, location, place, progress)
            if last.seq < progress.seq:
                await _store_after(session, location, last, record.value, headers)
            elif not await _is_stored(session, location, last, headers):
                raise Superseded(f"output {progress.seq} comes after output {last.seq}")
            last.seq, last.place, last.is_certain = progress.seq, place, True
            if place is not None and last.old_states:
                await drop_states(session, location, before=first_piece)
            elif place is None and (last.old_states or last.own_states):
                await drop_states(session, location, before=1 + max(last.old_states, last.own_states))
                last.own_states = 0
            last.old_states = 0

        await storing(self._connection, record, headers, send)

    async def put_beside(self, record: Outgoing) -> None:
        """Store a record of this partition without progress. Raises what `Bus.publish` raises."""
        location = await self._locate(record.topic, record.key, self._number)
        headers = wire_headers(record)

        async def send(session: Session) -> None:
            before, position = await put_beside(session, location, record.value, headers)
            last = self._known.get(record.key)
            if last is not None and last.position == before:
                last.position = position

        await storing(self._connection, record, headers, send)

    async def _last(self, record: Outgoing) -> _Last:
        """Return what is known of the last record of the key; read it if that is uncertain."""
        last = self._known.get(record.key)
        if last is None or not last.is_certain or last.location.topic != record.topic:
            location = await self._locate(record.topic, record.key, self._number)
            own_states = 0 if last is None else last.own_states

            async def look(session: Session) -> _Last:
                return (await _read_last(session, location))[0]

            last = await self._connection.retrying(look)
            last.own_states = own_states
        self._remember(record.key, last)
        return last

    def _remember(self, key: bytes, last: _Last) -> None:
        self._known.pop(key, None)
        self._known[key] = last
        if len(self._known) > _KNOWN_KEYS:
            del self._known[next(iter(self._known))]

    def _next_place(self, last: _Last) -> str:
        """Return the one of this worker's two places for a key that the last output does not use."""
        first, second = f"{self._writer}.0", f"{self._writer}.1"
        return second if last.place == first else first


async def _read_last(session: Session, location: KeyLocation) -> tuple[_Last, Mapping[str, str]]:
    """Return what the last record of a subject tells, and its headers; those of the answer if there is none."""
    message: Any = await session.request(location.last_record_subject)
    headers: Mapping[str, str] = message.headers or {}
    stored = progress_from_wire(headers)
    position = int(headers.get("Nats-Sequence", "0"))
    seq = -1 if stored is None else stored[0].seq
    return _Last(location=location, position=position, seq=seq, place=state_place(headers)), headers


async def _store_after(
    session: Session, location: KeyLocation, last: _Last, value: bytes, headers: dict[str, str]
) -> None:
    """Store an output directly after `last`, and note its position there. `headers` get the position that is expected.

    Raises Superseded, ApiError for any other refusal, and SessionLost.
    """
    while True:
        headers[EXPECTED_LAST] = str(last.position)
        try:
            position = check_publish(await session.request(location.publish_subject, value, headers=headers))
            if position > last.position:
                last.position = position
                return
            is_repeat = True  # of a record whose event id the server still remembers
        except ApiError as error:
            if error.code not in ANOTHER_CAME_BEFORE:
                raise
            is_repeat = False
        before = last.position
        if await _is_stored(session, location, last, headers) or (is_repeat and last.position == before):
            return
        if last.position == before:
            raise SessionLost("the store's answers differ")  # as while a cluster agrees on its last record


async def _is_stored(session: Session, location: KeyLocation, last: _Last, headers: dict[str, str]) -> bool:
    """Return True if the key's last record carries the progress in `headers`. Its position is noted in `last`.

    Raises Superseded if it carries other progress than is known.
    """
    found, stored_headers = await _read_last(session, location)
    is_mine = _progress_in(stored_headers) == _progress_in(headers)
    if not is_mine and found.seq not in (-1, last.seq):
        raise Superseded(f"the last output is {found.seq} at {found.position}, known is {last.seq} at {last.position}")
    last.position = found.position
    return is_mine


def _progress_in(headers: Mapping[str, str]) -> tuple[Any, str | None]:
    return progress_from_wire(headers), state_place(headers)
