"""Which calls are named when a broker has deleted records that a stage had not read."""

import msgspec
import pytest

from pipeline.bus.memory import MemoryBus
from pipeline.bus.protocol import Expired, Outgoing, Partition, Progress, Record, Subscription, TopicSpec
from pipeline.runtime.decoding import Decoded
from pipeline.runtime.losses import Losses
from pipeline.runtime.publisher import Publisher
from pipeline.telemetry.metrics import Metrics
from schemas import topics
from schemas.calls import CallRef
from schemas.status import EXPIRED_TYPE, JOB_TYPE, Job, JobState, JobStatus, RecordsExpired
from stages.ledger import ledger_entry

READ = Subscription(group="merge", topics=(topics.SEGMENTS,), progress_topic=topics.TRANSCRIPTS)
EXPIRED = Expired(topics.SEGMENTS, 0, 0, 9)
LOST_BEFORE_S = 1_000.0


def call(name: str) -> CallRef:
    return CallRef("default", name)


class Deployment:
    """The topics around the merge stage, each of one partition, after the records 0 to 9 of its input have expired."""

    def __init__(self) -> None:
        self.now = LOST_BEFORE_S - 100
        self.bus = MemoryBus(partitions=1, clock=lambda: self.now)
        self.metrics = Metrics()
        self._read_to: dict[bytes, int] = {}
        publisher = Publisher(self.bus, stage="merge", lane="live", metrics=self.metrics)
        self.losses = Losses(
            self.bus, publisher, self.metrics, stage="merge", group="merge", has_progress=True, decoder=_decode
        )
        self._publisher = publisher

    async def prepare(self) -> None:
        names = (topics.SEGMENTS, topics.TRANSCRIPTS, topics.STATUS)
        await self.bus.ensure_topics([TopicSpec(name=name, partitions=1, retention_s=60) for name in names])
        for number in range(10):
            await self.bus.publish(Outgoing(topics.SEGMENTS, key=b"?", value=b"?", event_id=f"gone/{number}"))
            assert await self.bus.delete(topics.SEGMENTS, 0, number)

    async def ledger(self, name: str, job: Job, status: JobState) -> None:
        entry = ledger_entry(call(name), job, status, {}, at=self.now, event_id=f"{name}/{job}/{status}")
        await self._publisher.send(entry, call(name))

    async def read(self, name: str, *, to: int) -> None:
        """Let the merge stage have begun a call, and have read its inputs below `to`."""
        await self.ledger(name, "merge", "started")
        self._read_to[call(name).key] = to

    async def left(self, name: str, number: int) -> None:
        """Let the input topic still have an input of a call."""
        self.now = LOST_BEFORE_S
        key = call(name).key
        await self.bus.publish(
            Outgoing(topics.SEGMENTS, key=key, value=str(number).encode(), event_id=f"{name}/{number}")
        )

    async def tell(self, expired: Expired = EXPIRED, **in_memory: int) -> None:
        await self.losses.tell(expired, _Held(self._read_to), lambda one: in_memory.get(one.call_id, 0))

    async def named(self) -> dict[str, tuple[int, int | None]]:
        """Return the calls whose ledger says that something expired, and the first and last number."""
        found = {}
        async for record in self.bus.stored(topics.STATUS):
            if record.headers["ce_type"] == JOB_TYPE:
                entry = msgspec.json.decode(record.value, type=JobStatus)
                if entry.status == "expired":
                    found[entry.call_id] = (entry.detail["first_number"], entry.detail["last_number"])
        return found

    async def partitions(self) -> list[RecordsExpired]:
        return [
            msgspec.json.decode(record.value, type=RecordsExpired)
            async for record in self.bus.stored(topics.STATUS)
            if record.headers["ce_type"] == EXPIRED_TYPE
        ]


class _Held(Partition):
    topic = topics.SEGMENTS
    number = 0

    def __init__(self, read_to: dict[bytes, int]) -> None:
        self._read_to = read_to

    def ack(self, position: int) -> None:
        raise AssertionError(position)

    async def publish(self, record: Outgoing, *, progress: Progress | None = None) -> None:
        raise AssertionError(record)

    async def progress(self, key: bytes) -> Progress | None:
        released = self._read_to.get(key)
        return None if released is None else Progress(seq=0, released=released, state=b"")


def _decode(record: Record) -> Decoded:
    return Decoded(CallRef.from_key(record.key), int(record.value), "", None)


@pytest.fixture
async def deployment() -> Deployment:
    made = Deployment()
    await made.prepare()
    return made


async def test_what_is_left_of_a_call_tells_what_of_it_is_lost(deployment: Deployment) -> None:
    await deployment.read("begun", to=3)
    await deployment.left("begun", 8)
    await deployment.left("begun", 7)
    await deployment.left("new", 2)
    await deployment.left("whole", 0)
    await deployment.read("complete", to=5)
    await deployment.left("complete", 5)
    await deployment.tell()
    assert await deployment.named() == {"begun": (3, 6), "new": (0, 1)}


async def test_inputs_that_this_process_holds_are_not_lost(deployment: Deployment) -> None:
    await deployment.read("begun", to=3)
    await deployment.left("begun", 9)
    await deployment.tell(begun=6)
    assert await deployment.named() == {"begun": (6, 8)}


async def test_the_ledger_names_calls_of_which_nothing_is_left(deployment: Deployment) -> None:
    await deployment.read("begun", to=3)
    await deployment.read("finished", to=8)
    await deployment.ledger("finished", "merge", "completed")
    await deployment.ledger("unread", "transcribe", "completed")
    await deployment.ledger("not yet written", "separate", "completed")
    await deployment.left("other", 0)
    await deployment.ledger("later", "transcribe", "completed")
    await deployment.tell()
    assert await deployment.named() == {"begun": (3, None), "unread": (0, None)}


async def test_a_loss_of_which_no_call_is_known_is_told_by_partition_and_counted_once(deployment: Deployment) -> None:
    for _ in range(2):
        await deployment.tell()
    await deployment.tell(Expired(topics.SEGMENTS, 0, 0, 12))
    assert await deployment.named() == {}
    told = [(entry.stage, entry.topic, entry.partition, entry.calls) for entry in await deployment.partitions()]
    assert told == [("merge", topics.SEGMENTS, 0, 0)] * 2
    assert [(entry.first, entry.last) for entry in await deployment.partitions()] == [(0, 9), (10, 12)]
    labels = {"stage": "merge", "topic": topics.SEGMENTS}
    assert deployment.metrics.registry.get_sample_value("callstream_records_expired_unread_total", labels) == 13
