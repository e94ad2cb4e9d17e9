"""The checkpoint of a call: exact and small."""

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.segments import Word
from schemas.transcripts import Turn
from schemas.utterances import Gap
from stages.merge.state import MergeState, pack, rounded, unpack
from tests.unit.stages.merge.scripted import CALL, opened

words = st.builds(
    Word,
    text=st.text(max_size=8),
    start_s=st.floats(-10.0, 1e6),
    end_s=st.floats(-10.0, 1e6),
    probability=st.floats(0.0, 1.0),
    interpolated=st.booleans(),
).map(rounded)


def turn(number: int, spoken: list[Word]) -> Turn:
    return Turn(
        tenant=CALL.tenant,
        call_id=CALL.call_id,
        turn_id=str(number),
        revision=1,
        speaker="agent",
        channel=0,
        start_s=number / 3,
        end_s=number / 3 + 1,
        text=" ".join(word.text for word in spoken),
        words=spoken,
        segment_ids=[str(number)],
        language="en",
    )


@given(st.lists(st.lists(words, max_size=6), max_size=6))
def test_a_state_comes_back_as_it_was(spoken: list[list[Word]]) -> None:
    state = MergeState(
        opened=opened("agent", "customer"),
        last_input_seq=7,
        next_output_seq=3,
        revision=2,
        complete=True,
        watermarks_s=[1 / 3, 2.5],
        turns=[turn(number, said) for number, said in enumerate(spoken)],
        voiced=[[(0.1, 0.7)], []],
        segments=4,
        words=sum(map(len, spoken)),
        empty=1,
        guards={"short": 1},
        languages={"en": 5},
    )
    gaps = [Gap(start_s=1.0, end_s=2.5, events=0)]
    assert unpack(pack(state)) == (state, [])
    assert unpack(pack(state, gaps)) == (state, gaps)


def test_bytes_that_are_no_state_are_refused() -> None:
    with pytest.raises(zlib.error):
        unpack(b"not a state")
