"""The main job on the sample call, whose script is known: words, speakers, times, metrics, files, SQL."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from tests.calls.wording import word_errors
from tests.support.processes.deployment import SAMPLE, SAMPLE_ROLES, Deployment

SCRIPT: dict[str, Any] = json.loads((SAMPLE.parent / "script.json").read_text())

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(running: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample call transcribed by command, in every format."""
    folder = tmp_path_factory.mktemp("out")
    outs = [
        argument for ending in ("json", "vtt", "srt", "txt") for argument in ("--out", str(folder / f"call.{ending}"))
    ]
    done = running.run("transcribe", str(SAMPLE), "--roles", SAMPLE_ROLES, "--call", "sample", *outs)
    (folder / "stdout").write_text(done.stdout)
    (folder / "stderr").write_text(done.stderr)
    return folder


@pytest.fixture(scope="module")
def document(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "call.json").read_text())
    return found


def text_of(document: dict[str, Any], channel: int) -> str:
    return " ".join(turn["text"] for turn in document["turns"] if turn["channel"] == channel)


@pytest.mark.parametrize("channel", [0, 1])
def test_hardly_a_word_differs_from_the_script(document: dict[str, Any], channel: int) -> None:
    said = " ".join(line["text"] for line in SCRIPT["lines"] if line["channel"] == channel)
    errors, words = word_errors(said, text_of(document, channel))
    assert errors <= 0.02 * words, text_of(document, channel)


def test_every_line_is_said_by_its_speaker_at_its_time(document: dict[str, Any]) -> None:
    for line in SCRIPT["lines"]:
        words = [
            word
            for turn in document["turns"]
            if turn["speaker"] == line["role"]
            for word in turn["words"]
            if line["start_s"] - 0.4 <= word["start_s"] and word["end_s"] <= line["end_s"] + 0.4
        ]
        errors, n_words = word_errors(line["text"], " ".join(word["text"] for word in words))
        assert errors <= max(1, 0.1 * n_words), (line["text"], words)


def test_every_word_has_a_time_inside_its_turn_and_a_probability(document: dict[str, Any]) -> None:
    assert document["status"] == "completed"
    assert document["channels"] == [{"index": 0, "role": "agent"}, {"index": 1, "role": "customer"}]
    for turn in document["turns"]:
        assert turn["words"], turn["text"]
        for word in turn["words"]:
            assert turn["start_s"] <= word["start_s"] <= word["end_s"] <= turn["end_s"]
            assert 0.0 <= word["probability"] <= 1.0
    starts = [turn["start_s"] for turn in document["turns"]]
    assert starts == sorted(starts)


def test_the_metrics_are_near_those_of_the_script(document: dict[str, Any]) -> None:
    """Detected speech is a few hundredths of a second longer than each of the script's 33 stretches of sound."""
    truth, measured = SCRIPT["metrics"], document["metrics"]
    for name, within_s in {"duration_s": 0.3, "speech_s": 1.6, "silence_s": 1.6, "longest_silence_s": 0.3}.items():
        assert measured[name] == pytest.approx(truth[name], abs=within_s), name
    assert measured["overlap_s"] == pytest.approx(truth["overlap_s"], abs=0.4)
    for expected, channel in zip(truth["channels"], measured["channels"], strict=True):
        assert channel["talk_s"] == pytest.approx(expected["talk_s"], abs=1.2)
        latencies = sorted(answer["latency_s"] for answer in truth["responses"] if answer["by"] == expected["role"])
        middle = latencies[len(latencies) // 2]
        assert channel["response_latency_s"] == pytest.approx(middle, abs=0.3)
    assert measured["interruptions"] == len(truth["interruptions"])


def test_the_summary_says_that_it_is_extractive(folder: Path, document: dict[str, Any]) -> None:
    summary = document["summary"]
    assert summary["method"] == "extractive"
    assert summary["text"]
    known = {segment for turn in document["turns"] for segment in turn["segment_ids"]}
    assert summary["key_points"]
    assert all(set(point["segment_ids"]) <= known for point in summary["key_points"])


def test_the_turns_are_printed_as_they_settle(folder: Path, document: dict[str, Any]) -> None:
    printed = (folder / "stdout").read_text()
    assert all(turn["text"] in printed for turn in document["turns"])
    assert "audio in" in (folder / "stderr").read_text()


def test_every_format_holds_the_words(folder: Path) -> None:
    assert (folder / "call.vtt").read_text().startswith("WEBVTT\n")
    assert "<v customer>" in (folder / "call.vtt").read_text()
    assert "00:00:" in (folder / "call.srt").read_text()
    for ending in ("vtt", "srt", "txt"):
        assert "Carter" in (folder / f"call.{ending}").read_text()


def test_show_calls_and_sql_agree(running: Deployment, document: dict[str, Any]) -> None:
    shown = running.show("sample")
    assert shown is not None
    assert shown["turns"] == document["turns"]
    assert "sample" in {call["call_id"] for call in json.loads(running.run("calls", "--json").stdout)}
    query = (
        "SELECT s.speaker, count(*) AS turns FROM transcript_segments s JOIN audio_sessions a ON a.id = s.session_id"
    )
    done = running.run("sql", f"{query} WHERE a.call_id = 'sample' GROUP BY 1 ORDER BY 1", "--format", "csv")
    counted = {row["speaker"]: int(row["turns"]) for row in csv.DictReader(io.StringIO(done.stdout))}
    assert sum(counted.values()) == len(document["turns"])


def test_no_row_is_an_orphan(running: Deployment, document: dict[str, Any]) -> None:
    for table in ("transcript_segments", "summaries", "processing_jobs"):
        query = f"SELECT count(*) AS n FROM {table} WHERE session_id NOT IN (SELECT id FROM audio_sessions)"
        assert json.loads(running.run("sql", query, "--format", "json").stdout) == [{"n": 0}]


def test_the_ledger_accounts_for_the_call(document: dict[str, Any]) -> None:
    jobs = {job["job"]: job["status"] for job in document["jobs"]}
    assert jobs == dict.fromkeys(("separate", "transcribe", "merge", "summarize", "sink"), "completed")


def test_a_write_is_refused(running: Deployment, document: dict[str, Any]) -> None:
    done = running.run("sql", "DELETE FROM audio_sessions", check=False)
    assert done.returncode == 2
    assert "only one statement that reads" in done.stderr


def test_a_completed_call_is_not_published_again(running: Deployment, document: dict[str, Any]) -> None:
    done = running.run("publish", str(SAMPLE), "--call", "sample", check=False)
    assert done.returncode == 2
    assert "completed already" in done.stderr


def test_the_ledger_accounts_for_every_second_of_the_call(document: dict[str, Any]) -> None:
    jobs = {job["job"]: job["detail"] for job in document["jobs"] if job["status"] == "completed"}
    seconds, separated = jobs["transcribe"]["seconds"], jobs["separate"]
    assert seconds["received_s"] == round(separated["received_s"] * 2, 3)
    spoken = [seconds["worded_s"], *seconds["dropped_s"].values(), *seconds["unheard_s"].values()]
    assert sum(round(one * 1000) for one in spoken) == round(separated["speech_s"] * 1000)
    whole = [seconds["silence_s"], *spoken]
    assert sum(round(one * 1000) for one in whole) == round(seconds["received_s"] * 1000)
