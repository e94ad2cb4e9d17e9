"""`callstream topics` on a bus of its own and on a running instance."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.bus.nats.server import NatsServer
from tests.support.brokers.kafka import KafkaServer
from tests.support.processes.deployment import Deployment

pytestmark = pytest.mark.slow


def rows(deployment: Deployment, *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(deployment.run("topics", *arguments, "--json").stdout)
    return found


@pytest.fixture(params=["nats", pytest.param("kafka", marks=pytest.mark.kafka)])
async def empty_bus(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """The address of a broker that has no topics."""
    if request.param == "kafka":
        with KafkaServer(tmp_path / "kafka") as kafka:
            kafka.start()
            yield f"kafka://{kafka.bootstrap}"
        return
    server = NatsServer(tmp_path / "nats", max_store_bytes=1_000_000_000)
    yield await server.start()
    await server.stop()


def test_topics_are_created_once_and_described(empty_bus: str, short_call: Path, tmp_path: Path) -> None:
    deployment = Deployment(tmp_path / "data", partitions="3", retention_days="2", store_gb="1", bus=empty_bus)
    before = rows(deployment, "describe")
    first, again = rows(deployment, "create"), rows(deployment, "create")
    described = {row["topic"]: row for row in rows(deployment, "describe")}
    lag = rows(deployment, "lag")
    assert {row["partitions"] for row in before} == {None}
    assert {(row["partitions"], row["created"]) for row in first} == {(3, True)}
    assert {(row["partitions"], row["created"]) for row in again} == {(3, False)}
    assert [row["topic"] for row in before] == [row["topic"] for row in first] == list(described)
    audio, letters = described["calls.audio"], described["calls.dead-letters"]
    assert (audio["kept_days"], audio["replicas"], audio["compacted"]) == (2, 1, False)
    assert audio["max_bytes"] == (280_000_000 if empty_bus.startswith("nats") else None)
    assert (audio["records"], audio["written_by"], audio["read_by"]) == (0, "producers", "separate")
    assert letters["kept_days"] == 8
    assert letters["max_bytes"] == (40_000_000 if empty_bus.startswith("nats") else None)
    assert {row["waiting"] for row in lag} == {0}
    assert {(row["group"], row["lane"], row["topic"]) for row in lag} >= {
        ("separate", "live", "calls.audio"),
        ("separate-batch", "batch", "calls.audio.batch"),
        ("sink", "both", "calls.status"),
    }
    assert "calls.utterances.batch" in deployment.run("topics", "describe").stdout

    deployment.run("publish", str(short_call), "--call", "waiting")
    waiting = {row["topic"]: row["waiting"] for row in rows(deployment, "lag") if row["waiting"]}
    held = {row["topic"]: row["records"] for row in rows(deployment, "describe") if row["records"]}
    assert waiting == held
    assert list(waiting) == ["calls.audio.batch"]
    assert waiting["calls.audio.batch"] > 18


def test_topics_of_the_running_instance_are_looked_at_without_naming_its_bus(running: Deployment) -> None:
    url = json.loads(running.run("status", "--json").stdout)["nats_url"]
    assert {row["topic"] for row in rows(running, "lag")} == {
        row["topic"] for row in rows(running, "lag", "--bus", url)
    }
    assert {row["created"] for row in rows(running, "create")} == {False}
    assert all(row["records"] >= 0 and row["bytes"] >= 0 for row in rows(running, "describe"))
