"""What a bus is. Three implementations pass one contract suite: memory, JetStream, Kafka.

A bus carries records on topics of numbered partitions, keeps them in order per partition, gives them to the workers of
a group at least once, and remembers with every numbered output the checkpoint of the key that it belongs to. Two
things about it are exact, and everything else rests on them:

- A record counts as done only when `Partition.ack` was called for it *and* for every record before it in the
  partition (`pipeline.bus.tracker`). After any crash the group's next worker gets all others again.
- `Partition.progress(key)` returns what the last published record of the key on `Subscription.progress_topic`
  carried, also when that record was published a moment before the crash.
"""

from collections.abc import AsyncIterator, Mapping
from typing import Final, Protocol

import msgspec

INLINE_STATE_BYTES: Final = 4096
"""The largest checkpoint that travels in the headers of its output: every consumer receives them, and NATS limits a
record's headers to 64 kB."""
STATE_PIECE_BYTES: Final = 500_000
"""Kafka, and a nats-server that is not ours, take records of up to 1 MB by default."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One record as read. `lag` is the number of records behind it in its partition when it was read."""

    topic: str
    partition: int
    position: int
    key: bytes
    value: bytes
    headers: Mapping[str, str]
    timestamp_s: float
    lag: int = 0

    @property
    def size_bytes(self) -> int:
        return len(self.key) + len(self.value) + sum(map(len, self.headers)) + sum(map(len, self.headers.values()))


class Outgoing(msgspec.Struct, frozen=True):
    """One record to publish.

    `event_id` names the event: a record published again after a failure has the same id, the same bytes and is stored
    once where the broker can tell.
    """

    topic: str
    key: bytes
    value: bytes
    event_id: str
    headers: Mapping[str, str] = {}


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a stage has come with a key: the number of its last output, and its checkpoint there.

    The checkpoint may be larger than a record.
    """

    seq: int
    released: int
    state: bytes

    @property
    def is_large(self) -> bool:
        """True where the checkpoint is stored in pieces of its own before the output, false where in its headers."""
        return len(self.state) > INLINE_STATE_BYTES


def state_pieces(state: bytes) -> list[bytes]:
    """Split a large checkpoint into pieces of at most `STATE_PIECE_BYTES`; one empty piece for an empty state."""
    return [state[at : at + STATE_PIECE_BYTES] for at in range(0, max(1, len(state)), STATE_PIECE_BYTES)]


class Partition(Protocol):
    """A partition of a topic while it is assigned to this worker."""

    topic: str
    number: int

    def ack(self, position: int) -> None:
        """The record at `position` is done. In any order; after revocation it does nothing."""
        ...

    async def publish(self, record: Outgoing, *, progress: Progress | None = None) -> None:
        """Store what followed from this partition's records: in the partition of the same number of the topic.

        So all that concerns a call meets in one partition number, whichever an outside producer put it into. With
        `progress`, the topic must be the subscription's progress topic; both are stored or neither.
        Raises what `Bus.publish` raises, and BusError after revocation.
        """
        ...

    async def progress(self, key: bytes) -> Progress | None:
        """The progress that the last numbered record of `key` from this partition carried, whichever worker wrote it.

        `key` is the key of the *outputs*. Raises BusError when the broker does not answer.
        """
        ...


class Handler(Protocol):
    """What reads records: the runner. Called from one task per partition; an exception ends `Bus.run` with it."""

    async def on_assigned(self, partition: Partition) -> None:
        """Before the first record of a partition."""
        ...

    async def on_record(self, record: Record, partition: Partition) -> None:
        """Take a record. The bus delivers no further record of the partition before this returns: backpressure."""
        ...

    async def on_revoked(self, partition: Partition) -> None:
        """The partition is gone: drop what is buffered for it. Its un-acked records go to another worker."""
        ...


class Subscription(msgspec.Struct, frozen=True, kw_only=True):
    """Who reads what. Workers with the same `group` share the partitions of the topics between them."""

    group: str
    topics: tuple[str, ...]
    progress_topic: str | None = None
    prefetch_bytes: int = 4_000_000
    """The most bytes of records per topic partition that the bus holds before `on_record` has taken them."""


class TopicSpec(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    partitions: int
    retention_s: float
    max_bytes: int | None = None
    """The most that the topic may hold; past it publishing raises StoreFullError. None: no limit of its own. Kafka has
    no such limit: it refuses when its disk is full."""
    groups: tuple[str, ...] = ()
    """The groups whose progress travels with the topic's records: a broker that cannot look up a key's last record
    keeps an index for each."""


class TopicState(msgspec.Struct, frozen=True, kw_only=True):
    """A topic as the broker has it. What it does not limit, or does not tell, is None."""

    name: str
    partitions: int
    retention_s: float | None
    max_bytes: int | None
    replicas: int
    compacted: bool
    records: int | None
    size_bytes: int | None


class Bus(Protocol):
    async def ensure_topics(self, topics: list[TopicSpec]) -> None:
        """Create what is missing. Does not change the partitions of a topic that exists."""
        ...

    async def publish(self, record: Outgoing, *, partition: int | None = None) -> None:
        """Store one record in the partition that follows from its key; returns when it is durable.

        `partition` is given for a record that is put back where it was: it joins its key's records there, whichever
        partition their producer chose, and `Partition.progress` of the key stays as it is.
        An event id repeated within a short time is stored once where the broker can tell.
        Raises StoreFullError, RecordTooLargeError, or BusError after the bus's own reconnect time.
        """
        ...

    async def run(self, subscription: Subscription, handler: Handler) -> None:
        """Read until cancelled. Raises what the handler raised, or BusError when the broker is lost for good."""
        ...

    async def follow(self, topics: tuple[str, ...], *, key: bytes | None = None) -> "Feed":
        """Watch topics from now on without a group: for live display. Nothing is acknowledged."""
        ...

    def stored(
        self, topic: str, *, key: bytes | None = None, start: tuple[int, int] | None = None
    ) -> AsyncIterator[Record]:
        """The records that `topic` holds when iteration begins, in order per partition; of one key if it is given.

        With `start`, those of one partition (the first number) from a position (the second) on, at which the topic
        need not hold a record any more.
        Without a group: nobody's floor moves. Raises BusError while iterated, when the broker is gone for longer than
        the bus waits for it, or has no such topic.
        """
        ...

    async def read(self, topic: str, partition: int, position: int) -> Record | None:
        """The record at a position; None where the topic no longer holds it. Raises what `stored` raises."""
        ...

    async def lag(self, subscription: Subscription) -> int:
        """Records of the subscription's topics that are not acknowledged yet."""
        ...

    async def describe(self, topics: tuple[str, ...]) -> "list[TopicState]":
        """The topics as the broker has them, in the given order; those that it does not have are left out."""
        ...

    async def close(self) -> None: ...


class Feed(Protocol):
    """Records as they arrive. Iterate it; `close` ends the iteration."""

    def __aiter__(self) -> "Feed": ...

    async def __anext__(self) -> Record: ...

    async def close(self) -> None: ...
