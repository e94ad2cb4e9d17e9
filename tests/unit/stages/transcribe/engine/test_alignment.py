"""Alignment with a model whose emissions are known: a tone for each letter."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from schemas.segments import Word
from stages.transcribe.engine.alignment import Aligner, Aligners, AligningEngine
from stages.transcribe.engine.model_cache import CacheObserver
from stages.transcribe.engine.protocol import Audio, EngineError, Row, Transcription
from stages.transcribe.engine.words import MeasuredWord
from tests.support.models.alignment import FRAME_S, spoken, write_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("aligner"))


@pytest.fixture(scope="module")
def aligner(folder: Path) -> Aligner:
    return Aligner(str(folder), "en")


def words_of(text: str) -> list[Word]:
    """Words as another aligner might have timed them."""
    return [Word(text=word, start_s=0.0, end_s=0.1, probability=0.9) for word in text.split()]


def test_words_are_timed_within_a_frame_of_their_sound(aligner: Aligner) -> None:
    audio, spans = spoken("the quick brown fox jumps over the lazy dog")
    [measured] = aligner.align([(audio, words_of("The quick, brown fox jumps over the lazy dog."))])
    assert measured is not None
    for word, (start_s, end_s) in zip(measured, spans, strict=True):
        assert word.start_s == pytest.approx(start_s, abs=FRAME_S + 1e-9), word
        assert word.end_s == pytest.approx(end_s, abs=FRAME_S + 1e-9), word
        assert word.probability == 0.9
        assert not word.interpolated


def test_a_number_is_timed_between_its_neighbours_and_marked(aligner: Aligner) -> None:
    audio, spans = spoken("pay forty two dollars", pause_s=0.1)
    [measured] = aligner.align([(audio, words_of("Pay 42 dollars."))])
    assert measured is not None
    assert [word.interpolated for word in measured] == [False, True, False]
    number = measured[1]
    assert spans[0][1] - FRAME_S <= number.start_s <= spans[1][0] + FRAME_S
    assert spans[2][1] - FRAME_S <= number.end_s <= spans[3][0] + FRAME_S
    assert measured[2].start_s == pytest.approx(spans[3][0], abs=FRAME_S + 1e-9)


def test_a_word_of_letters_and_digits_is_measured_by_its_letters(aligner: Aligner) -> None:
    audio, spans = spoken("the third of", pause_s=0.1)
    [measured] = aligner.align([(audio, words_of("the 3rd of"))])
    assert measured is not None
    assert [word.interpolated for word in measured] == [False, False, False]
    assert measured[1].end_s == pytest.approx(spans[1][1], abs=FRAME_S + 1e-9)


@pytest.mark.parametrize("norm", ["layer", "group"])
def test_a_row_is_timed_the_same_whatever_is_in_its_batch(tmp_path: Path, norm: str) -> None:
    """Padding does not affect a model that normalizes over frames. It would affect one that normalizes over time."""
    aligner = Aligner(str(write_model(tmp_path / norm, norm=norm)), "en")
    short, long = spoken("one two")[0], spoken("the quick brown fox jumps over the lazy dog")[0]
    rows = [(short, words_of("one two")), (long, words_of("the quick brown fox jumps over the lazy dog"))]
    assert aligner.align(rows) == [aligner.align([row])[0] for row in rows]


def test_more_letters_than_frames_are_not_aligned(aligner: Aligner) -> None:
    audio, _ = spoken("a", before_s=0.0, pause_s=0.1)
    assert aligner.align([(audio, words_of("supercalifragilistic"))]) == [None]


class FakeEngine:
    """Returns given texts, with times of its own."""

    model_name = "fake"
    languages = frozenset({"en", "de"})
    max_batch = 1

    def __init__(self, texts: Sequence[tuple[str, str]]) -> None:
        self._texts = texts

    def window_s(self, row: Row) -> int:
        return 30

    def transcribe_batch(self, rows: Sequence[Row]) -> list[Transcription]:
        return [
            Transcription(
                text=text, words=words_of(text), language=language, average_logprob=-0.1, no_speech_probability=0.0
            )
            for language, text in self._texts
        ]


def test_an_engine_marks_the_words_of_the_languages_that_it_aligns(folder: Path) -> None:
    audio, spans = spoken("one two three")
    row = Row(audio=audio, voiced=[(0.3, len(audio) / 16_000)], language="en")
    engine = AligningEngine(
        FakeEngine([("en", "One 2 three."), ("de", "eins zwei"), ("en", "")]), Aligners({"en": str(folder)})
    )
    english, german, silent = engine.transcribe_batch([row, row, row])
    assert english.word_source == "alignment"
    assert [word.text for word in english.words] == ["One", "2", "three."]
    assert [word.interpolated for word in english.words] == [False, True, False]
    assert english.words[0].start_s == pytest.approx(spans[0][0], abs=FRAME_S + 1e-9)
    assert german.word_source == "attention"
    assert german.words == words_of("eins zwei")
    assert silent.words == []


@pytest.mark.parametrize("missing", ["config.json", "vocab.json", "model.safetensors"])
def test_a_directory_that_lacks_a_file_is_an_error_that_names_it(tmp_path: Path, missing: str) -> None:
    folder = write_model(tmp_path / "model")
    (folder / missing).unlink()
    with pytest.raises(EngineError, match=str(folder)):
        Aligners({"en": str(folder)})


def test_a_directory_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"has no config\.json"):
        Aligner(str(tmp_path / "nothing"), "en")


def test_a_language_unknown_to_whisperx_has_no_alignment() -> None:
    aligners = Aligners({}, others=True)
    for _ in range(2):
        with aligners.use("xx") as aligner:
            assert aligner is None


def test_audio_shorter_than_a_frame_is_padded(aligner: Aligner) -> None:
    assert aligner.align([(np.zeros(100, np.float32), words_of("a"))]) is not None


class Observer(CacheObserver):
    def __init__(self) -> None:
        self.loads: list[str] = []
        self.unloads: list[str] = []

    def loaded(self, name: str, *, size_bytes: int, load_s: float) -> None:
        assert size_bytes > 0
        assert load_s > 0
        self.loads.append(name)

    def unloaded(self, name: str) -> None:
        self.unloads.append(name)


def test_the_weights_are_measured(aligner: Aligner, folder: Path) -> None:
    """The file holds little besides them."""
    stored_bytes = (folder / "model.safetensors").stat().st_size
    assert 0.9 * stored_bytes < aligner.size_bytes <= stored_bytes


def test_aligners_take_turns_in_a_budget_for_one_of_them(aligner: Aligner, folder: Path, tmp_path: Path) -> None:
    english, german = str(folder), str(write_model(tmp_path / "german"))
    observer = Observer()
    aligners = Aligners({"en": english, "de": german}, budget_bytes=int(1.5 * aligner.size_bytes), observer=observer)
    audio, _ = spoken("one two")
    row = Row(audio=audio, voiced=[(0.3, len(audio) / 16_000)], language="en")
    engine = AligningEngine(FakeEngine([("en", "one two"), ("de", "one two")]), aligners)
    done = engine.transcribe_batch([row, row])
    assert [each.word_source for each in done] == ["alignment", "alignment"]
    assert observer.loads == [english, german, english, german]
    assert observer.unloads == [english, german, english]


def test_a_named_model_that_exceeds_the_memory_for_models_is_an_error(folder: Path) -> None:
    with pytest.raises(EngineError, match=r"takes .* GB, more than the 1e-06 that models may take"):
        Aligners({"en": str(folder)}, budget_bytes=1000)


def test_weights_that_cannot_be_reloaded_disable_only_the_alignment(
    aligner: Aligner, folder: Path, tmp_path: Path
) -> None:
    german = write_model(tmp_path / "german")
    aligners = Aligners({"de": str(german), "en": str(folder)}, budget_bytes=int(1.5 * aligner.size_bytes))
    (german / "config.json").unlink()
    audio, _ = spoken("one two")
    row = Row(audio=audio, voiced=[(0.3, len(audio) / 16_000)], language="de")
    for _ in range(2):
        [done] = AligningEngine(FakeEngine([("de", "one two")]), aligners).transcribe_batch([row])
        assert (done.text, done.word_source) == ("one two", "attention")


@pytest.mark.parametrize(("fits", "sources"), [(1, {"alignment"}), (0, {"attention"})])
def test_without_memory_rows_are_aligned_in_halves_and_at_last_not_at_all(
    folder: Path, monkeypatch: pytest.MonkeyPatch, fits: int, sources: set[str]
) -> None:
    align = Aligner.align
    tried: list[int] = []

    def exhausted(aligner: Aligner, rows: Sequence[tuple[Audio, Sequence[Word]]]) -> list[list[MeasuredWord] | None]:
        tried.append(len(rows))
        if len(rows) > fits:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return align(aligner, rows)

    monkeypatch.setattr(Aligner, "align", exhausted)
    audio, _ = spoken("one two")
    row = Row(audio=audio, voiced=[(0.3, len(audio) / 16_000)], language="en")
    engine = AligningEngine(FakeEngine([("en", "one two")] * 3), Aligners({"en": str(folder)}))
    done = engine.transcribe_batch([row] * 3)
    assert [each.text for each in done] == ["one two"] * 3
    assert {each.word_source for each in done} == sources
    assert tried == [3, 1, 2, 1, 1]
