"""What a line does to a leg: level, overload, band, lost packets, the other leg's echo, noise, an agitated speaker."""

from collections.abc import Callable
from typing import Final

import numpy as np
from scipy import signal

from benchmarks.speech.telephone import RATE_HZ, Float, coded, line_noise, surroundings

Condition = Callable[[Float, Float, np.random.Generator], Float]
"""Takes a leg and the other leg of its call, float64, shape (n,), 1 for full scale, and returns the leg."""

_PACKET: Final = RATE_HZ // 50
_LIMITED_TO: Final = 0.3
_OVERLOAD: Final = 4.0


def _times(factor: float) -> Condition:
    return lambda leg, _other, rng: factor * (leg + line_noise(len(leg), rng))


def _clipped(leg: Float, _other: Float, rng: np.random.Generator) -> Float:
    """Return the leg overloaded by 12 dB in a microphone, and at its usual level after it."""
    return np.clip(_OVERLOAD * leg, -_LIMITED_TO, _LIMITED_TO) / 2 + line_noise(len(leg), rng)


def _limited(leg: Float, _other: Float, rng: np.random.Generator) -> Float:
    """Return the leg, 12 dB louder, as a limiter leaves it: all syllables at one level."""
    level = np.sqrt(signal.lfilter([0.0025], [1, -0.9975], np.square(leg)))
    gain = np.minimum(_OVERLOAD, _LIMITED_TO / 2 / (level + 1e-6))
    return np.asarray(_LIMITED_TO * np.tanh(gain * leg / _LIMITED_TO) + line_noise(len(leg), rng))


def _narrow(leg: Float, _other: Float, rng: np.random.Generator) -> Float:
    band = signal.butter(4, (400, 2400), btype="bandpass", fs=RATE_HZ, output="sos")
    return np.asarray(signal.sosfiltfilt(band, leg) + line_noise(len(leg), rng))


def _lost_packets(leg: Float, _other: Float, rng: np.random.Generator) -> Float:
    """Return the leg with 5 % of its packets of 20 ms lost, each replaced by the fading copy of the one before it."""
    packets = (leg + line_noise(len(leg), rng))[: len(leg) // _PACKET * _PACKET].reshape(-1, _PACKET).copy()
    for index in range(1, len(packets)):
        if rng.random() < 0.05:
            packets[index] = 0.6 * packets[index - 1]
    return np.concatenate([packets.reshape(-1), np.zeros(len(leg) % _PACKET)])


def _echo(leg: Float, other: Float, rng: np.random.Generator) -> Float:
    delay = int(0.12 * RATE_HZ)
    return np.asarray(leg + 0.1 * np.concatenate([np.zeros(delay), other[:-delay]]) + line_noise(len(leg), rng))


def _noise(leg: Float, _other: Float, rng: np.random.Generator) -> Float:
    return leg + surroundings(len(leg), 15.0, rng)


def _agitated(leg: Float, other: Float, rng: np.random.Generator) -> Float:
    """Return a higher voice through a driven limiter: the leg's spectrum moved up by a quarter, at the same speed."""
    _, _, bins = signal.stft(leg, RATE_HZ, nperseg=512)
    at = np.arange(bins.shape[0]) / 1.25
    low = at.astype(int)
    moved = bins[low] * (1 - at % 1)[:, None] + bins[np.minimum(low + 1, len(bins) - 1)] * (at % 1)[:, None]
    _, heard = signal.istft(moved, RATE_HZ, nperseg=512)
    return _limited(np.resize(np.asarray(heard), len(leg)), other, rng)


CONDITIONS: Final[dict[str, Condition]] = {
    "as it is": _times(1.0),
    "level × 0.05": _times(0.05),
    "level × 0.1": _times(0.1),
    "level × 0.25": _times(0.25),
    "level × 4": _times(4.0),
    "clipped": _clipped,
    "limited": _limited,
    "400–2400 Hz": _narrow,
    "5 % of packets lost": _lost_packets,
    "echo at −20 dB": _echo,
    "noise at 15 dB": _noise,
    "agitated": _agitated,
}


def heard(leg: Float, other: Float, condition: str, seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int16]]:
    """Return the leg, int16, after its line and G.711 μ-law."""
    return coded(CONDITIONS[condition](leg, other, np.random.default_rng(seed)))
