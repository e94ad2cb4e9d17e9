from schemas.audio import AudioChunk
from stages.protocol import Event, Origin
from stages.separate.event_order import MAX_HELD_EVENTS, EventOrder, Held, Missing


def offer(order: EventOrder, *seqs: int, n_bytes: int = 1) -> list[int | Missing]:
    """Hold each new event. Return the numbers of the events, and the holes, that are ready."""
    given: list[int | Missing] = []
    for seq in seqs:
        if not order.is_repeat(seq):
            event = Event(seq=seq, event_id=str(seq), origin=Origin("in", 0, seq, b"call"), timestamp_s=0.0)
            order.hold(AudioChunk(data=bytes(n_bytes)), event)
        given += [item.seq if isinstance(item, Held) else item for item in order.ready()]
    return given


def test_events_are_handed_out_in_order_and_once() -> None:
    assert offer(EventOrder(), 0, 2, 2, 1, 0, 4, 3, 1) == [0, 1, 2, 3, 4]


def test_a_hole_is_waited_for_until_it_is_given_up() -> None:
    order = EventOrder()
    assert offer(order, 0, 3, 4) == [0]
    order.give_up_next(160)
    assert offer(order, 6) == [Missing(1, 2, 320), 3, 4]
    assert order.is_late(1)
    assert order.is_late(2)
    assert not order.is_late(3)
    assert not order.is_late(5)


def test_only_so_many_events_and_bytes_are_held() -> None:
    by_number, by_bytes = EventOrder(), EventOrder()
    offer(by_number, 0, *range(2, MAX_HELD_EVENTS + 2))
    assert not by_number.is_full
    offer(by_number, MAX_HELD_EVENTS + 2)
    assert by_number.is_full
    offer(by_bytes, 0, 2, 3, n_bytes=1_900_000)
    assert not by_bytes.is_full
    offer(by_bytes, 4, n_bytes=1_900_000)
    assert by_bytes.is_full


def test_a_replay_repeats_earlier_decisions() -> None:
    order = EventOrder(cursor=3, fresh_from=8, highest=9, missing=[Missing(5, 2, 10)])
    assert not order.is_fresh
    assert offer(order, 9, 3, 4) == [3, 4, Missing(5, 2, 10)]
    assert order.is_late(5)
    assert offer(order, 7) == [7]
    assert order.is_fresh
    assert offer(order, 8) == [8, 9]


def test_a_replay_never_counts_as_full() -> None:
    order = EventOrder(cursor=1, fresh_from=200)
    offer(order, *range(2, 190))
    assert not order.is_full


def test_a_hole_ends_where_the_replay_ends() -> None:
    order = EventOrder(cursor=3, fresh_from=5)
    offer(order, 9)
    order.give_up_next(1)
    assert offer(order) == []
    assert order.missing == [Missing(3, 2, 2)]


def test_held_events_can_be_released() -> None:
    order = EventOrder()
    offer(order, 7, 5)
    assert [held.seq for held in order.release_held()] == [5, 7]
    assert not order.has_held
    assert order.highest == 7
