"""Calls that come in are found by what was said in them, and questions are answered from them."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.deployment import SAMPLE, SAMPLE_ROLES, Deployment
from tests.e2e.test_ollama import MODEL_TIMEOUT_S, build, free_port, serving

__all__ = ["build"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

VISIBLE_WITHIN_S = 10.0


def found(deployment: Deployment, *arguments: str) -> list[dict[str, Any]]:
    hits: list[dict[str, Any]] = json.loads(deployment.run("search", *arguments, "--json").stdout)
    return hits


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, build: dict[str, str]) -> Any:
    """An instance with the sample call, its folder, and the port on which it asks for a language model."""
    folder = tmp_path_factory.mktemp("search")
    port = free_port()
    settings = {"ollama_url": f"http://127.0.0.1:{port}", "summary_model": build["OLLAMA_MODEL"]}
    with Deployment(folder / "data", **settings, summary_timeout_s=f"{MODEL_TIMEOUT_S:g}") as deployment:
        deployment.start()
        deployment.wait_ready()
        deployment.run("transcribe", str(SAMPLE), "--roles", SAMPLE_ROLES, "--call", "bill")
        yield deployment, folder, port


def test_a_call_is_found_by_its_words_and_by_its_meaning_soon_after_it_is_stored(searched: Any) -> None:
    deployment = searched[0]
    stored_at = time.monotonic()
    while not (hits := found(deployment, "Northwind", "Energy")):
        assert (
            time.monotonic() - stored_at < VISIBLE_WITHIN_S + 20
        )  # loading the embedding model for the command counts
        time.sleep(0.5)
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
    assert (wrong.returncode, "expected a date such as 2026-11-26" in wrong.stderr) == (2, True)


def test_a_question_is_answered_with_what_it_rests_on_or_it_is_not_in_the_calls(
    searched: Any, build: dict[str, str]
) -> None:
    """The model is too small to trust: what it says is not looked at, what it may cite is."""
    deployment, folder, port = searched
    away = deployment.run("ask", "Why is the bill too high?", check=False)
    assert (away.returncode, "no Ollama answers" in away.stderr) == (6, True)
    with serving(build, folder / "server.log", port=port):
        done = deployment.run("ask", "Why is the bill too high?", "--json", timeout_s=400, check=False)
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
