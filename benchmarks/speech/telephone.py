"""A voice through a telephone line: band, noise, echo, coding."""

import functools
from typing import Final

import numpy as np
import soxr
from numpy.typing import NDArray
from scipy import signal

from stages.separate.codecs import mulaw_table

RATE_HZ: Final = 8_000
BAND_HZ: Final = (300, 3400)
SPEECH_DB: Final = -23.0
"""Level of speech, in dB of full scale (root mean square)."""
LINE_NOISE_DB: Final = -65.0
ECHO_DB: Final = -36.0
ECHO_S: Final = 0.06

Float = NDArray[np.float64]


def telephone_voice(audio: NDArray[np.float32], rate_hz: float, pitch: float) -> Float:
    """Return a voice in the telephone band at 8 kHz and `SPEECH_DB`. `pitch` raises it and shortens it as much."""
    narrow = soxr.resample(audio.astype(np.float64), rate_hz * pitch, RATE_HZ, quality="HQ")
    band = band_limited(narrow)
    loud = np.abs(band) > np.abs(band).max() / 50
    return np.asarray(band * (_ratio(SPEECH_DB) / np.sqrt(np.mean(band[loud] ** 2))))


def band_limited(audio: Float) -> Float:
    band = signal.butter(4, BAND_HZ, btype="bandpass", fs=RATE_HZ, output="sos")
    return np.asarray(signal.sosfiltfilt(band, audio))


def line_noise(n_samples: int, rng: np.random.Generator) -> Float:
    """Return the faint hiss of a line."""
    return rng.standard_normal(n_samples) * _ratio(LINE_NOISE_DB)


def surroundings(n_samples: int, snr_db: float, rng: np.random.Generator) -> Float:
    """Return pink noise in the telephone band, `snr_db` below speech."""
    spectrum = np.fft.rfft(rng.standard_normal(n_samples))
    spectrum /= np.sqrt(np.maximum(1.0, np.arange(len(spectrum))))
    pink = band_limited(np.fft.irfft(spectrum, n_samples))
    return np.asarray(pink * (_ratio(SPEECH_DB - snr_db) / np.sqrt(np.mean(pink**2))))


def echo(other: Float) -> Float:
    """Return the echo of the other speaker."""
    delay = int(ECHO_S * RATE_HZ)
    return np.concatenate([np.zeros(delay), other[:-delay]]) * _ratio(ECHO_DB)


def coded(audio: Float) -> NDArray[np.int16]:
    """Return the samples after G.711 μ-law: the nearest of its 256 values."""
    values = _mu_law_values()
    pcm = np.clip(np.round(audio * 32767), -32768, 32767)
    upper = np.clip(np.searchsorted(values, pcm), 1, len(values) - 1)
    nearer = np.where(pcm - values[upper - 1] <= values[upper] - pcm, upper - 1, upper)
    return values[nearer].astype(np.int16)


@functools.cache
def _mu_law_values() -> NDArray[np.int32]:
    return np.unique(mulaw_table()).astype(np.int32)


def _ratio(db: float) -> float:
    return float(10 ** (db / 20))
