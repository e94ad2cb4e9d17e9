"""Legs with enough speech. In real calls each leg is mostly silent, which makes a transcriber look fast."""

import contextlib
import itertools
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
import soxr
from numpy.typing import NDArray

from stages.separate.files import open_audio_file
from stages.separate.speech import FRAME_S, FRAME_SAMPLES, VAD_RATE_HZ, SpeechState, VoiceActivityModel

MIN_SHARE: Final = 0.4
"""Share of speech in each leg."""
PAUSES_S: Final = (6.0, 4.0, 3.0, 2.0, 1.5, 1.0)
"""Limits to which pauses are shortened, tried in this order until there is enough speech."""
BLOCK_S: Final = 0.2
_VOICED: Final = 0.5

Samples = NDArray[np.int16]


class Leg:
    """A speaker, int16 at 8 kHz, with pauses shortened where necessary. `share` of it is speech."""

    def __init__(self, samples: Samples, model: VoiceActivityModel) -> None:
        frames = samples[: len(samples) // FRAME_SAMPLES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES)
        voiced = model.probabilities(frames, SpeechState())[0] >= _VOICED
        for pause_s in PAUSES_S:
            kept = _kept(voiced, round(pause_s / FRAME_S))
            self.share = float(voiced[kept].mean())
            self.samples: Samples = frames[kept].ravel()
            if self.share >= MIN_SHARE:
                break

    def from_offset(self, offset_s: float, seconds: float) -> Samples:
        """Return a stretch of it; after its end it begins again."""
        n_samples = int(seconds * VAD_RATE_HZ)
        return np.resize(np.roll(self.samples, -int(offset_s * VAD_RATE_HZ)), n_samples)


def _kept(voiced: NDArray[np.bool_], most: int) -> NDArray[np.int64]:
    """Return the indices of the kept frames. Of a longer pause the first and the last half of `most` frames stay."""
    kept: list[int] = []
    at = 0
    for is_voiced, run in itertools.groupby(voiced):
        length = sum(1 for _ in run)
        frames = range(at, at + length)
        if is_voiced or length <= most:
            kept += frames
        else:
            kept += [*frames[: most // 2], *frames[-(most - most // 2) :]]
        at += length
    return np.array(kept)


def legs_of(files: Iterable[Path], model: VoiceActivityModel) -> list[Leg]:
    """Return the legs of all files that have enough speech."""
    legs = []
    for path in files:
        audio = open_audio_file(path)
        with contextlib.closing(audio):
            frames = np.frombuffer(b"".join(audio), "<i2").reshape(-1, audio.channels)
        narrow = soxr.resample(frames, audio.sample_rate_hz, VAD_RATE_HZ)
        legs += [Leg(np.ascontiguousarray(leg), model) for leg in narrow.T]
    return [leg for leg in legs if leg.share >= MIN_SHARE]


def conversations(legs: list[Leg], seconds: float, seed: int) -> Iterator[Samples]:
    """Yield calls without end: int16, shape (n_samples, 2), two legs, each from its own offset."""
    rng = random.Random(seed)
    while True:
        pair = rng.sample(legs, 2)
        yield np.stack([leg.from_offset(rng.uniform(0, len(leg.samples) / VAD_RATE_HZ), seconds) for leg in pair], 1)
