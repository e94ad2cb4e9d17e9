"""Words that a text holds twice, against the speech under them."""

import pytest

from schemas.segments import Word
from stages.transcribe.engine.repetitions import believed, repeated, without_unspoken

Times = tuple[tuple[float, float], ...]


def words_of(text: str, times: Times, interpolated: tuple[int, ...] = ()) -> list[Word]:
    return [
        Word(text=word, start_s=start_s, end_s=end_s, probability=0.9, interpolated=index in interpolated)
        for index, (word, (start_s, end_s)) in enumerate(zip(text.split(), times, strict=True))
    ]


@pytest.mark.parametrize(
    ("text", "copies"),
    [
        ("", []),
        ("I want to pay my bill.", []),
        ("4, 7, 4, 7", [["4, 7", "4, 7"]]),
        ("No, no. NO!", [["No", "no", "NO"]]),
        ("4 4 7 7 One.", [["4", "4"], ["7", "7"]]),
        ("Hold time. Hold time.", [["Hold time", "Hold time"]]),
        ("Don't, don't go.", [["Don't", "don't"]]),
        ("x-ray x-ray", [["x-ray", "x-ray"]]),
        ("9-9-1", [["9", "9"]]),
        ("4 9 2 5 0 7 4 9 2 5 0 7", [["4 9 2 5 0 7", "4 9 2 5 0 7"]]),
    ],
)
def test_words_that_follow_at_once_again_are_found(text: str, copies: list[list[str]]) -> None:
    assert [[text[start:end] for start, end in group] for group in repeated(text, spaced=True)] == copies


def test_in_text_without_spaces_a_doubled_character_is_a_word() -> None:
    assert repeated("谢谢。", spaced=False) == []
    assert repeated("你好，你好。", spaced=False) == [[(0, 2), (3, 5)]]


# Word times and voiced stretches as Whisper base gave them, with short windows, for prompts of a telephone system.


@pytest.mark.parametrize(
    ("text", "times", "voiced"),
    [
        ("p p", ((0.288, 0.57), (0.57, 0.75)), [(0.288, 0.752)]),
        ("one one", ((0.288, 0.57), (0.57, 0.848)), [(0.288, 0.848)]),
        ("Folder 7 Folder 7", ((0.288, 0.6), (0.6, 0.84), (0.84, 1.2), (1.2, 1.392)), [(0.288, 1.392)]),
        ("5, 5, 5, 5", ((0.288, 0.63), (0.91, 1.29), (1.61, 1.81), (1.81, 2.15)), [(0.288, 2.192)]),
    ],
)
def test_copies_that_share_the_speech_of_one_are_in_doubt(
    text: str, times: Times, voiced: list[tuple[float, float]]
) -> None:
    assert not believed(text, words_of(text, times), voiced, spaced=True)


@pytest.mark.parametrize(
    ("text", "times", "voiced"),
    [
        ("0, 0, 1", ((0.288, 0.73), (1.13, 1.51), (1.93, 2.25)), [(0.288, 2.512)]),
        ("No, no, no", ((0.288, 0.71), (0.89, 1.41), (1.51, 2.05)), [(0.288, 2.192)]),
        ("Lima, Lima", ((0.288, 0.77), (1.312, 1.73)), [(0.288, 0.976), (1.28, 1.936)]),
        ("Good bye, good bye", ((0.288, 0.59), (0.59, 1.03), (1.13, 1.47), (1.47, 1.91)), [(0.288, 1.968)]),
        ("no no", ((0.3, 0.5), (0.8, 1.0)), [(0.3, 0.5), (0.8, 1.0)]),
    ],
)
def test_copies_with_speech_of_their_own_are_believed(
    text: str, times: Times, voiced: list[tuple[float, float]]
) -> None:
    assert believed(text, words_of(text, times), voiced, spaced=True)
    assert without_unspoken(text, words_of(text, times), voiced, spaced=True)[0] == text


def test_copies_inside_known_text_are_not_doubted() -> None:
    words = words_of("no no I did", ((0.3, 0.5), (0.5, 0.6), (0.6, 0.7), (0.7, 1.2)))
    assert believed("no no I did", words, [(0.3, 1.2)], prefix="no no", spaced=True)
    assert not believed("no no I did", words, [(0.3, 1.2)], prefix="no", spaced=True)


def test_a_copy_without_speech_is_taken_out() -> None:
    text = "4 9 2, 4 9 2."
    words = words_of(text, ((0.3, 0.7), (0.7, 1.5), (1.5, 3.6), (3.6, 3.8), (3.8, 4.0), (4.0, 4.4)), (3, 4, 5))
    kept, left = without_unspoken(text, words, [(0.3, 4.4)], spaced=True)
    assert kept == "4 9 2."
    assert [(word.text, word.start_s, word.end_s) for word in left] == [
        ("4", 0.3, 0.7),
        ("9", 0.7, 1.5),
        ("2.", 1.5, 4.4),
    ]


def test_known_text_stays_whatever_the_audio_holds() -> None:
    words = words_of("no, no, no, no", ((0.3, 0.5), (0.5, 0.52), (0.52, 0.54), (0.54, 0.56)))
    kept, left = without_unspoken("no, no, no, no", words, [(0.3, 0.56)], prefix="no, no,", spaced=True)
    assert (kept, [word.text for word in left]) == ("no, no,", ["no,", "no,"])


def test_only_the_copies_without_speech_are_taken_out() -> None:
    words = words_of("Press, press, press now", ((0.3, 0.9), (0.9, 1.5), (1.5, 1.52), (1.52, 2.0)))
    kept, left = without_unspoken("Press, press, press now", words, [(0.3, 2.0)], spaced=True)
    assert (kept, [word.text for word in left]) == ("Press, press now", ["Press,", "press", "now"])


def test_words_that_a_hyphen_joins_are_taken_apart() -> None:
    words = [Word(text="9-9-1", start_s=0.3, end_s=0.42, probability=0.9)]
    kept, [word] = without_unspoken("9-9-1", words, [(0.3, 0.42)], spaced=True)
    assert kept == word.text == "9-1"


def test_quick_copies_stay_if_there_is_speech_under_them() -> None:
    words = words_of("that that is", ((0.3, 0.42), (0.42, 0.55), (0.55, 0.9)))
    assert without_unspoken("that that is", words, [(0.3, 0.9)], spaced=True) == ("that that is", words)
