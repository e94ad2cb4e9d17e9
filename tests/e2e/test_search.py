"""Calls that come in are found by what was said in them, and questions are answered from them."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_ollama import MODEL_TIMEOUT_S, build, free_port, serving
from tests.support.processes.deployment import SAMPLE, SAMPLE_ROLES, Deployment
from tests.support.processes.workers import Workers

__all__ = ["build"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

VISIBLE_WITHIN_S = 10.0
CAUGHT_UP_WITHIN_S = 300.0
"""An index that is new begins with all that the broker has of other tests, hours of talk among it."""


def found(deployment: Deployment, *arguments: str) -> list[dict[str, Any]]:
    hits: list[dict[str, Any]] = json.loads(deployment.run("search", *arguments, "--json").stdout)
    return hits


def wait_found(deployment: Deployment, *words: str) -> list[dict[str, Any]]:
    """What is found once it is searchable; loading the embedding model for the command counts."""
    deadline = time.monotonic() + VISIBLE_WITHIN_S + 20
    while not (hits := found(deployment, *words)):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    return hits


def rows(deployment: Deployment, sql: str) -> list[dict[str, Any]]:
    given: list[dict[str, Any]] = json.loads(deployment.run("sql", sql, "--format", "json").stdout)
    return given


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An instance with the sample call, its folder, and the port on which it asks for a language model."""
    folder = tmp_path_factory.mktemp("search")
    port = free_port()
    settings = {"ollama_url": f"http://127.0.0.1:{port}", "summary_timeout_s": f"{MODEL_TIMEOUT_S:g}"}
    with Deployment(folder / "data", **settings, search="on") as deployment:
        deployment.start()
        deployment.wait_ready()
        deployment.run("transcribe", str(SAMPLE), "--roles", SAMPLE_ROLES, "--call", "bill")
        yield deployment, folder, port


def test_a_call_is_found_by_its_words_and_by_its_meaning_soon_after_it_is_stored(searched: Any) -> None:
    deployment = searched[0]
    hits = wait_found(deployment, "Northwind", "Energy")
    assert hits[0]["call_id"] == "bill"
    assert hits[0]["start_s"] == pytest.approx(0.8, abs=0.3)
    [first, *_] = found(deployment, "Which invoice was bigger than it should be?")
    assert "bill" in first["text"]
    assert first["similarity"] > 0.4
    printed = deployment.run("search", "remove the fee").stdout
    assert "bill  00:" in printed
    assert "I will remove the fee" in printed


def test_filters_leave_out_what_is_not_meant(searched: Any) -> None:
    deployment = searched[0]
    assert found(deployment, "bill", "--tenant", "default", "--call", "bill", "--from", "2020-01-01")
    for unmeant in (["--tenant", "acme"], ["--to", "2020-01-01", "--agent", "Anna"]):
        assert found(deployment, "bill", *unmeant) == []
    wrong = deployment.run("search", "bill", "--from", "yesterday", check=False)
    assert (wrong.returncode, "expected an ISO date such as 2026-11-26" in wrong.stderr) == (2, True)


@pytest.mark.ollama
def test_a_question_is_answered_with_what_it_rests_on_or_it_is_not_in_the_calls(
    searched: Any, build: dict[str, str]
) -> None:
    """The model is too small to trust: what it says is not looked at, what it may cite is."""
    deployment, folder, port = searched
    wait_found(deployment, "Northwind", "Energy")
    away = deployment.run("ask", "Why is the bill too high?", check=False)
    assert (away.returncode, "no Ollama answers" in away.stderr) == (6, True)
    with serving(build, folder / "server.log", port=port):
        asked = ("ask", "Why is the bill too high?", "--model", build["OLLAMA_MODEL"], "--json")
        done = deployment.run(*asked, timeout_s=400, check=False)
    if done.returncode == 6:
        assert "JSON" in done.stderr
        return
    answer = json.loads(done.stdout)
    assert answer["found"] == bool(answer["citations"])
    assert {hit["call_id"] for hit in answer["citations"]} <= {"bill"}
    assert answer["found"] or answer["answer"] == "not in the calls"


def test_what_was_left_on_the_bus_is_found_without_an_instance_and_the_index_is_made_anew(
    searched: Any, greeting: Path
) -> None:
    deployment = searched[0]
    deployment.terminate()
    deployment.run("transcribe", str(greeting), "--call", "greeting")
    assert {hit["call_id"] for hit in found(deployment, "Northwind Energy")} == {"bill", "greeting"}
    for file in (deployment.data / "search").glob("windows.duckdb*"):
        file.unlink()
    hits = found(deployment, "Northwind Energy", "--rebuild")
    assert {hit["call_id"] for hit in hits} == {"bill", "greeting"}


def test_before_there_is_anything_it_says_so(tmp_path: Path) -> None:
    done = Deployment(tmp_path / "empty").run("search", "bill", check=False)
    assert (done.returncode, "nothing on" in done.stderr, "is searchable yet" in done.stderr) == (2, True, True)


@pytest.mark.ollama
def test_a_call_that_goes_on_is_found_and_summarized_on_the_way(build: dict[str, str], tmp_path: Path) -> None:
    with serving(build, tmp_path / "server.log") as server:
        settings = {"ollama_url": server.url, "summary_model": server.model, "summary_rolling": "2", "search": "on"}
        with Deployment(tmp_path / "data", **settings, summary_timeout_s=f"{MODEL_TIMEOUT_S:g}") as deployment:
            deployment.start()
            deployment.wait_ready()
            publisher = deployment.publish(SAMPLE, "on-line", "--roles", SAMPLE_ROLES, "--realtime")
            turn = None
            while turn is None:
                assert publisher.poll() is None, "nothing was found before the call was over"
                turn = next(
                    (hit for hit in found(deployment, "Northwind", "Energy") if hit["call_id"] == "on-line"), None
                )
            kinds: list[str] = []
            while not kinds:
                assert publisher.poll() is None, "no rolling summary before the call was over"
                kinds = [row["kind"] for row in rows(deployment, "SELECT kind FROM summaries")]
            publisher.communicate(timeout=120)
            document = deployment.wait_completed("on-line", timeout_s=MODEL_TIMEOUT_S)
            assert (kinds, document["summary"]["kind"], publisher.returncode) == (["rolling"], "final", 0)
            assert turn["turn_ids"][0] in {spoken["turn_id"] for spoken in document["turns"]}


@pytest.mark.kafka
def test_a_worker_of_its_own_makes_calls_on_kafka_searchable(on_kafka: Workers, greeting: Path, tmp_path: Path) -> None:
    """In a data directory of its own, as on a machine of its own."""
    deployment = Deployment(tmp_path / "index", bus=on_kafka.deployment.environment["CALLSTREAM_BUS"])
    with Workers(deployment, stages=("index",)) as index:
        index.wait_ready()
        for call, within_s in (("first", CAUGHT_UP_WITHIN_S), ("sought", VISIBLE_WITHIN_S + 20)):
            deployment.publish(greeting, call, "--roles", SAMPLE_ROLES).communicate(timeout=60)
            on_kafka.deployment.wait_completed(call)
            deadline = time.monotonic() + within_s
            while call not in {hit["call_id"] for hit in found(deployment, "Northwind Energy")}:
                assert time.monotonic() < deadline
                time.sleep(0.5)
        assert index.terminate() == {"index": 0}
    assert "sought" in {hit["call_id"] for hit in found(deployment, "Northwind Energy")}
