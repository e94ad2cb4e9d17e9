"""Which partitions stand still: records wait there, and the bus delivers none."""

from pipeline.runtime.deliveries import Deliveries

HERE, THERE = ("in", 0), ("in", 1)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def look(deliveries: Deliveries, here: int, *, holds: bool = False, blocked: bool = False) -> int:
    return deliveries.undelivered({HERE: here, THERE: 0}, holding={HERE} if holds else set(), blocked=blocked)


def test_a_partition_that_holds_no_call_delivers_whatever_waits_or_stands_still() -> None:
    clock = Clock()
    deliveries = Deliveries(standstill_s=60, clock=clock)
    deliveries.begin(HERE)
    deliveries.begin(THERE)
    assert look(deliveries, 3) == 3
    clock.now = 61
    assert look(deliveries, 4) == 4
    assert deliveries.standing_still() == [HERE]
    deliveries.delivered(HERE)
    assert deliveries.standing_still() == []


def test_what_a_call_holds_is_delivered_and_what_comes_after_it_is_not() -> None:
    clock = Clock()
    deliveries = Deliveries(standstill_s=60, clock=clock)
    deliveries.begin(HERE)
    for clock.now in (0, 100):
        assert look(deliveries, 5, holds=True) == 0
    assert deliveries.standing_still() == []
    for clock.now, lag, waiting in ((105, 2, 0), (110, 3, 1), (165, 9, 7)):
        assert look(deliveries, lag, holds=True) == waiting
    assert deliveries.standing_still() == []
    clock.now = 171
    assert look(deliveries, 9, holds=True) == 7
    assert deliveries.standing_still() == [HERE]


def test_a_stage_that_takes_nothing_more_blames_no_partition() -> None:
    clock = Clock()
    deliveries = Deliveries(standstill_s=60, clock=clock)
    deliveries.begin(HERE)
    for clock.now in (0, 50, 100):
        assert look(deliveries, 3, blocked=True) == 0
    assert deliveries.standing_still() == []


def test_a_partition_that_is_not_assigned_stands_not_still() -> None:
    clock = Clock()
    deliveries = Deliveries(standstill_s=60, clock=clock)
    deliveries.begin(HERE)
    look(deliveries, 3)
    deliveries.end(HERE)
    deliveries.delivered(HERE)
    clock.now = 100
    assert look(deliveries, 3) == 0
    assert deliveries.standing_still() == []
