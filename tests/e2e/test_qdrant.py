"""A whole instance whose search index is in Qdrant, which is killed while calls come in."""

import time
from pathlib import Path

import pytest

from tests.e2e.test_search import VISIBLE_WITHIN_S, found
from tests.support.processes.deployment import SAMPLE, SAMPLE_ROLES, Deployment
from tests.support.processes.qdrant import QdrantServer

pytestmark = [pytest.mark.qdrant, pytest.mark.slow, pytest.mark.timeout(600)]


def calls_found(deployment: Deployment, within_s: float, *wanted: str) -> set[str]:
    """Those found within so long, until all that are wanted are."""
    deadline = time.monotonic() + within_s
    calls: set[str] = set()
    while not calls >= {*wanted} and time.monotonic() < deadline:
        calls = {hit["call_id"] for hit in found(deployment, "Northwind", "Energy", "--limit", "50")}
    return calls


def test_what_was_said_while_qdrant_was_away_is_found_when_it_is_back(tmp_path: Path, greeting: Path) -> None:
    with (
        QdrantServer(tmp_path / "qdrant") as server,
        Deployment(tmp_path / "data", qdrant_url=server.url) as deployment,
    ):
        deployment.start()
        deployment.wait_ready()
        nothing = deployment.run("search", "Northwind", check=False)
        assert (nothing.returncode, "is searchable yet" in nothing.stderr) == (2, True)
        deployment.run("transcribe", str(SAMPLE), "--roles", SAMPLE_ROLES, "--call", "bill")
        while "is searchable yet" in deployment.run("search", "Northwind", check=False).stderr:
            time.sleep(0.5)
        assert calls_found(deployment, VISIBLE_WITHIN_S + 20, "bill") == {"bill"}
        server.stop()
        deployment.run("transcribe", str(greeting), "--call", "greeting")
        away = deployment.run("search", "Northwind", check=False)
        assert (away.returncode, f"Qdrant at {server.url}" in away.stderr) == (1, True)
        server.start()
        assert calls_found(deployment, VISIBLE_WITHIN_S + 30, "bill", "greeting") == {"bill", "greeting"}
        deployment.terminate()
        assert calls_found(deployment, 60, "bill", "greeting") == {"bill", "greeting"}
        anew = found(deployment, "Northwind", "--rebuild")
        assert {hit["call_id"] for hit in anew} == {"bill", "greeting"}
