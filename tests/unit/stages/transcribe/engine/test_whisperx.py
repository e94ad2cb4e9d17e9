"""WhisperX's own pipeline as an engine, with the real weights of Whisper base, on the sample call."""

import json
import wave
from pathlib import Path

import numpy as np
import pytest
import soxr

from pipeline.wiring.weights import resolve_model
from stages.transcribe.engine.protocol import EngineError, Row
from stages.transcribe.engine.whisperx import WhisperXEngine
from stages.transcribe.engine.windows import SAMPLE_RATE_HZ
from tests.calls.wording import word_errors

SAMPLE = Path(__file__).parents[4] / "calls" / "sample"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> WhisperXEngine:
    model = resolve_model("base", tmp_path_factory.mktemp("models"))
    return WhisperXEngine(model.path, name=model.name, beam_size=1)


@pytest.fixture(scope="module")
def said() -> list[tuple[Row, str]]:
    """The first four lines of the sample call and what is said in them."""
    with wave.open(str(SAMPLE / "sample.wav")) as file:
        frames = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, file.getnchannels())
        rate = file.getframerate()
    lines = json.loads((SAMPLE / "script.json").read_text())["lines"][:4]
    rows = []
    for line in lines:
        first, last = (round(line[edge] * rate) for edge in ("start_s", "end_s"))
        audio = soxr.resample(frames[first:last, line["channel"]] / np.float32(32768), rate, SAMPLE_RATE_HZ)
        rows.append((Row(audio=audio, voiced=[(0.0, len(audio) / SAMPLE_RATE_HZ)], language="en"), line["text"]))
    return rows


def test_rows_of_a_batch_have_the_texts_that_they_have_alone(
    engine: WhisperXEngine, said: list[tuple[Row, str]]
) -> None:
    rows = [row for row, _ in said]
    together = engine.transcribe_batch(rows)
    assert [done.text for done in together] == [engine.transcribe_batch([row])[0].text for row in rows]
    counts = [word_errors(text, done.text) for (_, text), done in zip(said, together, strict=True)]
    errors, words = (sum(count) for count in zip(*counts, strict=True))
    assert errors <= 0.1 * words


def test_words_are_spread_over_the_speech_and_marked(engine: WhisperXEngine, said: list[tuple[Row, str]]) -> None:
    row = said[0][0]
    (done,) = engine.transcribe_batch([row])
    assert " ".join(word.text for word in done.words) == done.text
    assert all(word.interpolated for word in done.words)
    assert 0.0 <= done.words[0].start_s < done.words[-1].end_s <= len(row.audio) / SAMPLE_RATE_HZ


def test_a_prefix_begins_the_text(engine: WhisperXEngine, said: list[tuple[Row, str]]) -> None:
    row = said[0][0]
    first = engine.transcribe_batch([row])[0].text.split()[0]
    (done,) = engine.transcribe_batch([Row(audio=row.audio, voiced=row.voiced, language="en", prefix=first)])
    assert done.text.startswith(first)


def test_the_language_is_detected_where_the_row_names_none(engine: WhisperXEngine, said: list[tuple[Row, str]]) -> None:
    heard: list[dict[str, float]] = []

    def choose(detected: object) -> str:
        heard.append(dict(detected))  # type: ignore[call-overload]
        return max(heard[-1], key=heard[-1].__getitem__)

    row = said[0][0]
    (done,) = engine.transcribe_batch([Row(audio=row.audio, voiced=row.voiced, language=choose)])
    assert done.language == "en"
    assert abs(sum(heard[0].values()) - 1) < 0.01


def test_audio_longer_than_the_window_is_refused(engine: WhisperXEngine) -> None:
    audio = np.zeros(31 * SAMPLE_RATE_HZ, np.float32)
    with pytest.raises(ValueError, match=r"31\.0 s does not fit"):
        engine.window_s(Row(audio=audio, voiced=[], language="en"))


def test_weights_that_cannot_be_loaded_are_an_engine_error(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"has no model\.bin"):
        WhisperXEngine(tmp_path, name="base")
