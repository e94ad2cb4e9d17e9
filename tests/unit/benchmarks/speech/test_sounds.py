import numpy as np
import pytest

from benchmarks.speech.sounds import SECONDS, calls
from benchmarks.speech.telephone import RATE_HZ

MADE = calls(3)


def test_there_is_half_an_hour_of_it_on_both_legs() -> None:
    assert 2 * sum(len(pcm) for pcm in MADE.values()) == 30 * 60 * RATE_HZ
    assert MADE.keys() == SECONDS.keys()


@pytest.mark.parametrize("name", sorted(SECONDS.keys() - {"zeros", "dial tone and beeps"}))
def test_a_sound_is_heard_on_both_legs_unlike_each_other(name: str) -> None:
    left, right = MADE[name].T.astype(float)
    assert np.abs(left).max() > 10
    assert np.abs(right).max() > 10
    if name not in ("ringback", "busy"):
        assert not np.array_equal(left, right)


def test_zeros_are_zeros() -> None:
    assert not MADE["zeros"].any()


def test_the_same_seed_gives_the_same_sounds() -> None:
    assert all(np.array_equal(pcm, MADE[name]) for name, pcm in calls(3).items())
