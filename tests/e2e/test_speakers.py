"""The sample call mixed to one channel: who said what, against its script."""

import json
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.calls import bad
from tests.support.models.diarization import write_pipeline
from tests.support.processes.deployment import SAMPLE, Deployment

SCRIPT: dict[str, Any] = json.loads((SAMPLE.parent / "script.json").read_text())

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def mono(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mixed(SAMPLE, tmp_path_factory.mktemp("calls") / "mono.wav")


def mixed(path: Path, to: Path) -> Path:
    """Both channels of the call in `path` on one."""
    pcm, rate_hz = bad.read_wav(path)
    mono = np.clip(pcm.astype(np.int32).sum(axis=1), -32768, 32767).astype(np.int16)
    return bad.write_wav(to, [mono], rate_hz=rate_hz, channels=1)


def transcribed(deployment: Deployment, path: Path, out: Path) -> dict[str, Any]:
    deployment.run("transcribe", str(path), "--out", str(out), timeout_s=300)
    document: dict[str, Any] = json.loads(out.read_text())
    return document


def truth(word: dict[str, Any]) -> str | None:
    """Who says the word by the script; None where nobody or both speak."""
    middle_s = (word["start_s"] + word["end_s"]) / 2
    speaking = {line["role"] for line in SCRIPT["lines"] for start, end in line["speech"] if start <= middle_s <= end}
    return next(iter(speaking)) if len(speaking) == 1 else None


def detail_of(document: dict[str, Any], name: str) -> dict[str, Any]:
    [detail] = [job["detail"] for job in document["jobs"] if job["job"] == name]
    found: dict[str, Any] = detail
    return found


def test_speakers_of_the_mixed_sample_are_right_for_more_than_nine_words_in_ten(
    running: Deployment, mono: Path, tmp_path: Path
) -> None:
    document = transcribed(running, mono, tmp_path / "call.json")
    said = [
        (turn["speaker"], truth(word))
        for turn in document["turns"]
        for word in turn["words"]
        if truth(word) is not None
    ]
    assert len(said) > 140
    names = sorted({speaker for speaker, _ in said} - {"unknown"})
    assert names == ["speaker_1", "speaker_2"]
    right = max(sum(role == who.get(name) for name, role in said) for who in _matches(names))
    assert right >= 0.9 * len(said), (right, len(said))
    assert detail_of(document, "transcribe")["speakers"]["source"] == "estimated"
    assert detail_of(document, "merge")["speaker_source"] == "estimated"


def _matches(names: list[str]) -> list[dict[str, str]]:
    return [dict(zip(names, roles, strict=True)) for roles in permutations(SCRIPT["roles"])]


def test_a_channel_with_a_role_keeps_it(running: Deployment, greeting: Path, tmp_path: Path) -> None:
    pcm, rate_hz = bad.read_wav(greeting)
    agent = bad.write_wav(tmp_path / "agent.wav", [pcm[:, 0].copy()], rate_hz=rate_hz, channels=1)
    out = tmp_path / "call.json"
    running.run("transcribe", str(agent), "--roles", "mono=agent", "--out", str(out))
    document = json.loads(out.read_text())
    assert {turn["speaker"] for turn in document["turns"]} == {"agent"}
    assert "speakers" not in detail_of(document, "transcribe")


@pytest.mark.filterwarnings("ignore")
def test_a_pipeline_that_the_settings_name_tells_the_speakers(tmp_path: Path, short_call: Path) -> None:
    """Its weights are random, so whom it names means nothing; that it heard the whole call does."""
    pipeline = write_pipeline(tmp_path / "pipeline")
    deployment = Deployment(tmp_path / "data", diarization=str(pipeline), language="en")
    document = transcribed(deployment, mixed(short_call, tmp_path / "mono.wav"), tmp_path / "call.json")
    found = detail_of(document, "transcribe")["speakers"]
    assert found["source"] == "pyannote"
    assert found["utterances"] == detail_of(document, "transcribe")["utterances"]
    assert {turn["speaker"] for turn in document["turns"]} <= {*found["found"], "unknown"}
    assert detail_of(document, "merge")["speaker_source"] == "pyannote"
