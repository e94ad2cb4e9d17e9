"""The progress of a group's keys on Kafka, which cannot be asked for the last record of a key.

An output carries the progress of its key in its headers, so the two are stored together or not at all. To find it
again there is an index, the compacted topic `<group>.progress`: once a second each partition's owner writes what is
new, and then a mark that says up to which position of the output topic everything is in the index. Who gets a
partition reads its index, and then the outputs behind the mark. So one record an output is all that is published, and
what has to be read is a second's worth of outputs.

A state that is too large for headers is stored in the index first, in one of two slots of its key (the output's number
modulo 2), and then its output: the state of output n does not replace that of n - 1, which is the last one until
output n is stored. A slot holds as many records as the state has pieces.

All records of the index are keyed by who wrote them. A worker that lost its partition without knowing may still write,
and compaction keeps the last record of a key: it must not be one that knows less. Of several writers' records for one
key the one with the highest number counts.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

import msgspec
import structlog
from aiokafka import TopicPartition

from pipeline.bus.kafka.clients import KafkaClients, bus_errors, read_to_end
from pipeline.bus.kafka.records import INLINE_STATE_BYTES, Headers, progress_from_wire, progress_to_wire
from pipeline.bus.pieces import pieces_of
from pipeline.bus.protocol import Progress
from pipeline.errors import BusError

FLUSH_S: Final = 1.0
_READ_S: Final = 30.0
_SLOTS: Final = 2
_MARK, _ENTRY, _STATE = "mark", "entry", "state"

Send = Callable[[str, int, bytes, bytes | None, Headers], Awaitable[int]]
"""Stores a record (topic, partition, key, value, headers) and returns its position."""


def progress_topic(group: str) -> str:
    """The name of a group's index."""
    return f"{group}.progress"


class _Entry(msgspec.Struct, frozen=True, array_like=True):
    """`state` is None where it is large: then it is in a slot."""

    seq: int
    released: int
    state: bytes | None


class _IndexKey(msgspec.Struct, frozen=True, array_like=True):
    kind: str
    writer: str
    key: bytes
    slot: int
    piece: int = 0


_decode_key = msgspec.msgpack.Decoder(_IndexKey).decode
_decode_entry = msgspec.msgpack.Decoder(_Entry).decode
_decode_position = msgspec.msgpack.Decoder(int).decode


class ProgressIndex:
    """The progress of one group on one output topic, for the partitions that this worker has held."""

    def __init__(self, clients: KafkaClients, *, group: str, topic: str, writer: str, send: Send) -> None:
        self.group = group
        self.topic = topic
        self._clients = clients
        self._writer = writer
        self._send = send
        self._parts: dict[int, _Part] = {}
        self._loading: asyncio.Task[None] | None = None
        self._flushing: asyncio.Task[None] | None = None
        self._log = structlog.get_logger("callstream.kafka").bind(group=group)

    def begin(self, numbers: Iterable[int]) -> None:
        """Read, in the background, what is known of partitions that were just assigned."""
        if self._loading is not None:
            self._loading.cancel()
        self._loading = asyncio.create_task(self._load(sorted(numbers)), name=f"progress of {self.group}")
        self._loading.add_done_callback(_retrieve)
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._keep_flushing(), name=f"index of {self.group}")

    async def get(self, number: int, key: bytes) -> Progress | None:
        """Raises BusError when what is known could not be read, or a large state is gone."""
        return (await self._part(number)).get(key)

    async def publish(
        self, number: int, partition: int, key: bytes, value: bytes, headers: Headers, progress: Progress
    ) -> None:
        """Store an output and its progress; `number` is the partition of the inputs, `partition` of the output."""
        part = await self._part(number)
        large = len(progress.state) > INLINE_STATE_BYTES
        if large:
            pieces = pieces_of(progress.state)
            stated = [("seq", str(progress.seq).encode()), ("pieces", str(len(pieces)).encode())]
            for index, piece in enumerate(pieces):
                slot = self._key(_STATE, key, progress.seq % _SLOTS, index)
                await self._send(progress_topic(self.group), number, slot, piece, stated)
        before = part.begin_output()
        try:
            sent = headers + progress_to_wire(progress, self.group)
            position = await self._send(self.topic, partition, key, value, sent)
            part.note(position, key, _Entry(progress.seq, progress.released, None if large else progress.state))
            if large:
                part.states[key, progress.seq] = progress.state
        finally:
            part.end_output(before)
        for seq in [seq for name, seq in part.states if name == key and (not large or seq < progress.seq - 1)]:
            gone = part.states.pop((key, seq))
            for index in range(0 if large else len(pieces_of(gone))):
                slot = self._key(_STATE, key, seq % _SLOTS, index)
                await self._send(progress_topic(self.group), number, slot, None, [])

    async def flush(self) -> None:
        """Write what is new of every partition. Raises BusError."""
        for number, part in list(self._parts.items()):
            fresh, mark = part.take_fresh()
            if mark is None:
                continue
            try:
                for key in fresh:
                    entry = msgspec.msgpack.encode(part.entries[key])
                    await self._send(progress_topic(self.group), number, self._key(_ENTRY, key), entry, [])
                marked = msgspec.msgpack.encode(mark)
                await self._send(progress_topic(self.group), number, self._key(_MARK, b""), marked, [])
            except BaseException:
                part.give_back(fresh)
                raise
            part.marked = mark

    async def close(self) -> None:
        """Write what is new, if the broker answers: if not, the next owner has more outputs to read."""
        for task in (self._loading, self._flushing):
            if task is not None:
                task.cancel()
        await asyncio.gather(*(task for task in (self._loading, self._flushing) if task), return_exceptions=True)
        try:
            async with asyncio.timeout(2 * FLUSH_S):
                await self.flush()
        except (BusError, TimeoutError) as error:
            self._log.debug("the index was not completed", error=str(error))

    async def _keep_flushing(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            try:
                await self.flush()
            except BusError as error:
                self._log.debug("the index waits for the broker", error=str(error))

    def _key(self, kind: str, key: bytes, slot: int = 0, piece: int = 0) -> bytes:
        return msgspec.msgpack.encode(_IndexKey(kind, self._writer, key, slot, piece))

    async def _part(self, number: int) -> "_Part":
        """Waits for what `begin` reads."""
        assert self._loading is not None
        if not self._loading.done():
            await asyncio.wait([self._loading])
        self._loading.result()
        return self._parts[number]

    # -- reading -------------------------------------------------------------------------------------------------------

    async def _load(self, numbers: list[int]) -> None:
        with bus_errors(f"reading the progress of {self.group}"):
            async with asyncio.timeout(_READ_S), self._clients.reading() as reader:
                counts = len(await _partitions(reader, self.topic))
                await self._read_index(reader, numbers)
                await self._read_outputs(reader, numbers, counts)

    async def _read_index(self, reader: Any, numbers: list[int]) -> None:
        places = {TopicPartition(progress_topic(self.group), number): number for number in numbers}
        await _partitions(reader, progress_topic(self.group))
        begins, ends = await reader.beginning_offsets(places), await reader.end_offsets(places)
        for number in numbers:
            self._parts.setdefault(number, _Part())
        starts = {tp: max(begins[tp], self._parts[number].read_to) for tp, number in places.items()}
        async for record in read_to_end(reader, starts, ends, timeout_s=_READ_S):
            self._parts[record.partition].apply(record)
        for tp, number in places.items():
            self._parts[number].read_to = ends[tp]

    async def _read_outputs(self, reader: Any, numbers: list[int], count: int) -> None:
        """Outputs of the group from the lowest mark on, for all partitions whose outputs are in there."""
        sources: dict[TopicPartition, list[_Part]] = {}
        for number in numbers:
            sources.setdefault(TopicPartition(self.topic, number % count), []).append(self._parts[number])
        begins, ends = await reader.beginning_offsets(sources), await reader.end_offsets(sources)
        starts = {tp: max(begins[tp], min(part.marked for part in parts)) for tp, parts in sources.items()}
        async for record in read_to_end(reader, starts, ends, timeout_s=_READ_S):
            carried = progress_from_wire(record.headers, self.group)
            if carried is None:
                continue
            progress, complete = carried
            entry = _Entry(progress.seq, progress.released, progress.state if complete else None)
            for part in sources[TopicPartition(record.topic, record.partition)]:
                part.note(record.offset, record.key, entry)
        for tp, parts in sources.items():
            for part in parts:
                part.next_position = max(part.next_position, ends[tp])


class _Part:
    """What is known of one partition. `marked` is the output position up to which the index holds everything."""

    def __init__(self) -> None:
        self.entries: dict[bytes, _Entry] = {}
        self.states: dict[tuple[bytes, int], bytes] = {}
        self.read_to = 0
        self.marked = 0
        self.next_position = 0
        self._gathered: dict[tuple[bytes, int, str], dict[int, bytes]] = {}
        """The pieces of states that are not whole yet, by key, number of the output, and writer."""
        self._fresh: set[bytes] = set()
        self._under_way: list[int] = []

    def get(self, key: bytes) -> Progress | None:
        entry = self.entries.get(key)
        if entry is None:
            return None
        state = entry.state if entry.state is not None else self.states.get((key, entry.seq))
        if state is None:
            raise BusError(f"the state of output {entry.seq} of key {key!r} is gone")
        return Progress(seq=entry.seq, released=entry.released, state=state)

    def apply(self, record: Any) -> None:
        """A record of the index."""
        name = _decode_key(record.key)
        if name.kind == _STATE:
            if record.value is not None:
                self._gather(name, dict(record.headers), record.value)
        elif name.kind == _ENTRY:
            self._keep(name.key, _decode_entry(record.value))
        else:
            self.marked = max(self.marked, _decode_position(record.value))

    def note(self, position: int, key: bytes, entry: _Entry) -> None:
        """An output of `key` is at `position`."""
        self.next_position = max(self.next_position, position + 1)
        if self._keep(key, entry):
            self._fresh.add(key)

    def begin_output(self) -> int:
        """An output is on its way; it will be at what is returned or behind it."""
        self._under_way.append(self.next_position)
        return self.next_position

    def end_output(self, before: int) -> None:
        self._under_way.remove(before)

    def take_fresh(self) -> tuple[list[bytes], int | None]:
        """The keys to write and the position to mark behind them; None when there is nothing to say."""
        mark = min([self.next_position, *self._under_way])
        fresh = sorted(self._fresh)
        self._fresh.clear()
        return fresh, mark if fresh or mark > self.marked else None

    def give_back(self, keys: list[bytes]) -> None:
        self._fresh.update(keys)

    def _gather(self, name: _IndexKey, headers: dict[str, bytes], piece: bytes) -> None:
        seq, count = int(headers["seq"]), int(headers["pieces"])
        pieces = self._gathered.setdefault((name.key, seq, name.writer), {})
        pieces[name.piece] = piece
        if len(pieces) == count:
            self.states[name.key, seq] = b"".join(pieces[index] for index in range(count))
            del self._gathered[name.key, seq, name.writer]

    def _keep(self, key: bytes, entry: _Entry) -> bool:
        known = self.entries.get(key)
        if known is not None and known.seq > entry.seq:
            return False
        self.entries[key] = entry
        for seq in [seq for name, seq in self.states if name == key and seq < entry.seq - 1]:
            del self.states[key, seq]
        for place in [place for place in self._gathered if place[0] == key and place[1] < entry.seq - 1]:
            del self._gathered[place]
        return True


async def _partitions(reader: Any, topic: str) -> set[int]:
    """The partitions of a topic that exists."""
    await reader._client._wait_on_metadata(topic)
    found: set[int] = reader.partitions_for_topic(topic)
    return found


def _retrieve(task: asyncio.Task[None]) -> None:
    """A failed load is raised to who asks for progress; nobody may."""
    if not task.cancelled():
        task.exception()
