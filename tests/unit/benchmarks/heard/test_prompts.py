import numpy as np

from benchmarks.heard.clips import Clip, trimmed
from benchmarks.heard.lines import alone, paced, spaced
from benchmarks.heard.prompts import kind_of, texts
from benchmarks.heard.word_lines import one_a_second
from benchmarks.speech.telephone import RATE_HZ


def test_texts_are_read_without_remarks_and_doubles() -> None:
    lines = "\ufeff; Core Sounds\n\nbeep: [a tone]\njoin: <beep>\ndigits/0: cero\ndigits/0: diez\nletters/at: a [@]\n"
    assert texts(lines) == {"digits/0": "cero", "letters/at": "a"}


def test_kinds_follow_from_the_prompts_name() -> None:
    names = ["digits/4", "digits/40", "letters/a", "letters/at", "phonetic/a_p", "hello"]
    assert [kind_of(name) for name in names] == ["digit", "word", "letter", "word", "phonetic", "word"]


def test_silence_at_the_edges_is_trimmed() -> None:
    burst = _tone(0.5)
    silence = np.zeros(RATE_HZ, np.int16)
    assert len(trimmed(np.concatenate([silence, burst, silence]))) == len(burst) + 2 * 240


def test_a_clip_lies_where_its_line_says() -> None:
    for line in (
        alone(_clip("a")),
        paced("p", [_clip("a"), _clip("b", 1.3)]),
        spaced("s", [_clip("a"), _clip("b")], 2),
    ):
        loud = np.abs(line.samples.astype(int)) > 1000
        for clip in line.clips:
            first, end = int(clip.start_s * RATE_HZ), int(clip.end_s * RATE_HZ)
            assert loud[first + 1 : end].mean() > 0.9
            assert not loud[first - 800 : first].any()
            assert not loud[end + 1 : end + 800].any()


def test_clips_come_one_a_second_by_language_and_kind() -> None:
    clips = [_clip(str(n), kind="digit") for n in range(12)] + [_clip("x", kind="letter")]
    lines = one_a_second(clips)
    assert [[clip.clip_id for clip in line.clips] for line in lines] == [
        [str(n) for n in range(10)],
        ["10", "11"],
        ["x"],
    ]
    starts = [clip.start_s for clip in lines[0].clips]
    assert np.allclose(np.diff(starts), 1.0)


def _clip(name: str, duration_s: float = 0.4, kind: str = "") -> Clip:
    return Clip(clip_id=name, language="en", samples=_tone(duration_s), text=name, kind=kind)


def _tone(duration_s: float) -> np.ndarray[tuple[int], np.dtype[np.int16]]:
    return np.where(np.arange(int(duration_s * RATE_HZ)) % 2 == 0, 9000, -9000).astype(np.int16)
