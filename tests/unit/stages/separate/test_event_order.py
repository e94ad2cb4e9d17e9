from schemas.audio import AudioChunk, AudioEvent, CallStarted
from schemas.event_numbers import event_number
from stages.protocol import Event, Origin, Waiting
from stages.separate.event_order import MAX_REMEMBERED, EventOrder, Held, Missing

START = CallStarted(encoding="mulaw", sample_rate_hz=8000, channels=1)
LIMITLESS = 10**18


def offer(order: EventOrder, *seqs: int, n_bytes: int = 1, at_s: float = 0.0) -> list[int | Missing]:
    """Hold each new event. Return the numbers of the events, and the holes, that are ready."""
    given: list[int | Missing] = []
    for seq in seqs:
        if not order.is_had(seq):
            event = Event(seq=seq, event_id=str(seq), origin=Origin("in", 0, seq, b"call"), timestamp_s=at_s)
            is_start = seq == event_number(1, 0)
            record: AudioEvent = START if is_start else AudioChunk(data=bytes(n_bytes))
            order.hold(record, event)
        given += drain(order)
    return given


def drain(order: EventOrder) -> list[int | Missing]:
    return [item.seq if isinstance(item, Held) else item for item in order.ready()]


def test_events_are_handed_out_in_order_and_once() -> None:
    assert offer(EventOrder(), 0, 2, 2, 1, 0, 4, 3, 1) == [0, 1, 2, 3, 4]


def test_a_hole_is_waited_for_until_it_is_given_up() -> None:
    order = EventOrder()
    assert offer(order, 0, 3, 4) == [0]
    order.give_up_next(160, LIMITLESS)
    assert offer(order, 6) == [Missing(1, 2, 320), 3, 4]
    assert order.is_late(1)
    assert order.is_late(2)
    assert not order.is_late(3)
    assert not order.is_late(5)


def test_only_so_many_bytes_are_held() -> None:
    order = EventOrder()
    offer(order, 0, 2, 3, n_bytes=1_900_000)
    assert not order.is_full
    offer(order, 4, n_bytes=1_900_000)
    assert order.is_full


def test_many_small_events_are_held_for_as_long_as_they_take_little_memory() -> None:
    order = EventOrder()
    offer(order, 0, *range(2, 4_002), n_bytes=320)
    assert not order.is_full
    offer(order, *range(4_002, 12_002), n_bytes=0)
    assert order.is_full


def test_waiting_is_over_by_the_bus_time_since_the_first_later_event() -> None:
    order = EventOrder()
    offer(order, 0, at_s=100.0)
    assert not order.is_overdue(1e9, 10.0)
    offer(order, 2, at_s=101.0)
    offer(order, 4, at_s=105.0)
    assert not order.is_overdue(110.9, 10.0)
    assert order.is_overdue(111.0, 10.0)
    assert offer(order, 1, at_s=111.0) == [1, 2]
    assert not order.is_overdue(114.9, 10.0)
    assert order.is_overdue(115.0, 10.0)


def test_it_tells_what_it_waits_for_and_how_far_it_has_come() -> None:
    order = EventOrder()
    offer(order, 0, 1)
    assert order.waiting is None
    offer(order, 5, 3)
    assert order.waiting == Waiting(2, 6)
    assert order.is_missing_below(4)
    assert not order.is_missing_below(3)


def test_silence_for_a_hole_is_limited_and_its_events_are_not() -> None:
    order = EventOrder()
    offer(order, 0, 2**31 - 1)
    order.give_up_next(160, 8_000)
    assert drain(order) == [Missing(1, 2**31 - 2, 8_000), 2**31 - 1]


def test_the_start_of_a_later_epoch_follows_at_once() -> None:
    order, epoch = EventOrder(), event_number(1, 0)
    assert offer(order, 0, 1, epoch, epoch + 1) == [0, 1, Missing(2, epoch - 2, 0), epoch, epoch + 1]
    assert order.missing[0].is_restart
    assert order.is_late(2)
    assert not order.is_late(epoch + 2)


def test_an_epoch_whose_start_comes_first_waits_for_the_hole_before_it() -> None:
    order, epoch = EventOrder(), event_number(1, 0)
    assert offer(order, 0, 2, epoch + 1, epoch) == [0]
    assert offer(order, 1) == [1, 2, Missing(3, epoch - 3, 0), epoch, epoch + 1]


def test_a_call_may_begin_in_any_epoch() -> None:
    order, epoch = EventOrder(), event_number(1, 0)
    assert offer(order, epoch + 1, epoch) == [epoch, epoch + 1]
    assert order.missing == []


def test_an_epoch_whose_start_is_lost_is_used_all_the_same() -> None:
    order, epoch = EventOrder(), event_number(1, 0)
    offer(order, 0, epoch + 1)
    order.give_up_next(160, LIMITLESS)
    assert drain(order) == [Missing(1, epoch, 0), epoch + 1]


def test_holes_are_forgotten_but_for_those_that_a_replay_needs() -> None:
    order = EventOrder()
    for seq in range(0, 2 * MAX_REMEMBERED + 200, 2):
        offer(order, seq)
        order.give_up_next(1, LIMITLESS)
        drain(order)
    order.forget_missing(below=20)
    assert order.missing[0].first_seq == 21
    order.forget_missing(below=2 * MAX_REMEMBERED)
    assert len(order.missing) == MAX_REMEMBERED


def test_an_event_is_proved_by_its_content_while_it_is_held_and_after() -> None:
    order = EventOrder()
    offer(order, 0, 1, n_bytes=5)
    offer(order, 3, n_bytes=6)
    assert order.proof(0) == order.proof(1) is not None
    assert order.proof(3) not in (None, order.proof(0))
    assert order.proof(2) is None


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
    offer(order, *range(2, 190), n_bytes=50_000)
    assert not order.is_full
    assert not order.is_overdue(1e9, 10.0)
    assert order.waiting is None


def test_a_hole_ends_where_the_replay_ends() -> None:
    order = EventOrder(cursor=3, fresh_from=5)
    offer(order, 9)
    order.give_up_next(1, LIMITLESS)
    assert order.missing == [Missing(3, 2, 2)]


def test_held_events_can_be_released() -> None:
    order = EventOrder()
    offer(order, 7, 5)
    assert [held.seq for held in order.release_held()] == [5, 7]
    assert not order.has_held
    assert order.highest == 7
