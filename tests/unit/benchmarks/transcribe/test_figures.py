import pytest

from benchmarks.speech.corpus import Call, TruthLine
from benchmarks.transcribe.contenders import Measurement
from benchmarks.transcribe.figures import accuracy, disagreement, speed


def measured(cpu_s: float, *legs: str) -> Measurement:
    return Measurement(cpu_s=cpu_s, wall_s=cpu_s, texts=[list(legs)], segments=[[]])


RUNS = {
    "whisperx": [measured(30.0, "good morning", "hello"), measured(33.0, "good morning", "hello")],
    "transcriber": [measured(10.0, "good evening", "hello"), measured(11.0, "good evening", "hello")],
}
CALL = Call(
    name="c",
    file="c.wav",
    variant="clean",
    duration_s=5.0,
    sha256="",
    lines=[TruthLine(0, 0.0, 1.0, "Good morning.", []), TruthLine(1, 1.0, 2.0, "Hello.", [])],
)


def test_how_many_times_as_fast_is_counted_run_by_run() -> None:
    found = speed(RUNS, 300.0)
    assert found["kinds"]["transcriber"]["audio_s_per_cpu_s"]["runs"] == [30.0, 27.27]
    assert found["times_as_fast"] == {
        "transcriber": {"whisperx": {"median": 3.0, "min": 3.0, "max": 3.0, "runs": [3.0, 3.0]}}
    }


def test_a_text_that_changes_from_run_to_run_is_told() -> None:
    runs = {"whisperx": [measured(1.0, "a"), measured(1.0, "b")]}
    assert not speed(runs, 1.0)["kinds"]["whisperx"]["same_text_in_all_runs"]


def test_word_errors_are_those_against_the_script() -> None:
    found = accuracy(RUNS, [CALL])
    assert found["errors"]["whisperx"]["all"]["percent"] == 0.0
    assert found["errors"]["transcriber"]["clean"]["substituted"] == 1
    assert found["difference"]["transcriber"]["whisperx"]["points"] == pytest.approx(33.333)


def test_two_kinds_differ_in_the_words_of_all_legs_together() -> None:
    assert disagreement(RUNS)["transcriber"] == {"whisperx": 33.33}
