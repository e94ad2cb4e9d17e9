"""`callstream topics` on a bus of its own and on a running instance."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.bus.nats_server import NatsServer
from tests.deployment import Deployment

pytestmark = pytest.mark.slow


def rows(deployment: Deployment, *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(deployment.run("topics", *arguments, "--json").stdout)
    return found


async def test_topics_are_created_once_and_described(tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "nats", max_store_bytes=1_000_000_000)
    deployment = Deployment(tmp_path / "data", partitions="3", retention_days="2", store_gb="1")
    url = await server.start()
    try:
        before = rows(deployment, "describe", "--bus", url)
        first = rows(deployment, "create", "--bus", url)
        again = rows(deployment, "create", "--bus", url)
        described = {row["topic"]: row for row in rows(deployment, "describe", "--bus", url)}
        lag = rows(deployment, "lag", "--bus", url)
        table = deployment.run("topics", "describe", "--bus", url).stdout
    finally:
        await server.stop()
    assert {row["partitions"] for row in before} == {None}
    assert {(row["partitions"], row["created"]) for row in first} == {(3, True)}
    assert {(row["partitions"], row["created"]) for row in again} == {(3, False)}
    assert [row["topic"] for row in before] == [row["topic"] for row in first] == list(described)
    audio, letters = described["calls.audio"], described["calls.dead-letters"]
    assert (audio["kept_days"], audio["max_bytes"], audio["replicas"], audio["compacted"]) == (2, 350_000_000, 1, False)
    assert (audio["records"], audio["written_by"], audio["read_by"]) == (0, "producers", "separate")
    assert (letters["kept_days"], letters["max_bytes"], letters["read_by"]) == (8, None, "operator")
    assert {row["waiting"] for row in lag} == {0}
    assert {(row["group"], row["lane"], row["topic"]) for row in lag} >= {
        ("separate", "live", "calls.audio"),
        ("separate-batch", "batch", "calls.audio.batch"),
        ("sink", "both", "calls.status"),
    }
    assert "calls.utterances.batch" in table


def test_lag_is_what_a_stage_has_not_read(running: Deployment) -> None:
    url = json.loads(running.run("status", "--json").stdout)["nats_url"]
    assert {row["topic"] for row in rows(running, "lag")} == {
        row["topic"] for row in rows(running, "lag", "--bus", url)
    }
    assert {row["created"] for row in rows(running, "create")} == {False}
    assert all(row["records"] >= 0 and row["bytes"] >= 0 for row in rows(running, "describe"))
