"""Watching calls in progress with a plain NATS client: what schemas/README.md promises of the live subjects."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import nats
import pytest

from pipeline.bus.opening import open_bus
from pipeline.bus.protocol import Outgoing
from pipeline.bus.security import BusSecurity
from pipeline.wiring import topology
from schemas import cloudevents, topics
from schemas.calls import CallRef
from schemas.generate import published_schema
from schemas.transcripts import TURN_TYPE
from tests.support.brokers.kafka import KafkaServer
from tests.support.brokers.nats import NatsProcess
from tests.support.processes.deployment import COMMAND, SAMPLE_ROLES, Deployment
from tests.wire.records import PUBLISHED

SEGMENT, COMPLETED, SUMMARY = "callstream.segment", "callstream.transcript.completed", "callstream.summary"


@contextlib.asynccontextmanager
async def watching(subject: str, **login: str) -> AsyncIterator[Any]:
    client = await nats.connect(**login)
    try:
        subscription = await client.subscribe(subject)
        for _ in range(2):  # the first flush may overtake the subscription, the second is behind it
            await client.flush()
        yield subscription
    finally:
        await client.close()


@pytest.mark.slow
async def test_a_call_is_seen_as_it_goes_on_in_json_of_the_published_schemas(
    running: Deployment, short_call: Path
) -> None:
    login = running.login
    seen: dict[str, list[dict[str, Any]]] = defaultdict(list)
    async with watching("live.default.seen-live", **login) as events, watching("live.*.>", **login) as all_events:
        publisher = running.publish(short_call, "seen-live", "--roles", SAMPLE_ROLES)
        while not (seen[COMPLETED] and seen[SUMMARY]):
            message = await events.next_msg(timeout=120)
            event_type = message.headers["ce-type"]
            value = json.loads(message.data)
            jsonschema.Draft202012Validator(published_schema(event_type)).validate(value)
            assert message.headers["ce-subject"] == value["call_id"] == "seen-live"
            assert message.headers["content-type"] == "application/json"
            seen[event_type].append(value)
        publisher.communicate(timeout=60)
        assert publisher.returncode == 0
        subject = (await all_events.next_msg(timeout=5)).subject
        assert subject == "live.default.seen-live"
    document = await asyncio.to_thread(running.wait_completed, "seen-live")
    turns = seen[TURN_TYPE]
    assert [turn["text"] for turn in sorted(turns, key=lambda turn: turn["start_s"])] == [
        turn["text"] for turn in document["turns"]
    ]
    said = {segment["segment_id"] for segment in seen[SEGMENT]}
    assert {segment_id for turn in turns for segment_id in turn["segment_ids"]} == said
    assert seen[SUMMARY][-1]["text"] == document["summary"]["text"]


@pytest.mark.kafka
async def test_beside_kafka_a_nats_server_of_its_own_shows_calls(tmp_path: Path, kafka_broker: KafkaServer) -> None:
    bus_url = f"kafka://{kafka_broker.bootstrap}"
    turn = PUBLISHED[TURN_TYPE]
    call = CallRef("acme", "call-1")
    with NatsProcess(tmp_path / "live", {"authorization": {"user": "fanout", "password": "hunter2"}}) as live:
        environment = {
            **{name: text for name, text in os.environ.items() if not name.startswith("CALLSTREAM_")},
            "CALLSTREAM_DATA": str(tmp_path / "data"),
            "CALLSTREAM_LIVE_URL": live.url,
            "CALLSTREAM_LIVE_USER": "fanout",
            "CALLSTREAM_LIVE_PASSWORD": "hunter2",
        }
        bus = await open_bus(bus_url, BusSecurity())
        await bus.ensure_topics(topology.topic_specs(partitions=8, retention_days=7, store_bytes=10**9))
        log = tmp_path / "fanout.log"
        with log.open("wb") as said:
            process = subprocess.Popen(  # noqa: ASYNC220  # it returns at once
                [COMMAND, "fanout", "--bus", bus_url], env=environment, stdout=said, stderr=subprocess.STDOUT
            )
        try:
            async with watching("live.acme.call-1", servers=live.url, user="fanout", password="hunter2") as events:
                shown = None
                for attempt in range(60):
                    headers = cloudevents.headers(
                        event_id=f"turn-{attempt}",
                        event_type=TURN_TYPE,
                        call=call,
                        seq=attempt,
                        source="callstream/merge",
                        content_type=cloudevents.JSON_TYPE,
                    )
                    await bus.publish(
                        Outgoing(
                            topics.TRANSCRIPTS,
                            key=call.key,
                            value=msgspec.json.encode(turn),
                            event_id=f"turn-{attempt}",
                            headers=headers,
                        )
                    )
                    with contextlib.suppress(nats.errors.TimeoutError):
                        shown = await events.next_msg(timeout=1)
                        break
                assert shown is not None, log.read_text()
                assert json.loads(shown.data) == json.loads(msgspec.json.encode(turn))
                assert shown.headers["ce-type"] == TURN_TYPE
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait, 30) == 0, log.read_text()
        finally:
            process.kill()
            process.wait()
            await bus.close()
        assert "hunter2" not in log.read_text()


def test_a_fan_out_beside_kafka_says_that_it_needs_a_nats_server(tmp_path: Path) -> None:
    environment = {name: text for name, text in os.environ.items() if not name.startswith("CALLSTREAM_")}
    done = subprocess.run(
        [COMMAND, "fanout", "--bus", "kafka://127.0.0.1:1", "--data", str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "CALLSTREAM_LIVE_URL" in done.stderr
