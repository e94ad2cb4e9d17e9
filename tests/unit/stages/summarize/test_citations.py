"""Labels for a model to cite, and unknown labels."""

from hypothesis import given
from hypothesis import strategies as st

from stages.summarize.citations import Citations, segment_ids
from tests.unit.stages.summarize.calls import turn

SPOKEN = [
    turn(0, "agent", "Good morning.", segment_ids=["a", "b"]),
    turn(1, "customer", "Hello.", segment_ids=["c"]),
    turn(2, "agent", "Goodbye.", segment_ids=["b", "d"]),
]


def test_the_model_reads_a_line_per_turn_with_label_and_speaker() -> None:
    assert Citations(SPOKEN).lines == ["[S1] agent: Good morning.", "[S2] customer: Hello.", "[S3] agent: Goodbye."]
    assert Citations(SPOKEN).speakers == ["agent", "customer"]


def test_labels_become_their_turns_in_the_order_of_the_call() -> None:
    citations = Citations(SPOKEN)
    assert citations.cited(["S3", "S1"]) == [SPOKEN[0], SPOKEN[2]]
    assert citations.cited([" [s2] "]) == [SPOKEN[1]]


def test_turns_become_their_segments_each_once() -> None:
    assert segment_ids([SPOKEN[0], SPOKEN[2]]) == ["a", "b", "d"]


@given(st.lists(st.text(max_size=4) | st.sampled_from(["S1", "S2", "S7"])))
def test_whatever_the_model_cites_only_turns_of_the_call_come_of_it(labels: list[str]) -> None:
    turns = Citations(SPOKEN).cited(labels)
    assert all(turn in SPOKEN for turn in turns)
    assert ("S1" in labels) <= (SPOKEN[0] in turns)
    assert turns or not {"S1", "S2"} & {*labels}
