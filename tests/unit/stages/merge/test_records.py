"""A completed transcript as records of bounded size."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.transcripts import ChannelUnheard, TranscriptCompleted, joined
from stages.merge.records import split
from tests.unit.stages.sink.calls import CallScript


def transcript(turns: int, unheard: int) -> TranscriptCompleted:
    script = CallScript("call-1")
    (completed,) = script.completed(script.turns(turns))
    spans = [
        ChannelUnheard(channel=0, start_s=n * 2.0, end_s=n * 2.0 + 0.5, level_dbfs=-30.0, reason="no_words")
        for n in range(unheard)
    ]
    return msgspec.structs.replace(completed, unheard=spans)


@given(st.integers(0, 20), st.integers(0, 60), st.sampled_from([3_000, 5_000, 700_000]))
def test_parts_stay_below_the_limit_and_join_to_the_transcript(turns: int, unheard: int, part_bytes: int) -> None:
    whole = transcript(turns, unheard)
    parts = split(whole, part_bytes=part_bytes)
    assert all(len(msgspec.json.encode(part)) <= part_bytes + len('"turns":[],"unheard":[]') for part in parts)
    assert [part.part for part in parts] == list(range(1, len(parts) + 1))
    assert {part.parts for part in parts} == {len(parts)}
    assert joined(parts) == whole


def test_a_short_transcript_is_one_record() -> None:
    assert split(transcript(4, 4)) == [transcript(4, 4)]


@pytest.mark.parametrize("unheard", [0, 1])
def test_a_call_without_turns_is_a_record(unheard: int) -> None:
    assert len(split(transcript(0, unheard))) == 1
