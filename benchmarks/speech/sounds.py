"""Half an hour of telephone audio without speech, synthesised from a seed.

Silence and noise, the network's tones (ITU-T E.180 and Q.23), hold music, handling noises. Each sound fills both legs
of a separate call, with different draws.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from benchmarks.speech.telephone import RATE_HZ, Float, band_limited, coded, surroundings

Sound = Callable[[int, np.random.Generator], Float]
"""Makes a number of samples at 8 kHz from a random generator."""

SECONDS: Final = {
    "zeros": 60,
    "comfort noise": 60,
    "line noise": 60,
    "loud hiss": 30,
    "hum and crackle": 60,
    "street": 60,
    "touch tones": 60,
    "ringback": 60,
    "busy": 30,
    "dial tone and beeps": 30,
    "fax": 30,
    "clicks": 60,
    "breaths and knocks": 60,
    "hold music, chords": 40,
    "hold music, melody": 60,
    "hold music, percussion": 60,
    "humming": 40,
    "crying": 40,
}
"""Length of each call; with both legs half an hour in all. The last two resemble a voice without words, so that they
pass the voice activity detector."""


def calls(seed: int = 1) -> dict[str, NDArray[np.int16]]:
    """Return the call of each sound, int16, shape (n_samples, 2), after G.711 μ-law."""
    made = {}
    for number, (name, seconds) in enumerate(SECONDS.items()):
        legs = [_SOUNDS[name](seconds * RATE_HZ, np.random.default_rng([seed, number, leg])) for leg in (0, 1)]
        made[name] = np.stack([coded(leg) for leg in legs], axis=1)
    return made


def _zeros(n: int, _rng: np.random.Generator) -> Float:
    return np.zeros(n)


def _white(db: float) -> Sound:
    return lambda n, rng: rng.standard_normal(n) * 10 ** (db / 20)


def _hum_and_crackle(n: int, rng: np.random.Generator) -> Float:
    """Return mains hum with its harmonics, and single sharp discharges."""
    mains = float(rng.choice([50, 60]))
    hum = sum(_tone(n, mains * order) / order for order in range(1, 24, 2)) * 0.05
    crackle = np.where(rng.random(n) < 4 / RATE_HZ, rng.normal(0, 0.4, n), 0.0)
    return np.asarray(hum + band_limited(crackle) + rng.standard_normal(n) * 1e-3)


def street(n: int, rng: np.random.Generator) -> Float:
    """Return noise that swells and fades as passing cars do."""
    swell = np.interp(np.arange(n), np.arange(0, n + 2 * RATE_HZ, 2 * RATE_HZ), _draws(rng, n, 2.0) ** 2)
    return surroundings(n, 5.0, rng) * (0.15 + swell)


def _touch_tones(n: int, rng: np.random.Generator) -> Float:
    """Return dialled numbers (ITU-T Q.23), fast and slow."""
    out = np.zeros(n)
    at = RATE_HZ
    while at < n - 4 * RATE_HZ:
        on_s = rng.uniform(0.06, 0.35)
        for _ in range(rng.integers(1, 13)):
            length = int(on_s * RATE_HZ)
            pair = _tone(length, rng.choice([697, 770, 852, 941])) + _tone(length, rng.choice([1209, 1336, 1477]))
            out[at : at + length] += 0.2 * pair[: n - at]
            at += length + int(rng.uniform(0.05, 0.3) * RATE_HZ)
            if at > n - RATE_HZ:
                break
        at += int(rng.uniform(0.5, 3.0) * RATE_HZ)
    return out


def _cadence(hz: tuple[float, ...], pattern_s: tuple[float, ...]) -> Sound:
    """Return a sound of tones that go on and off."""

    def sound(n: int, rng: np.random.Generator) -> Float:
        tone = sum(_tone(n, one) for one in hz) * (0.3 / len(hz))
        on, at, is_on = np.zeros(n), int(rng.uniform(0, 1) * RATE_HZ), True
        while at < n:
            for length_s in pattern_s:
                end = at + int(length_s * RATE_HZ)
                on[at:end] = is_on
                at, is_on = end, not is_on
        return np.asarray(tone * on)

    return sound


def _by_leg(one: Sound, other: Sound) -> Sound:
    """Return a sound that draws one of two for each leg: the seeds of a call's legs differ."""
    return lambda n, rng: (one if rng.random() < 0.5 else other)(n, rng)


def _after_one_another(*sounds: Sound) -> Sound:
    def sound(n: int, rng: np.random.Generator) -> Float:
        part = -(-n // len(sounds))
        return np.concatenate([one(part, rng) for one in sounds])[:n]

    return sound


def _fax(n: int, rng: np.random.Generator) -> Float:
    """Return a fax machine's calling tone, then a modem's noise-like carrier."""
    half = n // 2
    carrier = signal.sosfiltfilt(
        signal.butter(4, (1300, 2300), "bandpass", fs=RATE_HZ, output="sos"), rng.standard_normal(n - half)
    )
    return np.concatenate([_cadence((1100,), (0.5, 3.0))(half, rng), 0.2 * carrier])


def _clicks(n: int, rng: np.random.Generator) -> Float:
    """Return short bursts as of a keyboard and a receiver, single and in rows."""
    out = rng.standard_normal(n) * 1e-3
    at = 0
    while (at := at + int(rng.exponential(0.35) * RATE_HZ) + 80) < n - 800:
        length = int(rng.integers(8, 160))
        out[at : at + length] += rng.uniform(0.05, 0.6) * rng.standard_normal(length) * np.exp(-np.arange(length) / 25)
    return out


def _breaths_and_knocks(n: int, rng: np.random.Generator) -> Float:
    """Return breaths over the microphone of half a second to a second, and dull knocks."""
    out = rng.standard_normal(n) * 1e-3
    at = RATE_HZ // 2
    while at < n - 2 * RATE_HZ:
        length = int(rng.uniform(0.4, 1.1) * RATE_HZ)
        if rng.random() < 0.7:
            out[at : at + length] += 0.06 * surroundings(length, 0.0, rng) / 0.07 * np.hanning(length)
        else:
            ringing = _tone(length, rng.uniform(180, 500)) * np.exp(-np.arange(length) / 300)
            out[at : at + length] += 0.5 * ringing
        at += length + int(rng.uniform(0.5, 2.5) * RATE_HZ)
    return out


_CHORDS: Final = ((0, 4, 7), (9, 12, 16), (5, 9, 12), (7, 11, 14))
_SCALE: Final = (0, 2, 4, 7, 9, 12, 14, 16)


def _music(*, chords: bool, melody: bool, percussion: bool) -> Sound:
    """Return a sound of bars with four beats. The melody's tones have vibrato, as strings do."""

    def sound(n: int, rng: np.random.Generator) -> Float:
        out = np.zeros(n)
        beat = int(60 / rng.uniform(80, 120) * RATE_HZ)
        root = 220 * 2 ** (rng.integers(0, 8) / 12)
        for number, at in enumerate(range(0, n - 5 * beat, beat)):
            if chords and number % 4 == 0:
                for step in _CHORDS[number // 4 % 4]:
                    _add(out, at, _note(4 * beat, root * 2 ** (step / 12), 0.06, rng))
            if melody and rng.random() < 0.85:
                length = int(beat * rng.choice([0.5, 1.0, 1.0, 2.0]))
                _add(out, at, _note(length, 2 * root * 2 ** (rng.choice(_SCALE) / 12), 0.14, rng))
            if percussion:
                drum = rng.standard_normal(beat // 2) * np.exp(-np.arange(beat // 2) / (900 if number % 2 else 250))
                _add(out, at, 0.12 * drum)
        return band_limited(out)

    return sound


def _note(n: int, hz: float, level: float, rng: np.random.Generator) -> Float:
    seconds = np.arange(n) / RATE_HZ
    phase = 2 * np.pi * hz * seconds + 0.15 * np.sin(2 * np.pi * 5.5 * seconds + rng.uniform(0, 6))
    wave = sum(np.sin(order * phase) / order**1.2 for order in range(1, 7) if order * hz < RATE_HZ / 2)
    rise, fall = np.minimum(1.0, seconds / 0.02), np.minimum(1.0, (seconds[-1] - seconds) / 0.05)
    return np.asarray(level * wave * rise * fall * np.exp(-0.8 * seconds))


def _humming(n: int, rng: np.random.Generator) -> Float:
    """Return humming: glottal pulses through the low resonance of a nose, with pauses between phrases."""
    out = np.zeros(n)
    at = RATE_HZ
    while at < n - 4 * RATE_HZ:
        for _ in range(rng.integers(2, 7)):
            length = int(rng.uniform(0.25, 0.8) * RATE_HZ)
            hz = 130 * 2 ** (rng.choice(_SCALE) / 12)
            _add(out, at, _resonating(_throat(length, hz, hz * rng.uniform(0.98, 1.03)), ((280, 60), (2300, 200))))
            at += length
        at += int(rng.uniform(0.6, 2.5) * RATE_HZ)
    return out


def _crying(n: int, rng: np.random.Generator) -> Float:
    """Return a small child's crying: a second of a rising and falling high voice, then a breath."""
    out = np.zeros(n)
    at = RATE_HZ
    while at < n - 3 * RATE_HZ:
        length = int(rng.uniform(0.6, 1.4) * RATE_HZ)
        top = rng.uniform(420, 560)
        rise = _throat(length // 3, 0.75 * top, top)
        fall = _throat(length - length // 3, top, 0.7 * top)
        _add(out, at, _resonating(np.concatenate([rise, fall]), ((1000, 150), (1500, 200), (3100, 300))))
        at += length + int(rng.uniform(0.25, 1.5) * RATE_HZ)
    return out


def _throat(n: int, from_hz: float, to_hz: float) -> Float:
    """Return a glottal buzz that glides between two frequencies."""
    phase = np.cumsum(np.linspace(from_hz, to_hz, n)) / RATE_HZ
    return np.asarray(signal.sawtooth(2 * np.pi * phase) * np.hanning(n) ** 0.3)


def _resonating(buzz: Float, formants: tuple[tuple[float, float], ...]) -> Float:
    """Filter the buzz by resonances (frequency, bandwidth in Hz), to the level of speech."""
    heard = sum(
        signal.lfilter([1 - r], [1, -2 * r * np.cos(2 * np.pi * hz / RATE_HZ), r**2], buzz)
        for hz, width in formants
        for r in [np.exp(-np.pi * width / RATE_HZ)]
    )
    return np.asarray(0.07 * heard / np.sqrt(np.mean(np.square(heard))))


def _add(out: Float, at: int, piece: Float) -> None:
    out[at : at + len(piece)] += piece[: len(out) - at]


def _tone(n: int, hz: float) -> Float:
    return np.asarray(np.sin(2 * np.pi * hz * np.arange(n) / RATE_HZ))


def _draws(rng: np.random.Generator, n: int, every_s: float) -> Float:
    return rng.random(len(np.arange(0, n + every_s * RATE_HZ, every_s * RATE_HZ)))


_SOUNDS: Final[dict[str, Sound]] = {
    "zeros": _zeros,
    "comfort noise": _white(-65.0),
    "line noise": _white(-50.0),
    "loud hiss": _white(-32.0),
    "hum and crackle": _hum_and_crackle,
    "street": street,
    "touch tones": _touch_tones,
    "ringback": _by_leg(_cadence((440, 480), (2.0, 4.0)), _cadence((400, 450), (0.4, 0.2, 0.4, 2.0))),
    "busy": _by_leg(_cadence((480, 620), (0.5, 0.5)), _cadence((425,), (0.25, 0.25))),
    "dial tone and beeps": _after_one_another(_cadence((350, 440), (10.0, 0.5)), _cadence((1400,), (0.2, 4.8))),
    "fax": _fax,
    "clicks": _clicks,
    "breaths and knocks": _breaths_and_knocks,
    "hold music, chords": _music(chords=True, melody=False, percussion=False),
    "hold music, melody": _music(chords=True, melody=True, percussion=False),
    "hold music, percussion": _music(chords=True, melody=True, percussion=True),
    "humming": _humming,
    "crying": _crying,
}
