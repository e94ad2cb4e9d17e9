"""Clips: a few words or sentences of one speaker, with the text."""

from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.speech.telephone import RATE_HZ

EDGE_S: Final = 0.03
"""Kept of the silence before the first and after the last sound."""
QUIET_DB: Final = -38.0
"""Below the loudest 10 ms of a clip, by so much, is silence at its edges."""

_FRAME: Final = RATE_HZ // 100

Samples = NDArray[np.int16]


class Clip(msgspec.Struct, frozen=True, kw_only=True):
    """Speech of one person: `samples`, int16, shape (n_samples,), mono, 8 kHz, and the words said.

    `kind` names what sort of text it is, as `digit` or `letter`; `speaker` tells people apart.
    """

    clip_id: str
    language: str
    samples: Samples
    text: str
    kind: str = ""
    speaker: str = ""

    @property
    def duration_s(self) -> float:
        return len(self.samples) / RATE_HZ


def frame_db(samples: Samples) -> NDArray[np.float64]:
    """Return the level of each 10 ms in dB of full scale (root mean square), at least −96."""
    whole = samples[: len(samples) // _FRAME * _FRAME].reshape(-1, _FRAME).astype(np.float64) / 32768
    return np.asarray(10 * np.log10(np.mean(whole**2, axis=1) + 10**-9.6))


def trimmed(samples: Samples) -> Samples:
    """Return the samples without the silence at both edges."""
    levels = frame_db(samples)
    if not len(levels):
        return samples
    loud = np.flatnonzero(levels > levels.max() + QUIET_DB)
    edge = int(EDGE_S * RATE_HZ)
    return samples[max(0, int(loud[0]) * _FRAME - edge) : (int(loud[-1]) + 1) * _FRAME + edge]
