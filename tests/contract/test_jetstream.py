"""JetStream alone: plain clients on both ends, and faults between the server and a reader."""

import asyncio
import base64
import os
import signal

import nats
import pytest
from nats.js.api import ConsumerConfig

from pipeline.bus.keys import partition_of
from pipeline.bus.nats.bus import JetStreamBus
from pipeline.bus.protocol import Outgoing, Progress, Subscription, TopicSpec
from pipeline.errors import BusError, ConfigurationError
from tests.contract.brokers import JetStreamBroker
from tests.contract.conftest import Running
from tests.contract.recorder import Recorder, holding

AUDIO, TRANSCRIPTS = "calls.audio", "calls.transcripts"
TOPICS = [AUDIO, "calls.audio.batch", "calls.utterances", "calls.utterances.batch", TRANSCRIPTS]


async def bus_with_topics(broker: JetStreamBroker, *, partitions: int = 4) -> JetStreamBus:
    bus = await broker.bus()
    await bus.ensure_topics([TopicSpec(name=name, partitions=partitions, retention_s=3600) for name in TOPICS])
    return bus


def token(key: bytes, *, padded: bool) -> str:
    text = base64.urlsafe_b64encode(key).decode()
    return text if padded else text.rstrip("=")


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("topic", [AUDIO, "calls.audio.batch"])
async def test_a_plain_client_publishes_audio(
    jetstream: JetStreamBroker, running: Running, topic: str, padded: bool
) -> None:
    bus = await bus_with_topics(jetstream)
    client = await nats.connect(jetstream.url)
    subject = topic.replace("audio.batch", "audio_batch")
    headers = {"ce-id": "1", "ce-source": "pbx", "CE-Type": "callstream.audio.chunk", "content-type": "text/plain"}
    key = "Anruf 7/ä".encode()
    await client.jetstream().publish(f"{subject}.{token(key, padded=padded)}", b"\x01", headers=headers)
    await client.close()
    recorder = Recorder()
    async with running(bus, Subscription(group="separate", topics=(topic,)), recorder):
        await recorder.count(1)
    [record] = recorder.records
    assert (record.topic, record.key, record.value) == (topic, key, b"\x01")
    assert record.headers["ce_id"] == "1"
    assert record.headers["ce_source"] == "pbx"
    assert record.headers["ce_type"] == "callstream.audio.chunk"
    assert record.headers["content-type"] == "text/plain"


async def test_a_subject_that_is_not_base64url_is_the_key_itself(jetstream: JetStreamBroker, running: Running) -> None:
    bus = await bus_with_topics(jetstream)
    client = await nats.connect(jetstream.url)
    await client.jetstream().publish("calls.audio.call-№1", b"x")
    await client.close()
    recorder = Recorder()
    async with running(bus, Subscription(group="separate", topics=(AUDIO,)), recorder):
        await recorder.count(1)
    assert recorder.records[0].key == "call-№1".encode()


async def test_the_servers_hash_of_a_token_is_ours(jetstream: JetStreamBroker, running: Running) -> None:
    bus = await bus_with_topics(jetstream, partitions=7)
    keys = [f"call-{number}-{'ü' * (number % 5)}".encode() for number in range(150)]
    for number, key in enumerate(keys):
        await bus.publish(Outgoing(AUDIO, key=key, value=b"", event_id=str(number)))
    recorder = Recorder()
    async with running(bus, Subscription(group="separate", topics=(AUDIO,)), recorder):
        await recorder.count(len(keys))
    for record in recorder.records:
        assert record.partition == partition_of(token(record.key, padded=False).encode(), 7)


async def test_plain_clients_read_what_is_published(jetstream: JetStreamBroker, running: Running) -> None:
    bus = await bus_with_topics(jetstream)
    client = await nats.connect(jetstream.url)
    stream = client.jetstream()
    live = await client.subscribe("calls.transcripts.>")
    await client.flush()
    progress = Progress(seq=0, released=1, state=b"s" * 50_000)
    recorder = Recorder()
    async with running(bus, Subscription(group="g", topics=(AUDIO,), progress_topic=TRANSCRIPTS), recorder):
        await recorder.until(lambda: bool(recorder.held))
        await next(iter(recorder.partitions.values())).publish(
            Outgoing(TRANSCRIPTS, key=b"call-1", value=b"{}", event_id="turn-1", headers={"ce_id": "turn-1"}),
            progress=progress,
        )
    pushed = await stream.subscribe("calls.transcripts.>")
    pulled = await stream.pull_subscribe("calls.transcripts.>", durable="crm")
    received = [await live.next_msg(), await pushed.next_msg(), *(await pulled.fetch(1))]
    for message in received:
        assert message.data == b"{}"
        assert message.subject.rpartition(".")[2] == token(b"call-1", padded=False)
        assert message.headers["ce-id"] == "turn-1"
        assert sum(len(name) + len(text) for name, text in message.headers.items()) < 500
    await client.close()


async def test_the_streams_of_the_lanes_do_not_overlap(jetstream: JetStreamBroker, running: Running) -> None:
    bus = await bus_with_topics(jetstream)
    for topic in TOPICS:
        await bus.publish(Outgoing(topic, key=b"call-1", value=topic.encode(), event_id="the same on each"))
    for topic in TOPICS:
        recorder = Recorder()
        async with running(bus, Subscription(group="g", topics=(topic,)), recorder):
            await recorder.count(1)
            await asyncio.sleep(0.02)
        assert recorder.values == [topic.encode()]


async def test_retention_and_size_follow_the_spec_and_a_repeat_changes_nothing(jetstream: JetStreamBroker) -> None:
    bus = await bus_with_topics(jetstream)
    await bus_with_topics(jetstream)
    await bus.publish(Outgoing(TRANSCRIPTS, key=b"k", value=b"x", event_id="1"))
    await bus.ensure_topics([TopicSpec(name=TRANSCRIPTS, partitions=9, retention_s=7200, max_bytes=1_000_000)])
    client = await nats.connect(jetstream.url)
    info = await client.jetstream().stream_info("calls-transcripts")
    await client.close()
    assert (info.config.max_age, info.config.max_bytes, info.state.messages) == (7200, 1_000_000, 1)
    assert info.config.discard == "new"


async def test_limits_that_the_store_cannot_hold_are_refused(jetstream: JetStreamBroker) -> None:
    bus = await jetstream.bus()
    with pytest.raises(BusError, match=r"calls\.audio"):
        await bus.ensure_topics([TopicSpec(name=AUDIO, partitions=1, retention_s=60, max_bytes=10**12)])


async def test_a_delivery_that_went_elsewhere_is_noticed_and_repeated(
    jetstream: JetStreamBroker, running: Running
) -> None:
    bus = await bus_with_topics(jetstream, partitions=1)
    recorder = Recorder()
    async with running(bus, Subscription(group="merge", topics=(TRANSCRIPTS,)), recorder):
        await recorder.until(lambda: bool(recorder.held))
        client = await nats.connect(jetstream.url)
        thief = await client.jetstream().pull_subscribe_bind("merge_0", "calls-transcripts")
        for number in range(60):
            if number == 30:
                stealing = asyncio.create_task(thief.fetch(5, timeout=2))
            await bus.publish(Outgoing(TRANSCRIPTS, key=b"call", value=str(number).encode(), event_id=str(number)))
        stolen = await stealing
        await recorder.count(60)
        await client.close()
    assert stolen
    assert [int(value) for value in recorder.values] == list(range(60))


async def test_a_deleted_consumer_is_recreated(jetstream: JetStreamBroker, running: Running) -> None:
    bus = await bus_with_topics(jetstream, partitions=1)
    recorder = Recorder()
    async with running(bus, Subscription(group="merge", topics=(TRANSCRIPTS,)), recorder):
        for number in range(20):
            if number == 10:
                await recorder.count(10)
                client = await nats.connect(jetstream.url)
                await client.jetstream().delete_consumer("calls-transcripts", "merge_0")
                await client.close()
            await bus.publish(Outgoing(TRANSCRIPTS, key=b"call", value=str(number).encode(), event_id=str(number)))
        await recorder.count(20)
    assert [int(value) for value in recorder.values] == list(range(20))


async def test_a_feed_resumes_after_the_broker_was_killed(jetstream: JetStreamBroker) -> None:
    bus = await bus_with_topics(jetstream)
    feed = await bus.follow((TRANSCRIPTS,))
    for number in range(20):
        if number == 10:
            assert jetstream.server.pid is not None
            os.kill(jetstream.server.pid, signal.SIGKILL)
        await bus.publish(Outgoing(TRANSCRIPTS, key=b"call", value=str(number).encode(), event_id=str(number)))
    seen = [int((await asyncio.wait_for(anext(feed), 10)).value) for _ in range(20)]
    assert seen == list(range(20))
    await feed.close()


async def test_reading_raises_bus_error_when_the_broker_is_gone_for_good(jetstream: JetStreamBroker) -> None:
    await bus_with_topics(jetstream)
    bus = JetStreamBus(jetstream.url, reconnect_s=0.5)
    await bus.connect()
    recorder = holding()
    run = asyncio.create_task(bus.run(Subscription(group="merge", topics=(TRANSCRIPTS,)), recorder))
    await recorder.until(lambda: len(recorder.held) == 4)
    await jetstream.server.stop()
    with pytest.raises(BusError):
        await asyncio.wait_for(run, 10)
    assert recorder.held == set()
    with pytest.raises(BusError):
        await bus.publish(Outgoing(TRANSCRIPTS, key=b"k", value=b"", event_id="1"))
    await bus.close()


async def test_connecting_where_nothing_listens_raises_an_error_with_the_url() -> None:
    bus = JetStreamBus("nats://127.0.0.1:1", reconnect_s=0.3)
    with pytest.raises(BusError, match=r"127\.0\.0\.1:1"):
        await bus.connect()


async def test_unknown_topics_and_invalid_groups_are_refused(jetstream: JetStreamBroker) -> None:
    bus = await bus_with_topics(jetstream)
    with pytest.raises(BusError, match=r"calls\.nothing"):
        await bus.publish(Outgoing("calls.nothing", key=b"k", value=b"", event_id="1"))
    with pytest.raises(ConfigurationError, match="a b"):
        await bus.run(Subscription(group="a b", topics=(TRANSCRIPTS,)), Recorder())


async def test_reading_alone_on_a_fresh_server_starts_at_once(jetstream: JetStreamBroker, running: Running) -> None:
    bus = await bus_with_topics(jetstream, partitions=8)
    await bus.publish(Outgoing(TRANSCRIPTS, key=b"k", value=b"", event_id="1"))
    recorder = Recorder()
    loop = asyncio.get_running_loop()
    started = loop.time()
    async with running(bus, Subscription(group="merge", topics=tuple(TOPICS)), recorder):
        await recorder.count(1)
        assert loop.time() - started < 0.5


async def test_acknowledgements_are_merged_and_the_floor_arrives(jetstream: JetStreamBroker, running: Running) -> None:
    bus = await bus_with_topics(jetstream, partitions=1)
    for number in range(200):
        await bus.publish(Outgoing(TRANSCRIPTS, key=b"k", value=b"", event_id=str(number)))
    subscription = Subscription(group="merge", topics=(TRANSCRIPTS,))
    recorder = holding()
    client = await nats.connect(jetstream.url)
    acks = await client.subscribe("$JS.ACK.>")
    await client.flush()
    async with running(bus, subscription, recorder):
        await recorder.count(200)
        for record in recorder.records:
            recorder.ack(record)
        await asyncio.sleep(0.2)
    assert acks.pending_msgs < 20
    info = await client.jsm().consumer_info("calls-transcripts", "merge_0")
    assert info.ack_floor.stream_seq == 200
    assert isinstance(info.config, ConsumerConfig)
    assert info.config.ack_policy == "all"
    await client.close()
