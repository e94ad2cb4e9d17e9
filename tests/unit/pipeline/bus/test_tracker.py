"""The tracker against a brute-force model: after any interleaving both have the same floor."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from pipeline.bus.tracker import PrefixTracker

steps = st.lists(
    st.one_of(
        st.tuples(st.just("deliver"), st.integers(1, 4)),  # distance from the last one: more than 1 leaves a gap
        st.tuples(st.just("repeat"), st.integers(0, 40)),
        st.tuples(st.just("ack"), st.integers(0, 60)),
    ),
    max_size=120,
)


class Model:
    def __init__(self) -> None:
        self.delivered: list[int] = []
        self.acknowledged: set[int] = set()

    @property
    def floor(self) -> int:
        floor = -1
        for position in self.delivered:
            if position not in self.acknowledged:
                break
            floor = position
        return floor


@given(steps)
def test_the_floor_is_the_last_of_the_unbroken_prefix(script: list[tuple[str, int]]) -> None:
    tracker, model = PrefixTracker(), Model()
    for action, number in script:
        before = model.floor
        if action == "deliver":
            position = (model.delivered[-1] if model.delivered else -1) + number
            model.delivered.append(position)
            assert tracker.deliver(position)
        elif action == "repeat":
            if model.delivered:
                assert not tracker.deliver(min(number, model.delivered[-1]))
        else:
            if number in model.delivered:
                model.acknowledged.add(number)
            risen = tracker.ack(number)
            assert risen == (model.floor if model.floor > before else None)
        assert tracker.floor == model.floor
    for position in [position for position in model.delivered if position not in model.acknowledged]:
        model.acknowledged.add(position)
        assert tracker.ack(position) == model.floor
    assert tracker.floor == (model.delivered[-1] if model.delivered else -1)


@given(st.sets(st.integers(0, 10_000), min_size=1, max_size=60), st.randoms())
def test_acknowledging_everything_in_any_order_raises_the_floor_to_the_end(positions: set[int], random: Random) -> None:
    tracker = PrefixTracker()
    for position in sorted(positions):
        tracker.deliver(position)
    order = sorted(positions)
    random.shuffle(order)
    floors = [floor for position in order if (floor := tracker.ack(position)) is not None]
    assert floors == sorted(floors)
    assert tracker.floor == max(positions)
    assert all(tracker.ack(position) is None for position in positions)


def test_a_held_head_keeps_the_floor_before_it() -> None:
    tracker = PrefixTracker()
    for position in (3, 5, 9):
        tracker.deliver(position)
    assert tracker.ack(5) is None
    assert tracker.ack(9) is None
    assert tracker.floor == -1
    assert tracker.ack(3) == 9


def test_a_repeated_acknowledgement_or_one_never_delivered_does_nothing() -> None:
    tracker = PrefixTracker()
    tracker.deliver(0)
    assert tracker.ack(7) is None
    assert tracker.ack(0) == 0
    assert tracker.ack(0) is None
    assert tracker.floor == 0
