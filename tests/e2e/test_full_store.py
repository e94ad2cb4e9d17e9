"""A store that is full: the producer is refused, nothing that was accepted is lost, and the call can be continued."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.calls import bad
from tests.calls.wording import word_errors
from tests.support.processes.deployment import SAMPLE, Deployment

SCRIPT: dict[str, Any] = json.loads((SAMPLE.parent / "script.json").read_text())
SPEECH_S = (0.0, 9.5, 17.6)
"""The first two turns of the sample call, and the next two."""
SILENCE_S = 200
"""Between them: 6.4 MB, more than the 5 MB that a store of 20 MB gives to recorded calls."""

pytestmark = pytest.mark.slow


@pytest.fixture
def parts(tmp_path: Path) -> tuple[Path, Path]:
    """A short call, and one that does not fit."""
    pcm, rate_hz = bad.read_wav(SAMPLE)
    first, second = (pcm[round(a * rate_hz) : round(b * rate_hz)] for a, b in itertools.pairwise(SPEECH_S))
    silence = np.zeros((SILENCE_S * rate_hz, 2), np.int16)
    short = bad.write_wav(tmp_path / "short.wav", [first], rate_hz=rate_hz, channels=2)
    long = bad.write_wav(tmp_path / "long.wav", [first, silence, second], rate_hz=rate_hz, channels=2)
    return short, long


def test_a_full_store_refuses_the_producer_loses_nothing_and_is_continued(
    tmp_path: Path, parts: tuple[Path, Path]
) -> None:
    short, long = parts
    with Deployment(tmp_path / "data", store_gb="0.02", idle_s="3", search="off") as deployment:
        deployment.start()
        deployment.wait_ready()
        deployment.run("publish", str(short), "--call", "accepted")
        refused = deployment.run("publish", str(long), "--call", "refused", check=False)
        assert refused.returncode == 5
        [line] = refused.stderr.splitlines()
        assert line.startswith("callstream: the store is full")
        assert "CALLSTREAM_STORE_GB" in line
        assert "--call refused" in line
        accepted = deployment.wait_completed("accepted")
        heard = deployment.wait_completed("refused")
        assert deployment.alive
        assert heard["provisional"] is True
        assert heard["reason"] == "idle"
        assert 100.0 < heard["duration_s"] < SILENCE_S
        assert words_of(heard) == words_of(accepted)

        deployment.terminate()
        deployment.environment["CALLSTREAM_STORE_GB"] = "0.1"
        deployment.start()
        deployment.wait_ready()
        deployment.run("publish", str(long), "--call", "refused")
        whole = deployment.wait_completed("refused", revision=2)
    assert whole["duration_s"] == pytest.approx(SPEECH_S[-1] + SILENCE_S)
    assert whole["gaps"] == []
    assert whole["provisional"] is False
    said = " ".join(line["text"] for line in SCRIPT["lines"] if line["end_s"] < SPEECH_S[-1])
    errors, words = word_errors(said, " ".join(turn["text"] for turn in whole["turns"]))
    assert errors <= 0.1 * words, whole["turns"]


def words_of(document: dict[str, Any]) -> list[str]:
    return [word["text"] for turn in document["turns"] for word in turn["words"]]
