"""The live fan-out from the memory bus to a real NATS server, read by a plain client."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import nats
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.aio.subscription import Subscription
from prometheus_client import CollectorRegistry

from pipeline.bus.memory import MemoryBus
from pipeline.bus.nats.live_subjects import live_subject
from pipeline.bus.protocol import Outgoing
from pipeline.bus.security import BusSecurity
from pipeline.errors import ConfigurationError
from pipeline.relays.fanout import Fanout, LiveServer
from pipeline.secret import Secret
from pipeline.telemetry.metrics import Metrics
from schemas import cloudevents, envelope, topics
from schemas.calls import CallRef
from schemas.segments import SEGMENT_TYPE
from schemas.summaries import SUMMARY_TYPE
from schemas.transcripts import TURN_TYPE
from tests.support.brokers.nats import NatsProcess
from tests.wire.records import PUBLISHED, STAGE_RECORDS

CALL = CallRef("acme", "call-1")


async def publish(bus: MemoryBus, topic: str, value: bytes, event_type: str, event_id: str) -> None:
    content_type = envelope.CONTENT_TYPE if topic == topics.SEGMENTS else cloudevents.JSON_TYPE
    headers = cloudevents.headers(
        event_id=event_id, event_type=event_type, call=CALL, seq=0, source="callstream/test", content_type=content_type
    )
    await bus.publish(Outgoing(topic, key=CALL.key, value=value, event_id=event_id, headers=headers))


async def publish_turn(bus: MemoryBus, event_id: str) -> None:
    await publish(bus, topics.TRANSCRIPTS, json_of(TURN_TYPE), TURN_TYPE, event_id)


def json_of(event_type: str) -> bytes:
    return msgspec.json.encode(PUBLISHED[event_type])


@contextlib.asynccontextmanager
async def showing(bus: MemoryBus, server: LiveServer, metrics: Metrics | None = None) -> AsyncIterator[None]:
    async with Fanout(bus, server, metrics=metrics or Metrics()) as fanout:
        task = asyncio.create_task(fanout.run())
        await asyncio.sleep(0.1)
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


@contextlib.asynccontextmanager
async def watching(url: str, subject: str) -> AsyncIterator[tuple[Client, Subscription]]:
    client = await nats.connect(url, allow_reconnect=True, reconnect_time_wait=0.1)
    try:
        subscription = await client.subscribe(subject)
        for _ in range(2):  # the first flush may overtake the subscription, the second comes after it
            await client.flush()
        yield client, subscription
    finally:
        await client.close()


def count(registry: CollectorRegistry, name: str) -> float:
    samples = [sample for family in registry.collect() for sample in family.samples]
    return sum(sample.value for sample in samples if sample.name == f"callstream_{name}_total")


async def test_segments_turns_and_summaries_are_published_as_json_by_call(tmp_path: Path) -> None:
    bus = MemoryBus()
    with NatsProcess(tmp_path) as server:
        async with (
            showing(bus, LiveServer(server.url, BusSecurity())),
            watching(server.url, "live.acme.*") as (_, seen),
        ):
            segment = envelope.encode(STAGE_RECORDS["segment.1"])
            await publish(bus, topics.SEGMENTS, segment, "callstream.stage", "segment")
            await publish_turn(bus, "turn")
            await publish(bus, topics.SUMMARIES, json_of(SUMMARY_TYPE), SUMMARY_TYPE, "summary")
            shown = [await seen.next_msg(timeout=5) for _ in range(3)]
    types = {message.headers["ce-type"]: message for message in shown}
    assert set(types) == {SEGMENT_TYPE, TURN_TYPE, SUMMARY_TYPE}
    assert {message.subject for message in shown} == {"live.acme.call-1"}
    for event_type, message in types.items():
        assert json.loads(message.data) == json.loads(json_of(event_type))
        assert message.headers["content-type"] == "application/json"
        assert message.headers["ce-subject"] == "call-1"
    assert {message.headers["ce-id"] for message in shown} == {"segment", "turn", "summary"}


async def test_records_that_are_not_for_viewers_are_not_published(tmp_path: Path) -> None:
    bus, metrics = MemoryBus(), Metrics()
    with NatsProcess(tmp_path) as server:
        async with (
            showing(bus, LiveServer(server.url, BusSecurity()), metrics),
            watching(server.url, "live.>") as (_, seen),
        ):
            for number, name in enumerate(["call_opened.1", "call_progress.1", "call_closed.1"]):
                value = envelope.encode(STAGE_RECORDS[name])
                await publish(bus, topics.SEGMENTS, value, "callstream.stage", str(number))
            await publish(bus, topics.SEGMENTS, b"damaged", "callstream.stage", "damaged")
            await publish_turn(bus, "turn")
            assert (await seen.next_msg(timeout=5)).headers["ce-id"] == "turn"
    assert count(metrics.registry, "live_events") == 1


async def test_an_unreachable_live_server_delays_nothing_and_is_used_once_back(tmp_path: Path) -> None:
    bus, metrics = MemoryBus(), Metrics()
    server = NatsProcess(tmp_path)
    async with showing(bus, LiveServer(server.url, BusSecurity()), metrics):
        await publish_turn(bus, "before")
        async with asyncio.timeout(5):
            while count(metrics.registry, "live_dropped") < 1:  # noqa: ASYNC110  # nothing tells
                await asyncio.sleep(0.01)
        with server:
            async with watching(server.url, "live.>") as (_, seen):
                await until_shown(bus, seen, "first")
                server.kill()
                await asyncio.sleep(0.2)
                await publish_turn(bus, "lost")
                server.start()
                shown = await until_shown(bus, seen, "again")
                assert shown.startswith("again"), "what was published while the server was away must not come later"


async def until_shown(bus: MemoryBus, seen: Subscription, name: str) -> str:
    """Publish turns until one of them arrives, and return its id."""
    async with asyncio.timeout(20):
        for attempt in range(1000):
            await publish_turn(bus, f"{name}-{attempt}")
            with contextlib.suppress(nats.errors.TimeoutError):
                return str((await seen.next_msg(timeout=0.1)).headers["ce-id"])
    raise AssertionError("nothing was shown")


async def test_a_live_server_that_refuses_is_an_error_at_start(tmp_path: Path) -> None:
    with NatsProcess(tmp_path, {"authorization": {"user": "fanout", "password": "right"}}) as server:
        wrong = BusSecurity(user="fanout", password=Secret("wrong"))
        with pytest.raises(ConfigurationError, match="rejects these credentials"):
            async with Fanout(MemoryBus(), LiveServer(server.url, wrong), metrics=Metrics()):
                pass


@pytest.mark.parametrize(
    ("call", "subject"),
    [
        (CallRef("default", "call-1"), "live.default.call-1"),
        (CallRef("acme", "+49 30 1234"), "live.acme.=KzQ5IDMwIDEyMzQ"),
        (CallRef("acme.eu", "a.b"), "live.=YWNtZS5ldQ.=YS5i"),
        (CallRef("default", ">"), "live.default.=Pg"),
        (CallRef("default", "=Pg"), "live.default.=PVBn"),
        (CallRef("default", "Müller"), "live.default.=TcO8bGxlcg"),
    ],
)
def test_a_call_s_subject_is_its_name_if_a_subject_may_hold_that(call: CallRef, subject: str) -> None:
    assert live_subject(call.tenant, call.call_id) == subject


@given(st.text(min_size=1), st.text(min_size=1))
def test_no_two_calls_share_a_subject_and_nats_accepts_each(one: str, other: str) -> None:
    subject = live_subject("default", one)
    assert subject.isascii()
    assert subject.isprintable()
    assert len(subject.split(".")) == 3
    assert all(subject.split("."))
    assert not set(subject) & set(" *>")
    assert (subject == live_subject("default", other)) == (one == other)
