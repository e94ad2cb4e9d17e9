"""The protocol of a message bus. Memory, JetStream and Kafka implement it and pass one contract suite.

A bus carries records on topics of numbered partitions. It keeps the order of each partition, delivers every record to
a group of workers at least once, and stores with every numbered output the checkpoint of its key. Two guarantees are
exact, and everything else rests on them:

- A record is done only when `Partition.ack` was called for it *and* for every record before it in its partition
  (`pipeline.bus.tracker`). After any crash the group's next worker gets all other records again.
- `Partition.progress(key)` returns what the key's last published record on `Subscription.progress_topic` carried, even
  if that record was published a moment before a crash.
"""

from collections.abc import AsyncIterator, Mapping
from functools import cached_property
from typing import Final, Protocol

import msgspec

INLINE_STATE_BYTES: Final = 4096
"""The largest checkpoint that travels in the headers of its output. Every consumer receives those headers, and NATS
limits them to 64 kB."""
STATE_PIECE_BYTES: Final = 500_000
"""Kafka, and a nats-server that an operator runs, accept records of up to 1 MB by default."""


class Record(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """One record as read. `lag` is the number of records after it in its partition when it was read.

    `timestamp_s` is the time at which the broker stored it, in Unix seconds. With `producer_time` the broker keeps the
    time that its producer set.
    """

    topic: str
    partition: int
    position: int
    key: bytes
    value: bytes
    headers: Mapping[str, str]
    timestamp_s: float
    lag: int = 0
    producer_time: bool = False

    @cached_property
    def size_bytes(self) -> int:
        return len(self.key) + len(self.value) + sum(map(len, self.headers)) + sum(map(len, self.headers.values()))


class Outgoing(msgspec.Struct, frozen=True):
    """One record to publish. Published again after a failure, it has the same `event_id` and the same bytes."""

    topic: str
    key: bytes
    value: bytes
    event_id: str
    headers: Mapping[str, str] = {}


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """A stage's progress with a key: the number of its last output, and its checkpoint at that output.

    Inputs numbered below `released` are part of the checkpoint and need no replay. `state` may be larger than a record.
    """

    seq: int
    released: int
    state: bytes

    @property
    def is_large(self) -> bool:
        """True if the state is stored in pieces before its output, False if it travels in the output's headers."""
        return len(self.state) > INLINE_STATE_BYTES


def state_pieces(state: bytes) -> list[bytes]:
    """Split a state into pieces of at most `STATE_PIECE_BYTES`; an empty state gives one empty piece."""
    return [state[at : at + STATE_PIECE_BYTES] for at in range(0, max(1, len(state)), STATE_PIECE_BYTES)]


class Partition(Protocol):
    """A partition of a topic, while it is assigned to this worker."""

    topic: str
    number: int

    def ack(self, position: int) -> None:
        """Mark the record at `position` as done. Calls may come in any order; after revocation they do nothing."""
        ...

    async def publish(self, record: Outgoing, *, progress: Progress | None = None) -> None:
        """Store an output of this partition's records, in the partition of the same number of the output's topic.

        So everything about a call meets in one partition number, even if an outside producer chose another one than we
        would. With `progress`, the topic must be the subscription's progress topic; both are stored or neither.
        Raises what `Bus.publish` raises, and BusError after revocation.

        On a broker that can refuse a record by the one before it, an output with progress is not stored once another
        worker has published outputs of its key. The partition is revoked then, as after any change of its owner.
        """
        ...

    async def progress(self, key: bytes) -> Progress | None:
        """Return the progress of the last numbered output of `key` from this partition, whichever worker published it.

        `key` is the key of the *outputs*. Raises BusError if the broker does not answer.
        """
        ...


class Handler(Protocol):
    """Receives records. The bus calls it from one task per partition; an exception ends `Bus.run`, which raises it."""

    async def on_assigned(self, partition: Partition) -> None:
        """Called before the first record of a partition."""
        ...

    async def on_expired(self, expired: "Expired", partition: Partition) -> None:
        """Take note of records that the broker has deleted although the group had not read them.

        Called in place of `on_record` for them. They count as done once this returns. After a crash before that, the
        next worker is told too.
        """
        ...

    async def on_record(self, record: Record, partition: Partition) -> None:
        """Take a record. The bus delivers the partition's next record after this returns: awaiting is backpressure."""
        ...

    async def on_revoked(self, partition: Partition) -> None:
        """Drop what is buffered for the partition. Its unacknowledged records go to another worker."""
        ...


class Subscription(msgspec.Struct, frozen=True, kw_only=True):
    """The topics that a group reads. Workers of the same `group` share their partitions."""

    group: str
    topics: tuple[str, ...]
    progress_topic: str | None = None
    prefetch_bytes: int = 4_000_000
    """The most bytes of records that the bus holds for a partition before `on_record` takes them."""


class TopicSpec(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    partitions: int
    retention_s: float
    max_bytes: int | None = None
    """The most that the topic may hold; beyond it publishing raises StoreFullError. None: no limit of its own. Kafka
    ignores it, and refuses records once its disk is full."""
    groups: tuple[str, ...] = ()
    """The groups whose progress travels with the topic's records. A broker that cannot look up the last record of a key
    keeps an index for each."""
    readers: tuple[Subscription, ...] = ()
    """What has to have read a record before its age deletes it, and `writers`: the subscriptions whose progress the
    topic's records carry. A broker that deletes by age alone, as Kafka does, ignores both."""
    writers: tuple[Subscription, ...] = ()
    frees: bool = False
    """True if records that all `readers` have read may be deleted as soon as the store is short of room."""
    drops_oldest: bool = False
    """True if the oldest records make room for new ones, read or not. The topic has a limit then."""


class Expired(msgspec.Struct, frozen=True):
    """Records of a partition that a broker deleted unread: the positions from `first` to `last`."""

    topic: str
    partition: int
    first: int
    last: int


class TopicState(msgspec.Struct, frozen=True, kw_only=True):
    """A topic as the broker has it. A field is None if the broker has no such limit, or does not tell."""

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
        """Create missing topics. A topic that exists keeps its partitions."""
        ...

    async def publish(self, record: Outgoing, *, partition: int | None = None) -> None:
        """Store a record in the partition that follows from its key. Returns when it is durable.

        With `partition`, a record is put back where it was: it joins its key's records there, whichever partition their
        producer chose, and `Partition.progress` of the key stays as it is.
        Of records with the same event id within a short time only the first is stored, if the broker can tell.
        Raises StoreFullError, RecordTooLargeError, or BusError after the bus's own reconnect time.
        """
        ...

    async def run(self, subscription: Subscription, handler: Handler) -> None:
        """Read until cancelled. Raises what the handler raised, or BusError if the broker is lost for good."""
        ...

    async def follow(self, topics: tuple[str, ...], *, key: bytes | None = None) -> "Feed":
        """Return the records of topics from now on, of one key if it is given. There is no group: for live display."""
        ...

    def stored(
        self, topic: str, *, key: bytes | None = None, start: tuple[int, int] | None = None
    ) -> AsyncIterator[Record]:
        """Yield the records `topic` holds as iteration begins, in order per partition, of one key if it is given.

        With `start`, yield those of one partition (the first number) from a position (the second) on. The topic need
        not hold a record at that position any more. There is no group: no floor moves.
        Iteration raises BusError if the broker is away for longer than the bus waits for it, or has no such topic.
        """
        ...

    async def read(self, topic: str, partition: int, position: int) -> Record | None:
        """Return the record at a position, None if the topic no longer holds it. Raises what `stored` raises."""
        ...

    async def delete(self, topic: str, partition: int, position: int) -> bool:
        """Delete the record at a position. Returns False if it is not there, or if the broker cannot, as Kafka."""
        ...

    async def freed_at(self, topic: str, key: bytes) -> float | None:
        """Return when records of a key were deleted because the store was short of room, in Unix seconds."""
        ...

    async def lag(self, subscription: Subscription) -> int:
        """Return the number of records of the subscription's topics that are not acknowledged."""
        ...

    async def lag_by_partition(self, subscription: Subscription) -> dict[tuple[str, int], int]:
        """Return `lag` by topic and partition, at the cost of `lag`."""
        ...

    async def describe(self, topics: tuple[str, ...]) -> "list[TopicState]":
        """Return the topics as the broker has them, in the given order, without those that it does not have."""
        ...

    async def close(self) -> None: ...


class Feed(Protocol):
    """Records as they arrive. `close` ends the iteration."""

    def __aiter__(self) -> "Feed": ...

    async def __anext__(self) -> Record: ...

    async def close(self) -> None: ...
