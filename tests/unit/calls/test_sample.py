"""The sample call's script agrees with its audio."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.calls import bad

SAMPLE = Path(__file__).parents[2] / "calls" / "sample"


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((SAMPLE / "script.json").read_text(encoding="utf-8"))
    return content


@pytest.mark.parametrize("channel", [0, 1])
def test_a_channel_is_loud_where_the_script_speaks_and_noise_elsewhere(script: dict[str, Any], channel: int) -> None:
    pcm, rate_hz = bad.read_wav(SAMPLE / "sample.wav")
    level_db = _level_db(pcm[:, channel], rate_hz // 100)
    speaking = np.zeros(len(level_db), dtype=bool)
    for line in script["lines"]:
        if line["channel"] == channel:
            assert line["speech"][0][0] == line["start_s"]
            assert line["speech"][-1][1] == line["end_s"]
            for start_s, end_s in line["speech"]:
                speaking[round(start_s * 100) : round(end_s * 100)] = True
                assert level_db[round(start_s * 100) : round(end_s * 100)].max() > -25
    assert level_db[~speaking].max() < -40
    assert np.median(level_db[~speaking]) == pytest.approx(-60, abs=2)
    assert np.median(level_db[speaking]) > -35


def test_the_figures_follow_from_the_stretches(script: dict[str, Any]) -> None:
    pcm, rate_hz = bad.read_wav(SAMPLE / "sample.wav")
    grid = np.zeros((2, round(len(pcm) / rate_hz * 100)), dtype=bool)
    for line in script["lines"]:
        for start_s, end_s in line["speech"]:
            grid[line["channel"], round(start_s * 100) : round(end_s * 100)] = True
    figures = script["metrics"]
    assert figures["duration_s"] == pytest.approx(len(pcm) / rate_hz, abs=0.01)
    assert [c["talk_s"] for c in figures["channels"]] == pytest.approx(list(grid.sum(axis=1) / 100), abs=0.02)
    assert figures["speech_s"] == pytest.approx(grid.any(axis=0).sum() / 100, abs=0.02)
    assert figures["overlap_s"] == pytest.approx(grid.all(axis=0).sum() / 100, abs=0.02)
    assert figures["silence_s"] == pytest.approx(figures["duration_s"] - figures["speech_s"], abs=0.02)


def test_the_call_has_what_a_call_has(script: dict[str, Any]) -> None:
    figures = script["metrics"]
    assert figures["longest_silence_s"] == 6.0
    assert [(i["by"], i["overlap_s"]) for i in figures["interruptions"]] == [("customer", 1.1)]
    assert {line["role"] for line in script["lines"]} == set(script["roles"]) == {"agent", "customer"}
    said = " ".join(line["text"] for line in script["lines"])
    for part in ("four seven one nine", "C, A, R, T, E, R", "forty two dollars", "third of September", "Goodbye"):
        assert part in said


def _level_db(samples: np.ndarray[Any, np.dtype[np.int16]], frame: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Level of each frame against full scale."""
    frames = samples[: len(samples) // frame * frame].reshape(-1, frame) / 32768
    return np.asarray(20 * np.log10(np.sqrt((frames**2).mean(axis=1)) + 1e-9))
