from pathlib import Path

import msgspec
import numpy as np
import pytest

from benchmarks.heard.clips import Clip
from benchmarks.heard.contenders import Outcome, heard_by
from benchmarks.heard.coverage import Heard
from benchmarks.heard.human import drawn, sphinx_texts
from benchmarks.heard.measuring import against, figures
from benchmarks.heard.sets import every, of_stm_file, under, write
from benchmarks.heard.texts import word_errors
from benchmarks.heard.word_table import word_sets
from benchmarks.speech.corpus import Call, Corpus, TruthLine, TruthWord, keep
from benchmarks.speech.scoring import Errors
from benchmarks.speech.telephone import RATE_HZ
from schemas.calls import CallRef
from schemas.segments import Segment, Word


def test_a_set_holds_its_calls_under_a_condition_with_their_references(tmp_path: Path) -> None:
    made = under("some", _corpus(tmp_path), "level 0.1", folder=tmp_path / "conditions")
    assert (made.name, made.channels, made.channel_s) == ("some/level 0.1", 2, 8.0)
    [recording] = made.recordings
    spoken, silent = recording.legs
    assert spoken.text == "hello there"
    assert spoken.words == [(1.0, 1.5), (1.5, 2.0)]
    assert spoken.speech == [pytest.approx((1.0, 2.0), abs=0.02)]
    assert (silent.text, silent.speech) == ("", [])
    assert Path(recording.file).stat().st_size == 44 + 4 * RATE_HZ * 2 * 2


def test_figures_count_lost_speech_and_word_errors(tmp_path: Path) -> None:
    one = under("some", _corpus(tmp_path), "clean", folder=tmp_path / "conditions")
    whole = Heard(text="Hello there.", utterances=[(0.9, 2.1)], words=[("Hello", 1.0, 1.5), ("there.", 1.5, 2.0)])
    half = Heard(text="Hello.", utterances=[(0.9, 1.4)], words=[("Hello", 1.0, 1.2)])
    nothing = Heard(text="", utterances=[], words=[])
    good, bad = (figures(one, Outcome(name=one.name, cpu_s=2.0, heard=[[leg, nothing]])) for leg in (whole, half))
    assert good["errors"]["percent"] == 0
    assert good["coverage"]["percent"]["speech_outside_words"] == 0
    assert good["audio_s_per_cpu_s"] == 4.0
    assert bad["errors"]["deleted"] == 1
    assert bad["coverage"]["percent"]["speech_outside_utterances"] == pytest.approx(50, abs=2)
    assert bad["coverage"]["words_outside_utterances"] == 1
    both = {"some/clean": {"kinds": {"ours": good, "windows": bad}}}
    gap = against(both, "ours", "windows", ["some/clean"])
    assert gap is not None
    assert gap["points"] == -50


def test_utterances_are_the_parts_of_segments_and_words_keep_their_times() -> None:
    word = Word(text="yes", start_s=1.0, end_s=1.3, probability=0.9)
    first = Segment(
        call=CallRef("default", "c"),
        seq=1,
        segment_id="s",
        channel=0,
        start_s=0.9,
        end_s=9.0,
        text="Yes.",
        words=[word],
        voiced=[],
        language="en",
        model="m",
        word_source="attention",
        probability=0.9,
        no_speech_probability=0.0,
        parts=[(0.9, 1.5), (8.0, 9.0)],
    )
    dropped = msgspec.structs.replace(first, channel=1, text="", words=[], parts=msgspec.UNSET, guard="short")
    one, other = heard_by([first, dropped], 2)
    assert one == Heard(text="Yes.", utterances=[(0.9, 1.5), (8.0, 9.0)], words=[("yes", 1.0, 1.3)], unheard=[])
    assert other == Heard(text="", utterances=[(0.9, 9.0)], words=[], unheard=[])


def test_calls_are_chosen_from_the_whole_corpus(tmp_path: Path) -> None:
    [call] = _corpus(tmp_path).calls
    calls = Corpus(tmp_path, [msgspec.structs.replace(call, name=str(n)) for n in range(10)])
    assert [one.name for one in every(calls, 3).calls] == ["0", "3", "6"]
    assert every(calls, None) is calls


def test_an_stm_recording_has_its_lines_in_order(tmp_path: Path) -> None:
    write(tmp_path / "a.wav", [_tone(1.0, 4.0)])
    (tmp_path / "a.stm").write_text("a 1 B 1.5 2.0 there\na 1 A 1.0 1.4 hello\n", encoding="utf-8")
    one = of_stm_file(tmp_path / "a.wav", tmp_path / "a.stm")
    assert one.recordings[0].legs[0].text == "hello there"


def test_other_languages_are_compared_without_case_and_punctuation() -> None:
    assert word_errors("¿En qué puedo ayudarle?", "en qué puedo ayudarle", "es") == Errors(words=4)
    assert word_errors("", "una palabra", "es") == Errors(inserted=2)


def test_digits_and_spelled_letters_count_one_by_one() -> None:
    assert word_errors("four two one eight", "421", "en") == Errors(words=4, deleted=1)
    assert word_errors("K A U F M A N speaking", "K-A-U-F-M-A-N speaking.", "en") == Errors(words=8)
    assert word_errors("K A U F M A N speaking", "Kaufman speaking", "en") == Errors(words=8)
    assert word_errors("it is I, L, E, R", "It's I-L-E", "en") == Errors(words=6, deleted=1)


def test_lines_of_words_are_files_by_language_and_way(tmp_path: Path) -> None:
    clips = [
        Clip(clip_id=f"{language}/{n}", language=language, samples=_tone(0.0, 0.4), text=str(n), kind="digit")
        for language in ("en", "es")
        for n in range(3)
    ]
    sets = word_sets(clips, [], tmp_path)
    assert [(one.name, len(one.lines)) for one in sets][:3] == [
        ("en, alone", 3),
        ("es, alone", 3),
        ("en, one a second", 1),
    ]
    assert all(Path(file).exists() for one in sets for file in one.files)


def test_an_entry_draws_words_and_speakers_by_the_seed() -> None:
    clips = [
        Clip(clip_id=f"{s}{n}", language="en", samples=_tone(0, 0.1), text="one two three", speaker=f"s{s}")
        for s in range(4)
        for n in range(5)
    ]
    chosen = drawn(clips, of_each=7, speakers=2, seed=1)
    assert len(chosen) == 4
    assert len({clip.speaker for clip in chosen}) == 2
    assert [clip.clip_id for clip in chosen] == [clip.clip_id for clip in drawn(clips, 7, 2, 1)]


def test_texts_of_sphinx_are_read_by_file() -> None:
    lines = "<s> ENTER NINE ONE </s> (an417-fjlp-b)\nNO (an416-fjlp-b)\n"
    assert sphinx_texts(lines) == {"an417-fjlp-b": "ENTER NINE ONE", "an416-fjlp-b": "NO"}


def _corpus(folder: Path) -> Corpus:
    words = [TruthWord("hello", 1.0, 1.5), TruthWord("there", 1.5, 2.0)]
    pcm = np.stack([_tone(1.0, 4.0), np.zeros(4 * RATE_HZ, np.int16)], axis=1)
    keep(folder / "call.json", pcm, [TruthLine(0, 1.0, 2.0, "hello there", words)], "clean")
    return Corpus(folder, [msgspec.json.decode((folder / "call.json").read_bytes(), type=Call)])


def _tone(start_s: float, duration_s: float) -> np.ndarray[tuple[int], np.dtype[np.int16]]:
    """Return silence with a second of tone."""
    samples = np.zeros(int(duration_s * RATE_HZ), np.int16)
    part = samples[int(start_s * RATE_HZ) : int((start_s + 1) * RATE_HZ)]
    part[:] = np.round(4000 * np.sin(2 * np.pi * 440 * np.arange(len(part)) / RATE_HZ)).astype(np.int16)
    return samples
