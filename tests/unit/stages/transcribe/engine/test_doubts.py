"""Which windows a row is decoded in, and whose text is taken, without a model."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pytest

from schemas.segments import Word
from stages.transcribe.engine.protocol import Row, Transcription
from stages.transcribe.engine.whisper import Engine
from stages.transcribe.engine.windows import SAMPLE_RATE_HZ, WhisperWindow, windows_of

SHORT: Final = WhisperWindow(4, 5)
ALONE: Final = WhisperWindow(10)
FULL: Final = WhisperWindow(30)


class Heard:
    """What the model gives in one window. `probability`: that of each word."""

    def __init__(self, text: str, *, logprob: float = -0.2, no_speech: float = 0.05, probability: float = 0.9) -> None:
        self.text = text
        self.logprob = logprob
        self.no_speech = no_speech
        self.probability = probability


class _Tokenizer:
    eot = 1000
    language_code = "en"

    def __init__(self, heard: Heard) -> None:
        self._words = heard.text.split()

    def decode(self, tokens: Sequence[int]) -> str:
        return " ".join(self._words[token] for token in tokens)


class _Result:
    def __init__(self, heard: Heard) -> None:
        self.sequences_ids = [list(range(len(heard.text.split())))]
        self.scores = [heard.logprob]
        self.no_speech_prob = heard.no_speech


class ScriptedEngine(Engine):
    """The engine with a script in place of the model. Words share the row's speech in equal parts."""

    def __init__(self, script: Mapping[WhisperWindow, Heard]) -> None:
        self._windows = windows_of("base")
        self._beam_size = 5
        self._script = script
        self._heard = Heard("")
        self.tried: list[WhisperWindow] = []

    def _encode(self, rows: Sequence[Row], window: WhisperWindow) -> Any:
        self._heard = self._script[window]
        self.tried.append(window)

    def _tokenizer(self, language: str) -> Any:
        return _Tokenizer(self._heard)

    def _generate(self, *_: Any, **__: Any) -> Any:
        return [_Result(self._heard)]

    def _words(self, rows: Sequence[Row], *_: Any) -> list[list[Word]]:
        start_s, end_s = rows[0].voiced[0]
        texts = self._heard.text.split()
        edges = np.linspace(start_s, end_s, len(texts) + 1).tolist()
        return [
            [
                Word(text=text, start_s=first_s, end_s=last_s, probability=self._heard.probability)
                for text, first_s, last_s in zip(texts, edges, edges[1:], strict=False)
            ]
        ]


def row(voiced_s: float, *, prefix: str = "", interim: bool = False, full_window: bool = False) -> Row:
    audio = np.zeros(int((voiced_s + 0.6) * SAMPLE_RATE_HZ), np.float32)
    voiced = [(0.3, 0.3 + voiced_s)]
    return Row(audio=audio, voiced=voiced, language="en", prefix=prefix, interim=interim, full_window=full_window)


def transcribe(row: Row, script: Mapping[WhisperWindow, Heard]) -> tuple[Transcription, list[WhisperWindow]]:
    engine = ScriptedEngine(script)
    [done] = engine.transcribe_batch([row])
    return done, engine.tried


def test_a_text_without_doubts_is_taken_from_the_first_window() -> None:
    done, tried = transcribe(row(2.4), {SHORT: Heard("I want to pay.")})
    assert (done.text, tried) == ("I want to pay.", [SHORT])


def test_silence_is_encoded_with_the_speech_where_there_is_little_speech() -> None:
    done, tried = transcribe(row(0.5), {ALONE: Heard("Four.")})
    assert (done.text, tried) == ("Four.", [ALONE])


def test_a_row_that_asks_for_the_full_window_is_decoded_in_no_other() -> None:
    done, tried = transcribe(row(2.4, full_window=True), {FULL: Heard("I want to pay.")})
    assert (done.text, tried) == ("I want to pay.", [FULL])


@pytest.mark.parametrize(
    ("doubled", "voiced_s"),
    [("Four four.", 0.9), ("Hold time. Hold time.", 1.2), ("one two three four one two three four", 1.4)],
)
def test_copies_that_the_audio_may_not_hold_are_heard_again(doubled: str, voiced_s: float) -> None:
    done, tried = transcribe(row(voiced_s), {ALONE: Heard(doubled), FULL: Heard("Once.")})
    assert (done.text, tried) == ("Once.", [ALONE, FULL])


def test_words_that_the_audio_holds_twice_are_not_heard_again() -> None:
    done, tried = transcribe(row(2.4), {SHORT: Heard("five five five")})
    assert (done.text, tried) == ("five five five", [SHORT])


def test_quick_copies_are_believed_if_the_full_window_hears_them_too() -> None:
    done, tried = transcribe(row(0.9), {ALONE: Heard("No, no, no."), FULL: Heard("no no no")})
    assert (done.text, [word.text for word in done.words], tried) == ("no no no", ["no"] * 3, [ALONE, FULL])


def test_copies_without_any_speech_are_not_even_believed_in_the_full_window() -> None:
    done, tried = transcribe(row(0.2), {ALONE: Heard("No no no"), FULL: Heard("No no no no.")})
    assert (done.text, [word.text for word in done.words], tried) == ("No.", ["No."], [ALONE, FULL])
    assert (done.words[0].start_s, done.words[0].end_s) == (0.3, 0.5)


@pytest.mark.parametrize(
    "doubtful",
    [
        Heard("Seven.", probability=0.1, no_speech=0.2),
        Heard("Seven.", no_speech=0.85),
        Heard("Thank you.", no_speech=0.65, logprob=-2.0),
        Heard("Beep!", no_speech=0.21, logprob=-2.5, probability=0.45),
        Heard("..."),
        Heard(""),
    ],
)
def test_what_is_doubted_or_a_guard_would_drop_is_heard_again_up_to_the_full_window(doubtful: Heard) -> None:
    done, tried = transcribe(row(2.4), {SHORT: doubtful, ALONE: doubtful, FULL: Heard("Seven.")})
    assert (done.text, done.no_speech_probability, tried) == ("Seven.", 0.05, [SHORT, ALONE, FULL])


def test_what_a_guard_would_drop_in_the_full_window_too_stays_as_the_full_window_gave_it() -> None:
    beep = Heard("Beep!", no_speech=0.9)
    done, tried = transcribe(row(0.4), {ALONE: beep, FULL: Heard("you", no_speech=0.95)})
    assert (done.text, done.no_speech_probability, tried) == ("you", 0.95, [ALONE, FULL])


def test_an_interim_is_heard_again_for_copies_and_for_nothing_else() -> None:
    unlikely = Heard("Okay.", no_speech=0.9, probability=0.1)
    assert transcribe(row(1.0, interim=True), {ALONE: unlikely})[1] == [ALONE]
    done, tried = transcribe(row(0.8, interim=True), {ALONE: Heard("Four four"), FULL: Heard("Four")})
    assert (done.text, done.words, tried) == ("Four", [], [ALONE, FULL])


def test_a_loop_in_the_full_window_is_marked() -> None:
    loop = Heard("I will call you, " * 8)
    done, tried = transcribe(row(20.0), {WhisperWindow(25): loop, FULL: loop})
    assert (done.repeats, tried) == (True, [WhisperWindow(25), FULL])
