import numpy as np

from benchmarks.live.speakers import MIN_SHARE, Leg, conversations
from stages.separate.codecs import Samples
from stages.separate.speech import FRAME_SAMPLES, SpeechState


class LoudIsSpeech:
    """A voice activity model that goes by the level alone."""

    def probabilities(
        self, frames: Samples, state: SpeechState
    ) -> tuple["np.ndarray[tuple[int, ...], np.dtype[np.float32]]", SpeechState]:
        return (np.abs(frames).max(axis=1) > 100).astype(np.float32), state


def bursts(speech: int, pause: int, times: int) -> Samples:
    """So many frames of speech and of pause by turns."""
    one = np.repeat(np.array([1000] * speech + [0] * pause, np.int16), FRAME_SAMPLES)
    return np.tile(one, times)


def test_pauses_are_shortened_until_there_is_speech_enough() -> None:
    leg = Leg(bursts(100, 900, 4), LoudIsSpeech())
    assert leg.share >= MIN_SHARE
    assert np.count_nonzero(leg.samples) == 4 * 100 * FRAME_SAMPLES


def test_a_leg_with_speech_enough_stays_as_it_is() -> None:
    samples = bursts(100, 100, 4)
    assert np.array_equal(Leg(samples, LoudIsSpeech()).samples, samples)


def test_a_seed_repeats_its_conversations_of_two_legs_of_a_length() -> None:
    legs = [Leg(bursts(50 + n, 40, 5), LoudIsSpeech()) for n in range(4)]
    first, again = (next(conversations(legs, 3.0, 7)) for _ in range(2))
    assert first.shape == (24_000, 2)
    assert np.array_equal(first, again)
