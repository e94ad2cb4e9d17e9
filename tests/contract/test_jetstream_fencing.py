"""Only one worker moves a key's progress on JetStream: others are refused by the store, however late they come."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import nats
import pytest

from pipeline.bus.keys import key_token
from pipeline.bus.nats.bus import JetStreamBus
from pipeline.bus.nats.connection import Session, SessionLost
from pipeline.bus.nats.outputs import NumberedOutputs
from pipeline.bus.protocol import Outgoing, Partition, Progress, Record, Subscription, TopicSpec
from pipeline.errors import BusError
from pipeline.runtime.call_runner import StageRunner
from pipeline.runtime.decoding import Decoded
from pipeline.runtime.publisher import Publisher
from pipeline.telemetry.metrics import Metrics
from schemas.calls import CallRef
from stages.protocol import Checkpoint, Event, Output, SkipsFailedInputs
from tests.contract.brokers import JetStreamBroker
from tests.contract.conftest import Running
from tests.contract.recorder import Recorder, holding

IN, OUT = "calls.utterances", "calls.segments"
SUBSCRIPTION = Subscription(group="transcribe", topics=(IN,), progress_topic=OUT)
SIZES = [9, 20_000]
"""Bytes of a state in the headers of its output, and of one stored before its output."""
WINDOW_S = 0.1
KEY = b"call"
SUBJECT = f"calls.segments.0.{key_token(KEY)}"


async def bus_with_topics(broker: JetStreamBroker) -> JetStreamBus:
    """Return a bus whose output topic forgets event ids almost at once."""
    bus = await broker.bus()
    await bus.ensure_topics([TopicSpec(name=name, partitions=1, retention_s=3600) for name in (IN, OUT)])
    client = await nats.connect(broker.url)
    config = (await client.jetstream().stream_info("calls-segments")).config
    await client.jsm().update_stream(config, duplicate_window=WINDOW_S)
    await client.close()
    return bus


@contextlib.asynccontextmanager
async def held(bus: JetStreamBus, running: Running, recorder: Recorder | None = None) -> AsyncIterator[Partition]:
    """Yield partition 0 while the bus reads it."""
    recorder = recorder or holding()
    async with running(bus, SUBSCRIPTION, recorder):
        await recorder.until(lambda: bool(recorder.held))
        yield recorder.partitions[IN, 0]


def output(seq: int, size: int, value: str = "") -> tuple[Outgoing, Progress]:
    state = bytes([seq]) * size
    return (
        Outgoing(OUT, key=KEY, value=(value or str(seq)).encode(), event_id=f"call/{seq}"),
        Progress(seq=seq, released=seq, state=state),
    )


async def publish(partition: Partition, seq: int, size: int = 9, value: str = "") -> None:
    record, progress = output(seq, size, value)
    await partition.publish(record, progress=progress)


async def stored(bus: JetStreamBus) -> list[str]:
    return [record.value.decode() async for record in bus.stored(OUT, key=KEY)]


async def n_states(broker: JetStreamBroker) -> int:
    client = await nats.connect(broker.url)
    found = (await client.jetstream().stream_info("callstream-state")).state.messages
    await client.close()
    return int(found)


class Wire:
    """What happens to publishes on a subject: they are stored and their answer is lost, or they are not sent."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.losing: str | None = None
        self.cutting: str | None = None
        self.after_s = 0.0
        original = Session.request

        async def request(session: Session, subject: str, *arguments: Any, **named: Any) -> Any:
            if self.cutting is not None and subject.startswith(self.cutting):
                raise RuntimeError("killed here")
            answer = await original(session, subject, *arguments, **named)
            if subject == self.losing:
                self.losing = None
                await asyncio.sleep(self.after_s)
                raise SessionLost("the answer was lost")
            return answer

        monkeypatch.setattr(Session, "request", request)


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    return Wire(monkeypatch)


# -- lost acknowledgements ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
async def test_an_output_whose_acknowledgement_was_lost_is_stored_once(
    jetstream: JetStreamBroker, running: Running, wire: Wire, size: int
) -> None:
    bus = await bus_with_topics(jetstream)
    async with held(bus, running) as partition:
        await publish(partition, 0, size)
        wire.losing, wire.after_s = SUBJECT, 5 * WINDOW_S
        await publish(partition, 1, size)
        await publish(partition, 2, size)
        assert await partition.progress(KEY) == output(2, size)[1]
    assert await stored(bus) == ["0", "1", "2"]


@pytest.mark.parametrize("size", SIZES)
async def test_a_lost_acknowledgement_is_found_although_a_record_was_put_back_since(
    jetstream: JetStreamBroker, running: Running, wire: Wire, size: int
) -> None:
    bus, other = await bus_with_topics(jetstream), await jetstream.bus()
    async with held(bus, running) as partition:
        await publish(partition, 0, size)
        wire.losing, wire.after_s = SUBJECT, 5 * WINDOW_S
        publishing = asyncio.create_task(publish(partition, 1, size))
        await asyncio.sleep(2 * WINDOW_S)
        await other.publish(Outgoing(OUT, key=KEY, value=b"put back", event_id="letter"), partition=0)
        await publishing
        await publish(partition, 2, size)
    assert await stored(bus) == ["0", "1", "put back", "2"]


# -- records beside the outputs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
async def test_records_put_back_beside_the_owner_change_nothing_for_it(
    jetstream: JetStreamBroker, running: Running, size: int
) -> None:
    bus, other = await bus_with_topics(jetstream), await jetstream.bus()
    recorder = holding()
    async with held(bus, running, recorder) as partition:
        for seq in range(4):
            letter = Outgoing(OUT, key=KEY, value=f"letter {seq}".encode(), event_id=f"letter/{seq}")
            await other.publish(letter, partition=0)
            await publish(partition, seq, size)
            interim = Outgoing(OUT, key=KEY, value=f"interim {seq}".encode(), event_id=f"interim/{seq}")
            await partition.publish(interim)
            assert await partition.progress(KEY) == output(seq, size)[1]
    expected = [[f"letter {seq}", str(seq), f"interim {seq}"] for seq in range(4)]
    assert await stored(bus) == [value for values in expected for value in values]
    assert [kind for kind, *_ in recorder.log] == ["assigned", "revoked"]


async def test_records_put_back_while_the_owner_publishes_are_all_stored(
    jetstream: JetStreamBroker, running: Running
) -> None:
    bus, other = await bus_with_topics(jetstream), await jetstream.bus()

    async def put_back(number: int) -> None:
        for index in range(20):
            letter = Outgoing(OUT, key=KEY, value=b"letter", event_id=f"letter/{number}/{index}")
            await other.publish(letter, partition=0)

    async with held(bus, running) as partition:
        letters = [asyncio.create_task(put_back(number)) for number in range(3)]
        for seq in range(100):
            await publish(partition, seq)
        await asyncio.gather(*letters)
        assert await partition.progress(KEY) == output(99, 9)[1]
    found = await stored(bus)
    assert [value for value in found if value != "letter"] == [str(seq) for seq in range(100)]
    assert len(found) == 160


async def test_a_worker_goes_on_after_a_foreign_record_and_after_its_outputs_were_deleted(
    jetstream: JetStreamBroker, running: Running
) -> None:
    bus = await bus_with_topics(jetstream)
    client = await nats.connect(jetstream.url)
    async with held(bus, running) as partition:
        await publish(partition, 0)
        await client.jetstream().publish(SUBJECT, b"foreign")
        await publish(partition, 1)
        await client.jsm().purge_stream("calls-segments", subject=SUBJECT)
        await publish(partition, 2)
        assert await partition.progress(KEY) == output(2, 9)[1]
    await client.close()
    assert await stored(bus) == ["2"]


# -- two workers -------------------------------------------------------------------------------------------------------


class Sums:
    """A stage that gives one output for each input: the sum of the inputs so far, with a state of `size` bytes."""

    name = "sums"
    topic = OUT

    def __init__(self, size: int) -> None:
        self.size = size

    def open(self, call: CallRef, state: bytes | None) -> "Sum":
        return Sum(self.size, state)


class Sum(SkipsFailedInputs):
    finished = False
    idle_position = None
    waiting = None

    def __init__(self, size: int, state: bytes | None) -> None:
        self._padding = bytes(size)
        self._total, self._next_seq, _ = (
            (0, 0, b"") if state is None else msgspec.msgpack.decode(state, type=tuple[int, int, bytes])
        )

    async def submit(self, record: int, event: Event) -> AsyncIterator[Output]:
        if event.seq < self._next_seq:
            return
        self._total, self._next_seq = self._total + record, event.seq + 1
        yield Output(topic=OUT, record=self._total, event_id=f"call/{event.seq}", seq=event.seq)

    def checkpoint(self) -> Checkpoint:
        state = msgspec.msgpack.encode((self._total, self._next_seq, self._padding))
        return Checkpoint(state=state, released=self._next_seq)


def decode(record: Record) -> Decoded:
    seq = int(record.headers["ce_callseq"])
    return Decoded(CallRef("default", "call"), seq, f"in/{seq}", int(record.value))


@pytest.mark.parametrize("size", SIZES)
async def test_a_worker_that_is_overtaken_reads_that_partition_again_and_nothing_else(
    jetstream: JetStreamBroker, size: int
) -> None:
    """Another worker publishes outputs 4 to 6 of the call. The first is refused, and goes on from output 6."""
    bus, other = await bus_with_topics(jetstream), await jetstream.bus()
    call, metrics = CallRef("default", "call"), Metrics()
    runner = StageRunner(
        bus,
        Sums(size),
        subscription=SUBSCRIPTION,
        decoder=decode,
        publisher=Publisher(bus, stage="sums", lane="live", metrics=metrics),
        metrics=metrics,
        budget_bytes=1_000_000,
    )

    async def put(seqs: range) -> None:
        for seq in seqs:
            headers = {"ce_callseq": str(seq)}
            await bus.publish(Outgoing(IN, key=call.key, value=b"1", event_id=f"in/{seq}", headers=headers))

    async def sums(count: int) -> list[int]:
        async with asyncio.timeout(10):
            while len(found := [int(record.value) async for record in bus.stored(OUT)]) < count:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        return found

    run = asyncio.create_task(runner.run())
    await put(range(4))
    assert await sums(4) == [1, 2, 3, 4]
    overtaking = PublishedByAnother(other, call.key, size)
    for seq in range(4, 7):
        await overtaking.publish(seq)
    await put(range(4, 10))
    assert await sums(10) == list(range(1, 11))
    await asyncio.sleep(0.5)
    assert await sums(10) == list(range(1, 11))
    assert metrics.stage_restarts.labels("sums")._value.get() == 0
    run.cancel()
    await asyncio.gather(run, return_exceptions=True)


class PublishedByAnother:
    """A worker that holds the partition too, as one that took it over from a worker that stood still."""

    def __init__(self, bus: JetStreamBus, key: bytes, size: int) -> None:
        self._outputs = NumberedOutputs(bus._connection, bus._location, topic=OUT, number=0)
        self._key = key
        self._size = size

    async def publish(self, seq: int) -> None:
        state = msgspec.msgpack.encode((seq + 1, seq + 1, bytes(self._size)))
        record = Outgoing(OUT, key=self._key, value=str(seq + 1).encode(), event_id=f"call/{seq}")
        await self._outputs.publish(record, Progress(seq=seq, released=seq + 1, state=state))


# -- large states ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 2])
async def test_a_worker_killed_between_state_and_output_leaves_the_state_before(
    jetstream: JetStreamBroker, running: Running, wire: Wire, step: int
) -> None:
    """With a step of 2 the stage gave no output for one input, as for a record that became a dead letter."""
    bus = await bus_with_topics(jetstream)
    seq = 0
    async with held(bus, running) as partition:
        await publish(partition, seq, 20_000)
    for _ in range(3):
        for _ in range(2):  # two workers are killed in the same place
            async with held(await jetstream.bus(), running) as partition:
                assert await partition.progress(KEY) == output(seq, 20_000)[1]
                wire.cutting = SUBJECT
                with pytest.raises(RuntimeError):
                    await publish(partition, seq + step, 20_000)
                wire.cutting = None
        seq += step
        async with held(await jetstream.bus(), running) as partition:
            assert await partition.progress(KEY) == output(seq - step, 20_000)[1]
            await publish(partition, seq, 20_000)
            assert await partition.progress(KEY) == output(seq, 20_000)[1]


async def test_a_state_survives_a_publish_that_was_cut_off_after_it_was_stored(
    jetstream: JetStreamBroker, running: Running, wire: Wire
) -> None:
    bus = await bus_with_topics(jetstream)
    async with held(bus, running) as partition:
        await publish(partition, 0, 20_000)
        wire.losing, wire.after_s = SUBJECT, 10.0
        cut_off = asyncio.create_task(publish(partition, 1, 20_000))
        while wire.losing is not None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        cut_off.cancel()
        await asyncio.gather(cut_off, return_exceptions=True)
        wire.cutting = SUBJECT
        with pytest.raises(RuntimeError):
            await publish(partition, 2, 20_000)
        wire.cutting = None
        assert await partition.progress(KEY) == output(1, 20_000)[1]


async def test_states_are_deleted_once_no_output_needs_them(jetstream: JetStreamBroker, running: Running) -> None:
    bus = await bus_with_topics(jetstream)
    async with held(bus, running) as partition:
        for seq in range(10):
            await publish(partition, seq, 1_200_000)
        assert await n_states(jetstream) == 6  # two states of three pieces
    async with held(await jetstream.bus(), running) as partition:
        assert await partition.progress(KEY) == output(9, 1_200_000)[1]
        await publish(partition, 10, 20_000)
        assert await n_states(jetstream) == 1
        await publish(partition, 11)
        assert await n_states(jetstream) == 0
        assert await partition.progress(KEY) == output(11, 9)[1]


@pytest.mark.parametrize("next_size", SIZES)
async def test_a_state_of_an_earlier_version_is_read_and_then_deleted(
    jetstream: JetStreamBroker, running: Running, next_size: int
) -> None:
    bus = await bus_with_topics(jetstream)
    client = await nats.connect(jetstream.url)
    state = [b"a" * 500_000, b"b" * 7]
    for index, piece in enumerate(state):
        subject = f"callstream.state.{SUBJECT}.1" + (f".{index}" if index else "")
        headers = {"callstream-seq": "7", "callstream-pieces": "2"}
        await client.jetstream().publish(subject, piece, headers=headers)
    await client.jetstream().publish(SUBJECT, b"7", headers={"callstream-seq": "7", "callstream-released": "5"})
    await client.close()
    async with held(bus, running) as partition:
        assert await partition.progress(KEY) == Progress(seq=7, released=5, state=b"".join(state))
        await publish(partition, 8, next_size)
        assert await partition.progress(KEY) == output(8, next_size)[1]
        assert await n_states(jetstream) == (next_size > 4096)


async def test_a_state_that_is_gone_is_a_bus_error(jetstream: JetStreamBroker, running: Running) -> None:
    bus = await bus_with_topics(jetstream)
    client = await nats.connect(jetstream.url)
    async with held(bus, running) as partition:
        await publish(partition, 3, 20_000)
        await client.jsm().purge_stream("callstream-state")
        with pytest.raises(BusError, match="state of output 3"):
            await partition.progress(KEY)
    await client.close()
