from pipeline.backoff import Backoff


def test_pauses_grow_to_the_last_one_and_begin_again_after_a_success() -> None:
    backoff = Backoff((0.1, 0.5, 2.0))
    assert [backoff.next_s() for _ in range(5)] == [0.1, 0.5, 2.0, 2.0, 2.0]
    assert backoff.failures == 5
    backoff.reset()
    assert backoff.failures == 0
    assert backoff.next_s() == 0.1


async def test_pausing_counts_a_failure() -> None:
    backoff = Backoff((0.0,))
    await backoff.pause()
    assert backoff.failures == 1
