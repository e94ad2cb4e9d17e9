"""Two channels that carry one voice: dual mono in its forms, and crosstalk between legs."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from benchmarks.heard.clips import Samples
from benchmarks.heard.conditions import pcm
from benchmarks.speech.telephone import RATE_HZ, Float, coded, line_noise

CROSSTALK_DB: Final = (-10.0, -20.0, -30.0, -40.0)

DUAL_MONO: Final[dict[str, tuple[float, float]]] = {
    "same": (1.0, 0.0),
    "inverted": (-1.0, 0.0),
    "later": (1.0, 0.03),
    "softer": (0.4, 0.0),
    "inverted, softer and later": (-0.4, 0.012),
}
"""Factor and delay in seconds of the second channel against the first."""


def dual_mono(legs: Sequence[Samples], form: str, seed: int = 1) -> list[Samples]:
    """Return the mix of both legs on two channels. Each has its own coding and hiss, as after a conversion."""
    factor, delay_s = DUAL_MONO[form]
    mix = np.sum([leg / 32767 for leg in legs], axis=0)
    delay = round(delay_s * RATE_HZ)
    other = np.concatenate([np.zeros(delay), mix[: len(mix) - delay]]) * factor
    return [_on_a_line(one, [seed, number]) for number, one in enumerate((mix, other))]


def mono(legs: Sequence[Samples], seed: int = 1) -> Samples:
    """Return the mix of both legs, as a recording with one channel."""
    return _on_a_line(np.sum([leg / 32767 for leg in legs], axis=0), [seed, 0])


def crosstalk(legs: Sequence[Samples], level_db: float, seed: int = 1) -> list[Samples]:
    """Return legs each of which carries the other `level_db` louder, at the same time."""
    own = [leg / 32767 for leg in legs]
    factor = 10 ** (level_db / 20)
    return [
        _on_a_line(leg + other * factor, [seed, number])
        for number, (leg, other) in enumerate(zip(own, reversed(own), strict=True))
    ]


def _on_a_line(leg: Float, seed: list[int]) -> Samples:
    return coded(pcm(leg + line_noise(len(leg), np.random.default_rng(seed))) / 32767)
