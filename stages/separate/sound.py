"""What a frame sounds like: its level, and whether it can be a voice. A function of the samples alone.

The model is not asked. It calls whole excited sentences noise on some lines, so what is loud and has the look of speech
counts as speech even where the model hears none. Two measures of the spectrum from 200 to 3650 Hz, over 64 ms:

- `spread`: the share of the spectrum that is filled, 1 for equal amplitudes in all bins. Noise has 0.6 to 0.9, breath
  and traffic 0.6 to 0.7, clicks from 0.7, one or two tones 0.03. 90 % of the loud frames of speech lie between 0.06 and
  0.5, half below 0.16.
- `likeness` to the spectrum three frames before. Tones and held notes have 0.99 to 1, noise 0.8; half of the loud
  frames of speech have less than 0.45, 90 % less than 0.8.
"""

from math import log10
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stages.separate.codecs import Samples

HISTORY_FRAMES: Final = 4
"""Frames before the first one that the measures need."""

_FRAME: Final = 256
_WINDOW: Final = 2 * _FRAME
_BINS: Final = slice(13, 234)
_HANN: Final = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_WINDOW) / _WINDOW)
_FULL_SCALE: Final = 32768.0**2 * float(np.sum(_HANN**2)) * _WINDOW / 2
_SILENCE: Final = 1e-11
_APART: Final = 3

_NOISE_SPREAD: Final = 0.5
_LINE_SPREAD: Final = 0.05
_HELD_LIKENESS: Final = 0.85


class Sound(NamedTuple):
    """Per frame: its level in the band in dB of full scale; whether it may be a voice; whether it is a tone or held."""

    level_db: list[float]
    voice_like: list[bool]
    steady: list[bool]


def sounds_of(samples: Samples) -> Sound:
    """Describe the frames in `samples`, int16 at 8 kHz, that follow the first `HISTORY_FRAMES` of 256 samples.

    No bit depends on how many frames are described at a time: all sums run along one frame.
    """
    windows = np.lib.stride_tricks.sliding_window_view(samples, _WINDOW)[::_FRAME]
    spectrum = np.fft.rfft(windows * _HANN, axis=1)[:, _BINS]
    power = spectrum.real**2 + spectrum.imag**2
    energy = power.sum(axis=1) + _SILENCE * _FULL_SCALE
    amplitude = np.sqrt(power)
    spread = np.square(amplitude.sum(axis=1)) / (power.shape[1] * energy)
    filled = spread[_APART:]
    steady = (_likeness(amplitude, energy) >= _HELD_LIKENESS) | (filled < _LINE_SPREAD)
    voice_like = (filled < _NOISE_SPREAD) & ~steady
    return Sound([_decibels(one) for one in energy[_APART:].tolist()], voice_like.tolist(), steady.tolist())


def _likeness(amplitude: NDArray[np.float64], energy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the cosine between each spectrum and the one three frames before it, shape (n - 3,)."""
    products = (amplitude[_APART:] * amplitude[:-_APART]).sum(axis=1)
    return np.asarray(products / np.sqrt(energy[_APART:] * energy[:-_APART]))


def _decibels(energy: float) -> float:
    # Not numpy's logarithm, whose last bit may depend on the place in the array.
    return 10 * log10(energy / _FULL_SCALE)
