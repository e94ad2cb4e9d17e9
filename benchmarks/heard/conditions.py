"""What happens to voices on their way: level, clipping, automatic gain, codecs, lost packets, echo, babble, noise.

A condition makes the legs of a call, int16 at 8 kHz, of dry ones. All but the codecs' conditions end with G.711 μ-law,
and all have the line's hiss 42 dB below speech, before what a condition does. The same call and seed give the same
samples.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import numpy as np
from scipy import signal

from benchmarks.heard import codecs
from benchmarks.heard.clips import Samples
from benchmarks.speech.sounds import street
from benchmarks.speech.telephone import RATE_HZ, SPEECH_DB, Float, line_noise

LEVELS: Final = (0.05, 0.1, 0.25, 1.0, 4.0)
ECHO_DB: Final = -20.0
ECHO_S: Final = 0.12
NOISE_DB: Final = 10.0
"""Speech above babble and street noise."""
N_BABBLING: Final = 6
CLIP_AT: Final = 0.25
CLIP_GAIN: Final = 8.0

_AGC_TARGET_DB: Final = -20.0
_AGC_MOST_DB: Final = 30.0
_AGC_RELEASE_S: Final = 0.8
_AGC_ATTACK_S: Final = 0.01
_AGC_NOISE_DB: Final = -58.0


class Dry(msgspec.Struct, frozen=True):
    """What a condition starts from: a call's legs, float64, full scale 1, and legs of other calls for babble."""

    legs: list[Float]
    others: list[Float]
    seed: int


Condition = Callable[[Dry], list[Samples]]


def _by_leg(change: Callable[[Float, np.random.Generator], Float], code: Callable[[Samples], Samples]) -> Condition:
    """Return a condition that changes each leg, hiss included, and then codes it."""

    def applied(dry: Dry) -> list[Samples]:
        made = []
        for number, leg in enumerate(dry.legs):
            rng = np.random.default_rng([dry.seed, number])
            made.append(code(pcm(change(leg + line_noise(len(leg), rng), rng))))
        return made

    return applied


def _same(leg: Float, _rng: np.random.Generator) -> Float:
    return leg


def _scaled(gain: float) -> Callable[[Float, np.random.Generator], Float]:
    return lambda leg, _rng: leg * gain


def _clipped(leg: Float, _rng: np.random.Generator) -> Float:
    return np.clip(leg * CLIP_GAIN, -CLIP_AT, CLIP_AT)


def pumped(leg: Float, rng: np.random.Generator) -> Float:
    """Return a leg after an automatic gain that follows the level, and so raises the noise in each pause by 30 dB."""
    noisy = leg + rng.standard_normal(len(leg)) * 10 ** (_AGC_NOISE_DB / 20)
    step = RATE_HZ // 200
    power = np.mean(np.square(np.resize(noisy, (-(-len(noisy) // step), step))), axis=1)
    level, envelope = 0.0, np.empty(len(power))
    for index, one in enumerate(power):
        rise_s = _AGC_ATTACK_S if one > level else _AGC_RELEASE_S
        level += (one - level) * min(1.0, step / RATE_HZ / rise_s)
        envelope[index] = level
    gain_db = np.minimum(_AGC_TARGET_DB - 10 * np.log10(envelope + 1e-12), _AGC_MOST_DB)
    gain = np.interp(np.arange(len(noisy)), np.arange(len(gain_db)) * step, 10 ** (gain_db / 20))
    return np.asarray(np.clip(noisy * gain, -1, 1))


def _narrow(leg: Float, _rng: np.random.Generator) -> Float:
    band = signal.butter(6, (400, 2500), btype="bandpass", fs=RATE_HZ, output="sos")
    return np.asarray(signal.sosfilt(band, leg))


def _street(leg: Float, rng: np.random.Generator) -> Float:
    noise = street(len(leg), rng)
    return np.asarray(leg + noise * _ratio(SPEECH_DB - NOISE_DB) / np.sqrt(np.mean(noise**2)))


def echoing(dry: Dry) -> list[Samples]:
    """Return legs that carry the echo of the other at −20 dB, 0.12 s later."""
    delay = int(ECHO_S * RATE_HZ)
    other = [np.concatenate([np.zeros(delay), leg[:-delay]]) * _ratio(ECHO_DB) for leg in reversed(dry.legs)]
    mixed = Dry([leg + one for leg, one in zip(dry.legs, other, strict=True)], [], dry.seed)
    return CONDITIONS["clean"](mixed)


def babbling(dry: Dry) -> list[Samples]:
    """Return legs with six other voices at once, together 10 dB below speech."""
    mixed = []
    for number, leg in enumerate(dry.legs):
        rng = np.random.default_rng([dry.seed, number, 1])
        chosen = rng.choice(len(dry.others), N_BABBLING, replace=len(dry.others) < N_BABBLING)
        voices = [_without_pauses(dry.others[one]) for one in chosen]
        babble = np.sum([np.resize(np.roll(one, -int(rng.integers(len(one)))), len(leg)) for one in voices], axis=0)
        mixed.append(leg + babble * _ratio(SPEECH_DB - NOISE_DB) / np.sqrt(np.mean(babble**2)))
    return CONDITIONS["clean"](Dry(mixed, [], dry.seed))


def _losing(share: float, code: Callable[[Samples, codecs.Lost], Samples]) -> Condition:
    def applied(dry: Dry) -> list[Samples]:
        made = []
        for number, leg in enumerate(dry.legs):
            rng = np.random.default_rng([dry.seed, number])
            samples = pcm(leg + line_noise(len(leg), rng))
            made.append(code(samples, codecs.lost_packets(len(samples), share, rng)))
        return made

    return applied


def pcm(leg: Float) -> Samples:
    return np.clip(np.round(leg * 32767), -32768, 32767).astype(np.int16)


def seed_of(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")


def _mulaw_then_lost(samples: Samples, lost: codecs.Lost) -> Samples:
    return codecs.concealed(codecs.mulaw(samples), lost)


def _without_pauses(leg: Float) -> Float:
    loud = np.abs(leg) > np.abs(leg).max() / 100
    return leg[np.convolve(loud, np.ones(RATE_HZ // 5), "same") > 0]


def _ratio(db: float) -> float:
    return float(10 ** (db / 20))


CONDITIONS: Final[dict[str, Condition]] = {
    "clean": _by_leg(_same, codecs.mulaw),
    "level 0.05": _by_leg(_scaled(0.05), codecs.mulaw),
    "level 0.1": _by_leg(_scaled(0.1), codecs.mulaw),
    "level 0.25": _by_leg(_scaled(0.25), codecs.mulaw),
    "level 4": _by_leg(_scaled(4.0), codecs.mulaw),
    "clipped": _by_leg(_clipped, codecs.mulaw),
    "AGC": _by_leg(pumped, codecs.mulaw),
    "narrow": _by_leg(_narrow, codecs.mulaw),
    "A-law": _by_leg(_same, codecs.alaw),
    "GSM": _by_leg(_same, codecs.gsm),
    "AMR 4.75": _by_leg(_same, codecs.amr),
    "G.723.1": _by_leg(_same, codecs.g723),
    "G.729": _by_leg(_same, codecs.g729),
    "G.729, 3 % lost": _losing(0.03, codecs.g729),
    "1 % lost": _losing(0.01, _mulaw_then_lost),
    "3 % lost": _losing(0.03, _mulaw_then_lost),
    "5 % lost": _losing(0.05, _mulaw_then_lost),
    "echo": echoing,
    "babble": babbling,
    "street": _by_leg(_street, codecs.mulaw),
}
"""Conditions by name. `level N`: all samples N times as large; `clipped`: 18 dB louder and cut at −12 dB of full scale;
`narrow`: 400 to 2,500 Hz; `N % lost`: 20 ms packets, in bursts, concealed."""

LEVEL_SWEEP: Final = ("level 0.05", "level 0.1", "level 0.25", "clean", "level 4")
CODEC_SWEEP: Final = ("clean", "A-law", "GSM", "AMR 4.75", "G.723.1", "G.729", "G.729, 3 % lost")


def applied(condition: str, name: str, legs: Sequence[Samples], others: Sequence[Samples] = ()) -> list[Samples]:
    """Return the legs of the call `name` under a condition. `others`: dry legs of other calls."""
    dry = Dry([leg / 32767 for leg in legs], [leg / 32767 for leg in others], seed_of(name))
    return CONDITIONS[condition](dry)
