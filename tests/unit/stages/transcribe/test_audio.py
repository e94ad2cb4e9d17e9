"""A packed utterance: times in the call, in its audio and back."""

import pytest

from schemas.segments import Word
from schemas.utterances import Part, Utterance
from stages.transcribe import audio
from stages.transcribe.audio import PackedTimes
from tests.unit.stages.transcribe.records import CALL

RATE_HZ = 8_000

PACK = Utterance(
    call=CALL,
    seq=1,
    channel=0,
    first_sample=10 * RATE_HZ,
    sample_rate_hz=RATE_HZ,
    pcm=b"\1\0" * (2 * RATE_HZ) + b"\2\0" * (3 * RATE_HZ) + b"\3\0" * RATE_HZ,
    voiced=[(10.3, 11.7), (20.3, 21.0), (21.5, 22.7), (30.3, 30.7)],
    cut="pause",
    parts=[Part(10 * RATE_HZ, 2 * RATE_HZ), Part(20 * RATE_HZ, 3 * RATE_HZ), Part(30 * RATE_HZ, RATE_HZ)],
)


def word(start_s: float, end_s: float) -> Word:
    return Word(text="word", start_s=start_s, end_s=end_s, probability=0.9)


def timed(start_s: float, end_s: float) -> tuple[float, float]:
    (found,) = PackedTimes(PACK).timed([word(start_s, end_s)])
    return found.start_s, found.end_s


def test_the_speech_of_each_part_follows_the_parts_before_it() -> None:
    spans = audio.voiced_from(PACK, PACK.start_s)
    assert [time_s for span in spans for time_s in span] == pytest.approx([0.3, 1.7, 2.3, 3.0, 3.5, 4.7, 5.3, 5.7])
    assert len(audio.audio_from(PACK, PACK.start_s)) == 6 * 16_000


@pytest.mark.parametrize(
    ("in_audio", "in_call"),
    [
        ((0.5, 1.0), (10.5, 11.0)),
        ((2.5, 2.9), (20.5, 20.9)),
        ((5.4, 5.6), (30.4, 30.6)),
        ((1.5, 2.32), (11.5, 11.7)),
        ((0.4, 2.6), (20.3, 20.6)),
        ((4.6, 5.2), (22.6, 22.7)),
        ((1.8, 1.95), (11.8, 11.95)),
        ((5.9, 6.0), (30.9, 31.0)),
    ],
    ids=["first", "second", "third", "into a pause", "out of a pause", "before speech", "in a pause", "at the end"],
)
def test_a_word_lies_in_the_part_whose_speech_it_reaches_last(
    in_audio: tuple[float, float], in_call: tuple[float, float]
) -> None:
    assert timed(*in_audio) == pytest.approx(in_call, abs=0.001)


def test_the_times_of_an_utterance_in_one_piece_are_only_shifted() -> None:
    (alone, *_) = audio.parts(PACK)
    (found,) = PackedTimes(alone).timed([word(0.1, 1.9)])
    assert (found.start_s, found.end_s) == (10.1, 11.9)


def test_each_part_is_an_utterance_of_its_own() -> None:
    apart = audio.parts(PACK)
    assert [(part.start_s, part.end_s, part.pcm[0]) for part in apart] == [(10, 12, 1), (20, 23, 2), (30, 31, 3)]
    assert [part.voiced for part in apart] == [[(10.3, 11.7)], [(20.3, 21.0), (21.5, 22.7)], [(30.3, 30.7)]]
    assert audio.parts(apart[1]) == [apart[1]]
