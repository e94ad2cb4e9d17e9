"""The progress of a group's keys on Kafka, which cannot look up the last record of a key.

An output carries the progress of its key in its headers, so both are stored or neither. To find it again there is an
index, the compacted topic `<group>.progress`. Once a second, the owner of a partition writes new entries to it, and
then a mark: the position of the output topic before which everything is in the index. The next owner reads the index,
and then the outputs after the mark. So an output costs one record, and a new owner reads a second's worth of outputs.

A state that is too large for headers is stored in the index before its output, in one of two slots that its key has for
each writer: in the one that does not have the state of the last output on the bus. So a crash between the two writes
loses no state, even after compaction. A slot has a record for each piece of the state.

A worker that lost its partition unnoticed may still write. Its outputs do no harm: their inputs are not committed, so
the new owner makes the same outputs. Its index entries must not hide those of the new owner:

- The key of an index record names its writer, and among several writers' entries for a key the one with the highest
  number counts. Compaction keeps the last record of a key, which otherwise might be one that knows less.
- A mark counts only if it is the last owner's: it has a term, and a new owner writes a mark with a higher term before
  it publishes anything.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Final, NamedTuple

import msgspec
import structlog
from aiokafka import TopicPartition

from pipeline.bus.kafka.clients import KafkaClients, bus_errors, read_to_end
from pipeline.bus.kafka.records import Headers, progress_from_wire, progress_to_wire, to_wire
from pipeline.bus.protocol import Outgoing, Progress, state_pieces
from pipeline.errors import BusError

FLUSH_S: Final = 1.0
_READ_S: Final = 30.0
"""How long reading a part of the index may stall."""
_SEND_AT_ONCE: Final = 500
_MARK, _ENTRY, _STATE = "mark", "entry", "state"

Send = Callable[[str, int, bytes, bytes | None, Headers], Awaitable[int]]
"""Stores a record (topic, partition, key, value, headers) and returns its position."""


def progress_topic(group: str) -> str:
    """Return the name of a group's index topic."""
    return f"{group}.progress"


class _Entry(msgspec.Struct, frozen=True, array_like=True):
    """The last output of a key. `state` is None if it is large: then it is in a slot."""

    seq: int
    released: int
    state: bytes | None


class _State(NamedTuple):
    """A large state, and the slot that has it."""

    content: bytes
    writer: str
    slot: int


class _IndexKey(msgspec.Struct, frozen=True, array_like=True):
    kind: str
    writer: str
    key: bytes
    slot: int
    piece: int = 0


class _Mark(msgspec.Struct, frozen=True, array_like=True):
    """The position of the output topic before which everything is in the index, and the term of its writer.

    `era` rises when the group's generations restart: Kafka forgets a group that had no members for long.
    """

    era: int = 0
    generation: int = -1
    position: int = 0

    @property
    def term(self) -> tuple[int, int]:
        return self.era, self.generation

    def next_term(self, generation: int) -> "_Mark":
        """Return the first mark of the owner in `generation`, after the owner of this mark."""
        return _Mark(self.era if generation > self.generation else self.era + 1, generation, self.position)


_decode_key = msgspec.msgpack.Decoder(_IndexKey).decode
_decode_entry = msgspec.msgpack.Decoder(_Entry).decode
_decode_mark = msgspec.msgpack.Decoder(_Mark).decode
_encode = msgspec.msgpack.encode


class ProgressIndex:
    """The progress of a group on its output topic, for the partitions that this worker has held."""

    def __init__(self, clients: KafkaClients, *, group: str, topic: str, writer: str, send: Send) -> None:
        self.group = group
        self.topic = topic
        self._clients = clients
        self._writer = writer
        self._send = send
        self._parts: dict[int, _Part] = {}
        self._held: list[int] = []
        self._writing = asyncio.Lock()
        self._loading: asyncio.Task[None] | None = None
        self._flushing: asyncio.Task[None] | None = None
        self._log = structlog.get_logger("callstream.kafka").bind(group=group)

    def begin(self, numbers: Iterable[int], generation: int) -> None:
        """Begin to read the progress of partitions that were assigned in a generation of the group."""
        if self._loading is not None:
            self._loading.cancel()
        self._held = sorted(numbers)
        self._loading = asyncio.create_task(self._load(self._held, generation), name=f"progress of {self.group}")
        self._loading.add_done_callback(_retrieve)
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._keep_flushing(), name=f"index of {self.group}")

    async def get(self, number: int, key: bytes) -> Progress | None:
        """Return the progress of a key. Raises BusError if the index could not be read, or a large state is gone."""
        part = await self._part(number)
        if part.lacks_state(key):
            await self._search(number, part, key)
        return part.get(key)

    async def publish(self, record: Outgoing, number: int, partition: int, progress: Progress) -> None:
        """Store an output and its progress. `number` is the partition of the inputs, `partition` that of the output."""
        part = await self._part(number)
        key = record.key
        large = progress.is_large
        slot = part.free_slot(key, self._writer)
        if large:
            pieces = state_pieces(progress.state)
            stated = [("seq", str(progress.seq).encode()), ("pieces", str(len(pieces)).encode())]
            for index, piece in enumerate(pieces):
                await self._write(number, _STATE, key, piece, slot=slot, piece=index, headers=stated)
        before = part.begin_output()
        try:
            headers = to_wire(record.headers) + progress_to_wire(progress, self.group)
            position = await self._send(self.topic, partition, key, record.value, headers)
            if large:
                part.states.setdefault(key, {})[progress.seq] = _State(progress.state, self._writer, slot)
            outdated = part.note(
                position, key, _Entry(progress.seq, progress.released, None if large else progress.state)
            )
        finally:
            part.end_output(before)
        if not large:
            # Those of other writers stay: theirs may be the owner, and its slot may have a later state by now.
            for state in outdated:
                if state.writer == self._writer:
                    for index in range(len(state_pieces(state.content))):
                        await self._write(number, _STATE, key, None, slot=state.slot, piece=index)

    async def flush(self) -> None:
        """Write the new entries of every partition that is held. Raises BusError."""
        async with self._writing:
            if self._loading is not None and _succeeded(self._loading):
                for number in self._held:
                    await self._flush(number, self._parts[number])

    async def _flush(self, number: int, part: "_Part") -> None:
        fresh, mark = part.take_fresh()
        if mark is None:
            return
        try:
            for first in range(0, len(fresh), _SEND_AT_ONCE):
                await _all(
                    self._write(number, _ENTRY, key, _encode(part.entries[key]))
                    for key in fresh[first : first + _SEND_AT_ONCE]
                )
            await self._write(number, _MARK, b"", _encode(mark))
        except BaseException:
            part.give_back(fresh)
            raise
        part.take_mark(mark)

    async def close(self) -> None:
        """Write new entries if the broker answers; if not, the next owner has more outputs to read."""
        for task in (self._loading, self._flushing):
            if task is not None:
                task.cancel()
        await asyncio.gather(*(task for task in (self._loading, self._flushing) if task), return_exceptions=True)
        try:
            async with asyncio.timeout(2 * FLUSH_S):
                await self.flush()
        except (BusError, TimeoutError) as error:
            self._log.debug("index not completed", error=str(error))

    async def _keep_flushing(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            try:
                await self.flush()
            except BusError as error:
                self._log.debug("index waits for the broker", error=str(error))
            except Exception as error:  # the next flush writes what this one did not
                self._log.error("index not written", error=repr(error), exc_info=error)

    async def _write(
        self,
        number: int,
        kind: str,
        key: bytes,
        value: bytes | None,
        *,
        slot: int = 0,
        piece: int = 0,
        headers: Headers | None = None,
    ) -> None:
        name = _encode(_IndexKey(kind, self._writer, key, slot, piece))
        position = await self._send(progress_topic(self.group), number, name, value, headers or [])
        part = self._parts[number]
        part.written_to = max(part.written_to, position + 1)

    async def _part(self, number: int) -> "_Part":
        """Wait until the partition is read. Raises BusError if that failed or the partition is not held any more."""
        loading = None
        while loading is not self._loading:
            loading = self._loading
            assert loading is not None
            await asyncio.wait([loading])
        assert loading is not None
        if loading.cancelled() or number not in self._parts:
            raise BusError(f"partition {number} is no longer held")
        loading.result()
        return self._parts[number]

    # -- reading -------------------------------------------------------------------------------------------------------

    async def _load(self, numbers: list[int], generation: int) -> None:
        with bus_errors(f"reading the progress of {self.group}"):
            async with self._clients.reading() as reader:
                async with asyncio.timeout(_READ_S):
                    count = len(await _partitions(reader, self.topic))
                await self._read_index(reader, numbers)
                await self._read_outputs(reader, numbers, count)
        await _all(self._claim(number, generation) for number in numbers)

    async def _read_index(self, reader: Any, numbers: list[int]) -> None:
        partitions = {TopicPartition(progress_topic(self.group), number): number for number in numbers}
        async with asyncio.timeout(_READ_S):
            await _partitions(reader, progress_topic(self.group))
            begins, ends = await reader.beginning_offsets(partitions), await reader.end_offsets(partitions)
        for tp, number in partitions.items():
            known = self._parts.get(number)
            if known is None or max(known.read_to, known.written_to) > ends[tp]:  # the topic was recreated
                self._parts[number] = _Part()
        starts = {tp: max(begins[tp], self._parts[number].read_to) for tp, number in partitions.items()}
        async for record in read_to_end(reader, starts, ends, timeout_s=_READ_S):
            self._parts[record.partition].apply(record)
        for tp, number in partitions.items():
            self._parts[number].read_to = ends[tp]

    async def _read_outputs(self, reader: Any, numbers: list[int], count: int) -> None:
        """Read outputs of the group from the lowest mark on, for all partitions that have outputs there."""
        sources: dict[TopicPartition, list[_Part]] = {}
        for number in numbers:
            sources.setdefault(TopicPartition(self.topic, number % count), []).append(self._parts[number])
        async with asyncio.timeout(_READ_S):
            begins, ends = await reader.beginning_offsets(sources), await reader.end_offsets(sources)
        starts = {tp: max(begins[tp], min(part.known_to for part in parts)) for tp, parts in sources.items()}
        async for record in read_to_end(reader, starts, ends, timeout_s=_READ_S):
            self._note(record, sources[TopicPartition(record.topic, record.partition)])
        for tp, parts in sources.items():
            for part in parts:
                part.next_position = max(part.next_position, ends[tp])
                part.outputs_read_to = ends[tp]

    async def _search(self, number: int, part: "_Part", key: bytes) -> None:
        """Search all outputs for the last one of a key whose state is gone.

        A worker that had lost the partition may have replaced the state, but only after it had stored a later output.
        """
        with bus_errors(f"searching the progress of {key!r}"):
            async with self._clients.reading() as reader:
                async with asyncio.timeout(_READ_S):
                    tp = TopicPartition(self.topic, number % len(await _partitions(reader, self.topic)))
                    begins, ends = await reader.beginning_offsets([tp]), await reader.end_offsets([tp])
                async for record in read_to_end(reader, begins, ends, timeout_s=_READ_S):
                    if record.key == key:
                        self._note(record, [part])

    def _note(self, record: Any, parts: "list[_Part]") -> None:
        carried = progress_from_wire(record.headers, self.group)
        if carried is not None:
            progress, complete = carried
            entry = _Entry(progress.seq, progress.released, progress.state if complete else None)
            for part in parts:
                part.note(record.offset, record.key, entry)

    async def _claim(self, number: int, generation: int) -> None:
        """Write a mark with a new term: from now on only marks of this worker count, or of later owners."""
        part = self._parts[number]
        mark = part.mark.next_term(generation)
        await self._write(number, _MARK, b"", _encode(mark))
        part.take_mark(mark)


class _Part:
    """The known progress of one partition."""

    def __init__(self) -> None:
        self.entries: dict[bytes, _Entry] = {}
        self.states: dict[bytes, dict[int, _State]] = {}
        """Large states by key and output number."""
        self.mark = _Mark()
        self.read_to = 0
        self.written_to = 0
        self.outputs_read_to = 0
        self.next_position = 0
        """The position after the last known output, which may be one that this worker published."""
        self._gathered: dict[bytes, dict[tuple[int, str], dict[int, bytes]]] = {}
        """The pieces of states that are not complete yet, by key, then output number and writer."""
        self._fresh: set[bytes] = set()
        self._in_flight: list[int] = []

    @property
    def known_to(self) -> int:
        """The position of the output topic before which everything was read or is in the index.

        This is not `next_position`: while this worker published for a partition that it had lost, the new owner did
        too.
        """
        return max(self.mark.position, self.outputs_read_to)

    def lacks_state(self, key: bytes) -> bool:
        entry = self.entries.get(key)
        return entry is not None and entry.state is None and entry.seq not in self.states.get(key, ())

    def get(self, key: bytes) -> Progress | None:
        entry = self.entries.get(key)
        if entry is None:
            return None
        if entry.state is not None:
            return Progress(seq=entry.seq, released=entry.released, state=entry.state)
        state = self.states.get(key, {}).get(entry.seq)
        if state is None:
            raise BusError(f"the state of output {entry.seq} of key {key!r} is gone")
        return Progress(seq=entry.seq, released=entry.released, state=state.content)

    def free_slot(self, key: bytes, writer: str) -> int:
        """Return the slot of a writer that does not have the state of the key's last output."""
        entry = self.entries.get(key)
        state = None if entry is None else self.states.get(key, {}).get(entry.seq)
        return 1 - state.slot if state is not None and state.writer == writer else 0

    def apply(self, record: Any) -> None:
        """Take in a record of the index."""
        name = _decode_key(record.key)
        if name.kind == _STATE:
            if record.value is not None:
                self._gather(name, dict(record.headers), record.value)
        elif name.kind == _ENTRY:
            self._keep(name.key, _decode_entry(record.value))
        else:
            self.take_mark(_decode_mark(record.value))

    def take_mark(self, mark: _Mark) -> None:
        if mark.term > self.mark.term or (mark.term == self.mark.term and mark.position > self.mark.position):
            self.mark = mark

    def note(self, position: int, key: bytes, entry: _Entry) -> list[_State]:
        """Note an output of `key` at `position`. Returns the large states that are now outdated."""
        self.next_position = max(self.next_position, position + 1)
        outdated = self._keep(key, entry)
        if self.entries[key] is entry:
            self._fresh.add(key)
        return outdated

    def begin_output(self) -> int:
        """Note that an output is being sent, and return the lowest position that it can get."""
        self._in_flight.append(self.next_position)
        return self.next_position

    def end_output(self, before: int) -> None:
        self._in_flight.remove(before)

    def take_fresh(self) -> tuple[list[bytes], _Mark | None]:
        """Return the keys whose entries to write, and the mark to write after them; None if there is nothing new."""
        position = min([self.next_position, *self._in_flight])
        fresh = sorted(self._fresh)
        self._fresh.clear()
        if not fresh and position <= self.mark.position:
            return fresh, None
        return fresh, msgspec.structs.replace(self.mark, position=position)

    def give_back(self, keys: list[bytes]) -> None:
        self._fresh.update(keys)

    def _gather(self, name: _IndexKey, headers: dict[str, bytes], piece: bytes) -> None:
        seq, count = int(headers["seq"]), int(headers["pieces"])
        of_key = self._gathered.setdefault(name.key, {})
        pieces = of_key.setdefault((seq, name.writer), {})
        pieces[name.piece] = piece
        if len(pieces) == count:
            content = b"".join(pieces[index] for index in range(count))
            self.states.setdefault(name.key, {})[seq] = _State(content, name.writer, name.slot)
            del of_key[seq, name.writer]

    def _keep(self, key: bytes, entry: _Entry) -> list[_State]:
        known = self.entries.get(key)
        if known is not None and known.seq > entry.seq:
            return []
        self.entries[key] = entry
        gathered = self._gathered.get(key, {})
        for seq, writer in [output for output in gathered if output[0] < entry.seq]:
            del gathered[seq, writer]
        if not gathered:
            self._gathered.pop(key, None)
        states = self.states.get(key, {})
        outdated = [states.pop(seq) for seq in sorted(states) if seq < entry.seq]
        if not states:
            self.states.pop(key, None)
        return outdated


async def _all(writes: Iterable[Coroutine[None, None, None]]) -> None:
    """Run writes together. When all have ended, raises the first failure."""
    for failure in await asyncio.gather(*writes, return_exceptions=True):
        if failure is not None:
            raise failure


async def _partitions(reader: Any, topic: str) -> set[int]:
    """Return the partitions of an existing topic."""
    await reader._client._wait_on_metadata(topic)
    found: set[int] = reader.partitions_for_topic(topic)
    return found


def _succeeded(task: asyncio.Task[None]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None


def _retrieve(task: asyncio.Task[None]) -> None:
    """Retrieve the error of a failed load. `get` raises it, but may never be called."""
    if not task.cancelled():
        task.exception()
