"""Speech that the decoder left out at the end of a row."""

from collections.abc import Sequence

import numpy as np

from schemas.segments import Segment, Word
from stages.transcribe.engine.protocol import Row, Transcription
from stages.transcribe.engine.windows import SAMPLE_RATE_HZ
from stages.transcribe.missed_speech import joined, rest_of
from tests.unit.stages.transcribe.engines import FakeEngine
from tests.unit.stages.transcribe.test_stage import opened, segments, utterance


def row(*voiced: tuple[float, float]) -> Row:
    return Row(audio=np.zeros(12 * SAMPLE_RATE_HZ, np.float32), voiced=list(voiced), language="en", prefix="so far")


def heard(text: str, *, until_s: float, **changes: float | bool) -> Transcription:
    words = text.split()
    step_s = until_s / max(1, len(words))
    values = {"average_logprob": -0.2, "no_speech_probability": 0.1, "repeats": False, **changes}
    return Transcription(
        text=text,
        words=[
            Word(text=word, start_s=index * step_s, end_s=(index + 1) * step_s, probability=0.9)
            for index, word in enumerate(words)
        ],
        language="en",
        **values,  # type: ignore[arg-type]
    )


def test_two_seconds_of_speech_after_the_last_word_are_decoded_again() -> None:
    rest = rest_of(row((0.0, 5.0), (6.0, 11.0)), heard("so far and on", until_s=4.0))
    assert rest is not None
    assert len(rest.audio) == 8 * SAMPLE_RATE_HZ
    assert rest.voiced == [(0.0, 1.0), (2.0, 7.0)]
    assert rest.prefix == ""


def test_a_pause_after_the_last_word_is_no_missed_speech() -> None:
    assert rest_of(row((0.0, 5.0)), heard("so far and on", until_s=4.0)) is None
    assert rest_of(row((0.0, 11.0)), heard("", until_s=4.0)) is None
    assert rest_of(row((0.0, 11.0)), heard("so so so", until_s=4.0, repeats=True)) is None


def test_the_rest_is_appended_to_the_text() -> None:
    rest = row((0.0, 7.0))
    whole = joined(heard("so far", until_s=4.0), rest, heard("and on it goes", until_s=6.0, average_logprob=-0.5))
    assert whole is not None
    assert whole.text == "so far and on it goes"
    assert [word.text for word in whole.words] == whole.text.split()
    assert (whole.words[2].start_s, whole.words[-1].end_s) == (4.0, 10.0)
    assert whole.average_logprob == -0.4


def test_text_that_a_guard_would_drop_is_not_joined() -> None:
    text, rest = heard("so far", until_s=4.0), row((0.0, 7.0))
    assert joined(text, rest, heard("Thank you.", until_s=1.0, no_speech_probability=0.9)) is None
    assert joined(text, rest, heard("la la la", until_s=1.0, repeats=True)) is None
    assert joined(text, rest, Transcription.failed("en", "no memory")) is None


class StoppingEngine(FakeEngine):
    """Writes two words, then stops."""

    def transcribe_batch(self, rows: Sequence[Row]) -> list[Transcription]:
        seconds = [len(one.audio) / SAMPLE_RATE_HZ for one in rows]
        return [heard(f"of {round(length)}", until_s=min(3.0, length)) for length in seconds]


async def test_an_utterance_whose_text_stops_early_is_decoded_to_its_end() -> None:
    (segment,) = await segments([opened("en"), utterance(1, 7, seconds=8.0)], StoppingEngine())
    assert isinstance(segment, Segment)
    assert segment.text == "of 8 of 5"
    assert segment.words[-1].end_s == 16.0
