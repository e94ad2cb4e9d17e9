"""An utterance's audio as the engine takes it."""

from typing import Final

import numpy as np

from schemas.utterances import InterimUtterance, Utterance
from stages.transcribe.engine import Audio
from stages.transcribe.windows import SAMPLE_RATE_HZ

_FULL_SCALE: Final = 32768.0


def begin_s(utterance: Utterance | InterimUtterance) -> float:
    """Where its speech begins, in seconds from the call's start; all versions of an utterance have the same."""
    return utterance.voiced[0][0] if utterance.voiced else utterance.start_s


def voiced_s(utterance: Utterance | InterimUtterance) -> float:
    """Seconds of speech."""
    return min(sum(end - start for start, end in utterance.voiced), utterance.end_s - utterance.start_s)


def voiced(utterance: Utterance | InterimUtterance) -> list[tuple[float, float]]:
    """The stretches of speech in seconds from the utterance's start."""
    start_s = utterance.start_s
    return [(max(0.0, start - start_s), end - start_s) for start, end in utterance.voiced]


def audio(utterance: Utterance | InterimUtterance) -> Audio:
    """float32 in [-1, 1), shape (n_samples,), 16 kHz."""
    import soxr

    whole = len(utterance.pcm) // 2
    samples = np.frombuffer(utterance.pcm, "<i2", count=whole).astype(np.float32) / np.float32(_FULL_SCALE)
    if utterance.sample_rate_hz == SAMPLE_RATE_HZ:
        return samples
    resampled: Audio = soxr.resample(samples, utterance.sample_rate_hz, SAMPLE_RATE_HZ, quality="HQ")
    return resampled
