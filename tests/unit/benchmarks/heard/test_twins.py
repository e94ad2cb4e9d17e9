import numpy as np

from benchmarks.heard.twins import FORMS, legs_of, scored
from benchmarks.speech.corpus import Call, TruthLine
from benchmarks.speech.telephone import RATE_HZ

CALL = Call(
    name="c",
    file="c.wav",
    variant="clean",
    duration_s=9.0,
    sha256="",
    lines=[TruthLine(0, 1.0, 2.0, "good morning madam", []), TruthLine(1, 3.0, 4.0, "hello", [])],
)


def test_every_form_has_its_channels() -> None:
    dry = [np.full(RATE_HZ, 1000, np.int16), np.zeros(RATE_HZ, np.int16)]
    assert [len(legs_of(form, dry)) for form in FORMS] == [1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2]


def test_a_line_that_comes_on_both_channels_is_inserted_once() -> None:
    turns = [_turn(0, 1.0, "Good morning, madam."), _turn(1, 1.0, "Good morning, madam."), _turn(1, 3.0, "Hello.")]
    dual, legs = (scored(form, CALL, turns, 2) for form in ("dual mono, same", "legs"))
    assert (dual["inserted"], dual["deleted"], dual["written_words"]) == (3, 0, 7)
    assert (legs["inserted"], legs["deleted"]) == (3, 0)


def test_a_line_under_the_wrong_speaker_is_lost_and_inserted() -> None:
    turns = [_turn(1, 1.0, "Good morning, madam."), _turn(0, 3.0, "Hello.")]
    found = scored("crosstalk -20 dB", CALL, turns, 2)
    assert found["once"] == 0
    assert scored("dual mono, same", CALL, turns, 2)["once"] == 100


def _turn(channel: int, start_s: float, text: str) -> dict[str, object]:
    return {"channel": channel, "start_s": start_s, "text": text, "speaker": ("agent", "customer")[channel]}
