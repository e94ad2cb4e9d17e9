"""The engine with the real weights of Whisper base, on the sample call, whose text is known."""

import json
import wave
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import soxr
from numpy.typing import NDArray

from pipeline.wiring.weights import ResolvedModel, resolve_model
from stages.transcribe import guards
from stages.transcribe.engine.protocol import Audio, Detection, EngineError, Row, Transcription
from stages.transcribe.engine.whisper import Engine
from stages.transcribe.engine.windows import SAMPLE_RATE_HZ, WhisperWindow, max_tokens, windows_of
from stages.transcribe.scheduling.scheduler import PROBE
from tests.calls.wording import word_errors

Times = NDArray[np.float64]
SAMPLE = Path(__file__).parents[4] / "calls" / "sample"


class Line(msgspec.Struct, frozen=True):
    """A line of one speaker in the sample call's script; `speech`: its stretches of sound."""

    channel: int
    start_s: float
    end_s: float
    text: str
    speech: list[tuple[float, float]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ResolvedModel:
    return resolve_model("base", tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def engine(model: ResolvedModel) -> Engine:
    return Engine(model.path, name=model.name)


@pytest.fixture(scope="module")
def channels() -> list[Audio]:
    """The sample call's channels as float32 at 16 kHz."""
    with wave.open(str(SAMPLE / "sample.wav")) as file:
        frames = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, file.getnchannels())
        rate = file.getframerate()
    return [soxr.resample(frames[:, index] / np.float32(32768), rate, SAMPLE_RATE_HZ) for index in range(2)]


@pytest.fixture(scope="module")
def lines() -> list[Line]:
    script = json.loads((SAMPLE / "script.json").read_text())
    return msgspec.convert(script["lines"], list[Line])


def row_of(line: Line, channels: list[Audio], language: str = "en") -> Row:
    start_s, end_s = line.start_s - 0.2, line.end_s + 0.3
    audio = channels[line.channel][int(start_s * SAMPLE_RATE_HZ) : int(end_s * SAMPLE_RATE_HZ)]
    voiced = [(begin - start_s, end - start_s) for begin, end in line.speech]
    return Row(audio=np.ascontiguousarray(audio), voiced=voiced, language=language)


@pytest.fixture(scope="module")
def heard(engine: Engine, channels: list[Audio], lines: list[Line]) -> list[tuple[Row, Transcription]]:
    """All lines of the sample call with their transcriptions."""
    rows = [row_of(line, channels) for line in lines]
    return list(zip(rows, engine.transcribe_batch(rows), strict=True))


def sound(make: Callable[[Times], Times], seconds: float) -> Row:
    """Return a row of a sound that is no speech, but which the detector took for speech from end to end."""
    times = np.arange(int(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    return Row(audio=make(times).astype(np.float32), voiced=[(0.0, seconds)], language="en")


def passed(row: Row, done: Transcription) -> str:
    """The text after the guards."""
    verdict = guards.judge(done, voiced_s=sum(end - start for start, end in row.voiced))
    return "" if verdict.guard else done.text


@pytest.mark.slow
def test_the_sample_call_is_understood(heard: list[tuple[Row, Transcription]], lines: list[Line]) -> None:
    said = " ".join(line.text for line in lines)
    errors, words = word_errors(said, " ".join(done.text for _, done in heard))
    assert errors / words < 0.03


@pytest.mark.slow
def test_every_word_lies_in_its_speech(heard: list[tuple[Row, Transcription]]) -> None:
    for row, done in heard:
        assert [word.text for word in done.words] == done.text.split()
        assert done.words[0].start_s >= row.voiced[0][0] - 0.001
        assert done.words[-1].end_s <= row.voiced[-1][1] + 0.1
        floor = 0.0
        for word in done.words:
            assert floor <= word.start_s < word.end_s
            assert 0.0 < word.probability <= 1.0
            floor = word.start_s


@pytest.mark.slow
def test_a_sentence_after_a_pause_starts_after_the_pause(heard: list[tuple[Row, Transcription]]) -> None:
    row, done = next((row, done) for row, done in heard if "My name is" in done.text)
    my = next(word for word in done.words if word.text == "My")
    stretches = [begin for begin, _ in row.voiced]
    assert min(abs(my.start_s - begin) for begin in stretches) < 0.3


@pytest.mark.slow
def test_a_row_gives_the_same_text_alone_and_repeated(engine: Engine, heard: list[tuple[Row, Transcription]]) -> None:
    row, done = heard[0]
    assert engine.transcribe_batch([row]) == engine.transcribe_batch([row])
    assert engine.transcribe_batch([row])[0].text == done.text  # among all others of the call


@pytest.mark.slow
def test_rows_of_one_batch_may_choose_different_languages(
    engine: Engine, heard: list[tuple[Row, Transcription]]
) -> None:
    (first, in_english), (second, _) = heard[0], heard[1]
    rows = [
        msgspec.structs.replace(first, language=lambda _detected: "en"),
        msgspec.structs.replace(second, language=lambda _detected: "de"),
    ]
    one, other = engine.transcribe_batch(rows)
    assert (one.language, other.language) == ("en", "de")
    assert one.text == in_english.text


def test_the_language_is_detected_if_a_row_asks_for_it(engine: Engine, heard: list[tuple[Row, Transcription]]) -> None:
    languages: dict[str, float] = {}

    def choose(detected: Detection) -> str:
        languages.update(detected)
        return "en"

    row, known = heard[0]
    (done,) = engine.transcribe_batch([msgspec.structs.replace(row, language=choose)])
    assert max(languages, key=lambda code: languages[code]) == "en"
    assert set(languages) <= engine.languages
    assert (done.text, done.language) == (known.text, "en")


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.4, 3.0])
def test_no_words_are_invented_for_sounds_that_are_no_speech(engine: Engine, seconds: float) -> None:
    def dtmf(times: Times) -> Times:
        return 0.3 * (np.sin(2 * np.pi * 770 * times) + np.sin(2 * np.pi * 1336 * times)) * (times % 0.2 < 0.1)

    noise = np.random.default_rng(1)
    rows = [
        sound(np.zeros_like, seconds),
        sound(lambda times: 0.3 * np.sin(2 * np.pi * 425 * times), seconds),
        sound(dtmf, seconds),
        sound(lambda times: 0.02 * noise.standard_normal(len(times)), seconds),
    ]
    done = engine.transcribe_batch(rows)
    assert [passed(row, each) for row, each in zip(rows, done, strict=True)] == ["", "", "", ""]


@pytest.mark.slow
def test_the_audio_that_tells_a_failed_device_from_a_bad_row_is_decoded(engine: Engine) -> None:
    [transcription] = engine.transcribe_batch([PROBE])
    assert transcription.error is None


def test_a_word_said_alone_is_written_once(engine: Engine, channels: list[Audio], lines: list[Line]) -> None:
    [line] = [line for line in lines if "Mr. Carter." in line.text]
    begin, end = line.speech[1]
    line = msgspec.structs.replace(line, start_s=begin - 0.1, end_s=end, speech=[(begin, end)])
    [done] = engine.transcribe_batch([row_of(line, channels)])
    assert [word.text.strip(".") for word in done.words] == ["Carter"]


def test_words_said_several_times_are_written_so_often(
    engine: Engine, channels: list[Audio], lines: list[Line]
) -> None:
    said = row_of(lines[-1], channels)
    pause = np.zeros(SAMPLE_RATE_HZ // 5, np.float32)
    once = np.concatenate([said.audio, pause])
    voiced = [
        (begin + at * len(once) / SAMPLE_RATE_HZ, end + at * len(once) / SAMPLE_RATE_HZ)
        for at in range(3)
        for begin, end in said.voiced
    ]
    [done] = engine.transcribe_batch([Row(audio=np.concatenate([once] * 3), voiced=voiced, language="en")])
    assert done.text.lower().replace("-", "").replace(" bye", "bye").count("goodbye") == 3


def test_weights_that_are_no_model_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"nothing")
    with pytest.raises(EngineError, match="not in CTranslate2's format"):
        Engine(tmp_path, name="mine")


def test_a_window_depends_on_the_rows_length_and_leaves_padding_after_it() -> None:
    base = windows_of("base")
    first = [base.of(int(s * SAMPLE_RATE_HZ))[0] for s in (0.3, 3.0, 3.1, 9.0, 14.0, 14.1, 28.9, 29.5, 30.0)]
    short = [WhisperWindow(length_s, 5) for length_s in (4, 4, 5, 10, 15)]
    assert first == [*short, WhisperWindow(20), WhisperWindow(30), WhisperWindow(30), WhisperWindow(30)]
    assert windows_of("tiny.en").of(SAMPLE_RATE_HZ)[0] == WhisperWindow(15)
    assert windows_of("never-measured").of(SAMPLE_RATE_HZ) == [WhisperWindow(30)]
    with pytest.raises(ValueError, match="does not fit"):
        base.of(31 * SAMPLE_RATE_HZ)


def test_a_row_that_loops_is_given_a_longer_window_each_time() -> None:
    base = windows_of("base")
    assert base.of(2 * SAMPLE_RATE_HZ) == [WhisperWindow(4, 5), WhisperWindow(10), WhisperWindow(30)]
    assert base.of(29 * SAMPLE_RATE_HZ) == [WhisperWindow(30)]
    assert base.without_silence().of(2 * SAMPLE_RATE_HZ) == [WhisperWindow(10), WhisperWindow(30)]


def test_a_row_can_ask_for_the_full_window_at_once(engine: Engine) -> None:
    row = Row(audio=np.zeros(2 * SAMPLE_RATE_HZ, np.float32), voiced=[(0.0, 2.0)], language="en")
    assert (engine.window_s(row), engine.window_s(msgspec.structs.replace(row, full_window=True))) == (4, 30)


def test_a_windows_tokens_stay_within_whispers_decoder() -> None:
    assert max_tokens(10) == 160
    assert 2 * (max_tokens(30) + 4) <= 448


@pytest.fixture(scope="module")
def forced(engine: Engine, channels: list[Audio], lines: list[Line]) -> list[tuple[Row, Transcription]]:
    """Two lines in one batch with committed text of different lengths as prefixes; the second prefix is wrong."""
    rows = [
        msgspec.structs.replace(row_of(lines[index], channels), prefix=prefix)
        for index, prefix in ((0, "Thank you for calling Northwind"), (1, "Yellow, Sarah"))
    ]
    return list(zip(rows, engine.transcribe_batch(rows), strict=True))


def test_a_text_begins_with_its_rows_prefix_and_continues_from_the_audio(
    forced: list[tuple[Row, Transcription]], lines: list[Line]
) -> None:
    for (row, done), line in zip(forced, lines, strict=False):
        assert done.text.startswith(row.prefix)
        assert done.text[len(row.prefix) :].split()[-3:] == line.text.split()[-3:]
        assert done.average_logprob > -0.5


def test_the_words_of_a_prefix_have_times_like_the_others(forced: list[tuple[Row, Transcription]]) -> None:
    for row, done in forced:
        assert " ".join(word.text for word in done.words) == done.text
        spoken = sum(end - start for start, end in row.voiced)
        assert done.words[-1].end_s - done.words[0].start_s > 0.8 * spoken
        assert all(word.end_s > word.start_s for word in done.words)


@pytest.mark.parametrize(
    ("hotwords", "name"),
    [((), "Sarah"), (("Northwind", "Sara"), "Sara"), (tuple(f"Name{n}" for n in range(99)), "Sarah")],
)
def test_hotwords_bend_the_spelling_and_change_nothing_else(
    hotwords: tuple[str, ...], name: str, engine: Engine, channels: list[Audio], lines: list[Line]
) -> None:
    row = msgspec.structs.replace(row_of(lines[0], channels), hotwords=hotwords)
    (heard,) = engine.transcribe_batch([row])
    assert heard.text == f"Thank you for calling Northwind Energy. My name is {name}. How can I help you today?"
    assert len(heard.words) == len(heard.text.split())
    assert heard.no_speech_probability < 0.1


def test_rows_with_and_without_hotwords_do_not_affect_each_other(
    engine: Engine, channels: list[Audio], lines: list[Line]
) -> None:
    plain = row_of(lines[0], channels)
    bent = msgspec.structs.replace(plain, hotwords=("Northwind", "Sara"))
    texts = [heard.text for heard in engine.transcribe_batch([plain, bent, plain])]
    assert ["Sarah" in text for text in texts] == [True, False, True]


def test_an_interim_has_no_word_times_and_its_language_is_detected(
    engine: Engine, channels: list[Audio], lines: list[Line], heard: list[tuple[Row, Transcription]]
) -> None:
    row = msgspec.structs.replace(
        row_of(lines[0], channels), interim=True, language=lambda detected: max(detected, key=detected.__getitem__)
    )
    [done] = engine.transcribe_batch([row])
    assert word_errors(heard[0][1].text, done.text)[0] <= 1
    assert (done.words, done.language, done.error) == ([], "en", None)
