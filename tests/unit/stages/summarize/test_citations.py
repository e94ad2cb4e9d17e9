"""Labels for a model to cite, and what becomes of labels that were never given out."""

from hypothesis import given
from hypothesis import strategies as st

from stages.summarize.citations import Citations
from tests.unit.stages.summarize.calls import turn

SPOKEN = [
    turn(0, "agent", "Good morning.", segment_ids=["a", "b"]),
    turn(1, "customer", "Hello.", segment_ids=["c"]),
    turn(2, "agent", "Goodbye.", segment_ids=["b", "d"]),
]


def test_the_model_reads_a_line_per_turn_with_label_and_speaker() -> None:
    assert Citations(SPOKEN).transcript() == "[S1] agent: Good morning.\n[S2] customer: Hello.\n[S3] agent: Goodbye."


def test_labels_become_the_segments_of_their_turns_in_the_order_of_the_call() -> None:
    citations = Citations(SPOKEN)
    assert citations.resolve(["S3", "S1"]) == ["a", "b", "d"]
    assert citations.resolve([" [s2] "]) == ["c"]


def test_labels_that_were_not_given_out_are_dropped() -> None:
    assert Citations(SPOKEN).resolve(["S2", "S4", "S0", "c", ""]) == ["c"]


def test_points_without_a_valid_citation_are_dropped_and_counted() -> None:
    kept, dropped = Citations(SPOKEN).checked([("true", ["S1"]), ("made up", ["S9"]), ("no source", []), (" ", ["S1"])])
    assert [point.text for point in kept] == ["true"]
    assert dropped == 3


@given(st.lists(st.tuples(st.text(), st.lists(st.text(max_size=4) | st.sampled_from(["S1", "S2", "S7"])))))
def test_whatever_the_model_cites_only_segments_of_the_call_remain(points: list[tuple[str, list[str]]]) -> None:
    kept, dropped = Citations(SPOKEN).checked(points)
    assert len(kept) + dropped == len(points)
    for point in kept:
        assert point.segment_ids
        assert set(point.segment_ids) <= {"a", "b", "c", "d"}
