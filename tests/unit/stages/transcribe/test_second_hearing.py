"""Speech that the first text of a row leaves out is heard again."""

from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from schemas.segments import Word
from stages.transcribe.coverage import MIN_UNHEARD_MS, coverage
from stages.transcribe.engine.protocol import Row, Transcription
from stages.transcribe.engine.windows import SAMPLE_RATE_HZ
from stages.transcribe.second_hearing import MAX_ROWS, Heard, hear_whole

Timed = tuple[str, float, float]


def row(*voiced: tuple[float, float], seconds: float = 12.0, prefix: str = "") -> Row:
    """Return a row whose samples count up, so that a piece of it shows where it was cut out."""
    audio = np.arange(int(seconds * SAMPLE_RATE_HZ), dtype=np.float32)
    return Row(audio=audio, voiced=list(voiced), language="en", prefix=prefix)


def heard(*words: Timed, **changes: float | bool | str | None) -> Transcription:
    values = {"average_logprob": -0.2, "no_speech_probability": 0.1, "language": "en", **changes}
    return Transcription(
        text=" ".join(text for text, _, _ in words),
        words=[Word(text=text, start_s=start, end_s=end, probability=0.9) for text, start, end in words],
        **values,  # type: ignore[arg-type]
    )


def spoken(text: str, start_s: float, *, word_s: float = 0.4) -> list[Timed]:
    return [(word, start_s + n * word_s, start_s + (n + 1) * word_s) for n, word in enumerate(text.split())]


class Decoder:
    """Answers rows in turn, with times from the start of the whole row. Keeps the rows, and where each began."""

    def __init__(self, *answers: Transcription) -> None:
        self._answers = list(answers)
        self.rows: list[Row] = []

    async def __call__(self, asked: Row) -> Transcription:
        self.rows.append(asked)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        shifted = [
            Word(text=w.text, start_s=w.start_s - self.began_s, end_s=w.end_s - self.began_s, probability=w.probability)
            for w in answer.words
        ]
        return Transcription(
            text=answer.text,
            words=shifted,
            language=answer.language,
            average_logprob=answer.average_logprob,
            no_speech_probability=answer.no_speech_probability,
            repeats=answer.repeats,
            error=answer.error,
        )

    @property
    def began_s(self) -> float:
        return float(self.rows[-1].audio[0]) / SAMPLE_RATE_HZ


async def hear(asked: Row, *answers: Transcription) -> tuple[Heard, Decoder]:
    decoder = Decoder(*answers)
    return await hear_whole(asked, decoder), decoder


def times_of(found: Heard) -> list[Timed]:
    return [(word.text, word.start_s, word.end_s) for word in found.transcription.words]


async def test_a_row_whose_words_account_for_its_speech_is_decoded_once() -> None:
    found, decoder = await hear(row((0.0, 2.0)), heard(*spoken("how are you today my friend", 0.0, word_s=0.33)))
    assert (found.rows, found.unheard, len(decoder.rows)) == (0, [], 1)


async def test_the_first_utterance_of_a_pack_that_the_decoder_left_out_is_put_before_the_rest() -> None:
    second = spoken("of course I can", 6.0)
    first = spoken("hi there you have reached us what can I do", 0.2)
    found, decoder = await hear(row((0.2, 4.6), (6.0, 7.6)), heard(*second), heard(*first))
    assert found.transcription.text == "hi there you have reached us what can I do of course I can"
    assert [word for word, _, _ in times_of(found)] == found.transcription.text.split()
    assert [start for _, start, _ in times_of(found)] == sorted(start for _, start, _ in times_of(found))
    assert (found.rows, found.unheard) == (1, [])
    again = decoder.rows[1]
    assert again.full_window
    assert (again.prefix, again.language) == ("", "en")
    assert (decoder.began_s, len(again.audio) / SAMPLE_RATE_HZ) == (0.1, 4.7), "the silence around it comes along"
    assert again.voiced == [(0.1, 4.5)]


async def test_letters_that_a_word_was_measured_over_are_put_before_it() -> None:
    first = [*spoken("my last name is Carter", 0.3), ("this", 3.0, 8.3), *spoken("one was a", 8.3)]
    voiced = [(0.3, 2.5), (3.0, 4.0), (4.6, 5.4), (6.0, 7.2), (7.8, 10.0)]
    found, decoder = await hear(row(*voiced), heard(*first), heard(("C-A-R-T", 3.1, 5.3), ("E-R.", 6.1, 7.0)))
    assert found.transcription.text == "my last name is Carter C-A-R-T E-R. this one was a"
    assert (decoder.began_s, found.rows, found.unheard) == (2.8, 1, [])
    words = {text: (start, end) for text, start, end in times_of(found)}
    assert words["this"] == (7.0, 8.3)


async def test_a_word_that_is_heard_again_in_its_stretch_is_not_doubled() -> None:
    first = [("hello", 0.0, 5.0), *spoken("this is Ann", 5.5)]
    found, _ = await hear(row((0.0, 2.5), (3.0, 5.0), (5.5, 6.7)), heard(*first), heard(*spoken("I said hello", 3.2)))
    assert found.transcription.text == "I said hello this is Ann"


async def test_a_word_measured_beside_the_stretch_it_was_said_in_is_moved_not_doubled() -> None:
    """Both digits have times in the first stretch; the second stretch gives the second digit."""
    first = [("four", 0.0, 0.3), ("seven", 0.3, 0.5)]
    found, _ = await hear(row((0.0, 0.5), (1.2, 1.7)), heard(*first), heard(("Seven.", 1.25, 1.6)))
    assert times_of(found) == [("four", 0.0, 0.3), ("Seven.", 1.25, 1.6)]


async def test_a_word_that_the_speech_holds_twice_is_written_twice() -> None:
    found, _ = await hear(row((0.0, 0.5), (1.2, 1.7)), heard(("seven", 0.0, 0.5)), heard(("Seven.", 1.25, 1.6)))
    assert [text for text, _, _ in times_of(found)] == ["seven", "Seven."]


async def test_sounds_of_a_neighbour_at_the_edge_of_a_stretch_are_left_out() -> None:
    first = [*spoken("so I said", 0.0), *spoken("to him today", 4.0)]
    again = [*spoken("said what I think", 0.9), *spoken("of it to", 2.6)]
    found, _ = await hear(row((0.0, 5.2)), heard(*first), heard(*again))
    assert found.transcription.text == "so I said what I think of it to him today"


async def test_a_decoder_that_stops_early_again_is_asked_for_the_rest() -> None:
    answers = [heard(*spoken(f"part {n} of it", 2.5 * n, word_s=0.55)) for n in range(4)]
    found, decoder = await hear(row((0.0, 9.2)), *answers)
    assert found.transcription.text == "part 0 of it part 1 of it part 2 of it part 3 of it"
    assert (found.rows, found.unheard) == (3, [])
    assert [round(float(one.audio[0]) / SAMPLE_RATE_HZ, 2) for one in decoder.rows] == [0.0, 2.2, 4.7, 7.2]


async def test_speech_that_gives_nothing_is_unheard_with_the_reason() -> None:
    reasons = {
        "no_words": heard(),
        "no_speech": heard(*spoken("thank you", 3.0), no_speech_probability=0.9),
        "low_probability": heard(*spoken("that is mine", 3.0), average_logprob=-0.9),
        "repeat": heard(*spoken("la la la", 3.0), repeats=True),
        "error": heard(error="no memory"),
    }
    for reason, answer in reasons.items():
        found, _ = await hear(row((0.0, 1.2), (3.0, 4.0)), heard(*spoken("so it is", 0.0)), answer)
        assert found.unheard == [((3000, 4000), reason)]
        assert found.transcription.text == "so it is"


async def test_a_long_stretch_is_tried_a_second_time_with_the_words_before_it() -> None:
    first = heard(*spoken("so it is", 0.0))
    whole = heard(*spoken("so it is", 0.0), *spoken("what I told you", 2.0, word_s=0.5))
    found, decoder = await hear(row((0.0, 1.2), (2.0, 4.1)), first, heard(), whole)
    assert decoder.rows[2].prefix == "so it is"
    assert found.transcription.text == "so it is what I told you"
    assert (found.rows, found.unheard) == (2, [])


async def test_what_is_decoded_again_is_limited_and_the_rest_says_so() -> None:
    voiced = [(3.0 * n, 3.0 * n + 1.0) for n in range(8)]
    found, decoder = await hear(row(*voiced, seconds=24), heard(("yes", 0.0, 1.0)), heard())
    assert len(decoder.rows) == 1 + MAX_ROWS
    assert found.rows == MAX_ROWS
    assert [reason for _, reason in found.unheard] == ["no_words"] * MAX_ROWS + ["limit"] * 3


async def test_known_text_does_not_change_and_what_is_found_inside_it_stays_apart() -> None:
    first = heard(*spoken("so far", 0.0), *spoken("and on", 5.0), *spoken("it goes", 5.8))
    asked = row((0.0, 0.8), (2.0, 4.0), (5.0, 6.6), prefix="so far and on")
    found, decoder = await hear(asked, first, heard(*spoken("we all have come this way", 2.1, word_s=0.3)))
    assert decoder.rows[1].prefix == ""
    assert found.transcription == first
    assert [one.text for one in found.apart] == ["we all have come this way"]
    assert [word.start_s for word in found.apart[0].words] == [2.1, 2.4, 2.7, 3.0, 3.3, 3.6]
    assert (found.rows, found.unheard) == (1, [])
    nothing, decoder = await hear(asked, first, heard())
    assert (nothing.unheard, nothing.apart, len(decoder.rows)) == ([((2000, 4000), "no_words")], [], 2)


async def test_text_that_a_guard_drops_is_not_worth_a_second_hearing() -> None:
    found, decoder = await hear(row((0.0, 4.0)), heard(*spoken("thank you", 0.0), no_speech_probability=0.95))
    assert len(decoder.rows) == 1
    assert found.unheard == [((1050, 4000), "no_speech")]


async def test_only_an_utterances_own_part_of_a_row_counts() -> None:
    decoder = Decoder(heard(*spoken("so it is", 1.0)), heard())
    found = await hear_whole(row((0.0, 0.6), (1.0, 2.2), (3.0, 3.8)), decoder, own=(1000, 2300))
    assert (found.rows, found.unheard) == (0, [])


@st.composite
def speech(draw: st.DrawFn) -> tuple[list[tuple[float, float]], list[Timed], list[list[Timed]]]:
    """Return stretches of a row, the words of a first text, and those of later hearings: any, at any place."""
    clock, voiced = 0, []
    for _ in range(draw(st.integers(1, 5))):
        start = clock + draw(st.integers(100, 1_500))
        clock = start + draw(st.integers(100, 3_000))
        voiced.append((start / 1000, clock / 1000))

    def words() -> list[Timed]:
        at, made = 0, []
        for text in draw(st.lists(st.sampled_from(["yes", "no", "four", "L-L"]), max_size=8)):
            at += draw(st.integers(0, 1_200))
            end = at + draw(st.integers(10, 2_500))
            made.append((text, at / 1000, end / 1000))
            at = end
        return made

    return voiced, words(), [words() for _ in range(MAX_ROWS)]


@given(speech())
async def test_whatever_is_heard_words_rise_and_all_speech_is_worded_or_unheard(
    case: tuple[list[tuple[float, float]], list[Timed], list[list[Timed]]],
) -> None:
    voiced, first, later = case
    asked = row(*voiced, seconds=25)
    found, decoder = await hear(asked, heard(*first), *(heard(*words) for words in later))
    words = found.transcription.words
    assert found.transcription.text.split() == [word.text for word in words]
    starts = [word.start_s for word in words]
    assert starts == sorted(starts)
    assert all(word.end_s >= word.start_s for word in words)
    assert len(decoder.rows) <= 1 + MAX_ROWS
    left = coverage(asked.voiced, words).unheard
    assert [span for span, _ in found.unheard] == left
    assert all(end - start >= MIN_UNHEARD_MS for start, end in left)
    assert_kept(first, found, len(decoder.rows))


def assert_kept(first: Sequence[Timed], found: Heard, n_rows: int) -> None:
    """No kind of word of the first text is lost: one that was moved was heard again."""
    if n_rows == 1:
        assert [text for text, _, _ in first] == [word.text for word in found.transcription.words]
    assert {text for text, _, _ in first} <= {word.text for word in found.transcription.words}
