"""An utterance's audio as the engine takes it."""

from typing import Final

import msgspec
import numpy as np

from schemas.utterances import InterimUtterance, Utterance
from stages.transcribe.engine.protocol import Audio
from stages.transcribe.engine.windows import SAMPLE_RATE_HZ
from stages.transcribe.packed_times import Places

_FULL_SCALE: Final = 32768.0


def begin_s(utterance: Utterance | InterimUtterance) -> float:
    """Where its speech begins, in seconds from the call's start; all versions of an utterance have the same."""
    return utterance.voiced[0][0] if utterance.voiced else utterance.start_s


def voiced_s(utterance: Utterance | InterimUtterance) -> float:
    """Seconds of speech."""
    audio_s = len(utterance.pcm) // 2 / utterance.sample_rate_hz
    return min(sum(end - start for start, end in utterance.voiced), audio_s)


def voiced(utterance: Utterance | InterimUtterance) -> list[tuple[float, float]]:
    """The stretches of speech in seconds from the utterance's start."""
    return voiced_from(utterance, utterance.start_s)


def voiced_from(utterance: Utterance | InterimUtterance, start_s: float) -> list[tuple[float, float]]:
    """The same in seconds from `start_s` of the call on, for `audio_from`: all that is beyond a hard cut is speech."""
    if isinstance(utterance, Utterance) and utterance.parts:
        return Places(utterance).in_audio(utterance.voiced)
    found = list(utterance.voiced)
    if found and start_s < utterance.start_s:
        found[0] = (start_s, found[0][1])
    if found and isinstance(utterance, Utterance) and utterance.behind:
        found[-1] = (found[-1][0], utterance.end_s + len(utterance.behind) / 2 / utterance.sample_rate_hz)
    return [(max(0.0, start - start_s), end - start_s) for start, end in found]


def parts(utterance: Utterance) -> list[Utterance]:
    """Each of its parts as an utterance of its own."""
    found, taken = [], 0
    for place, (start_s, end_s) in zip(utterance.places, Places(utterance).in_call, strict=True):
        pcm = utterance.pcm[2 * taken : 2 * (taken + place.n_samples)]
        speech = [span for span in utterance.voiced if start_s <= span[0] < end_s]
        found.append(
            msgspec.structs.replace(utterance, first_sample=place.first_sample, pcm=pcm, voiced=speech, parts=[])
        )
        taken += place.n_samples
    return found


def audio(utterance: Utterance | InterimUtterance) -> Audio:
    """float32 in [-1, 1), shape (n_samples,), 16 kHz."""
    return _heard(_whole(utterance.pcm), utterance.sample_rate_hz)


def audio_from(utterance: Utterance | InterimUtterance, start_s: float) -> Audio:
    """The same from `start_s` of the call on, with what the utterance carries from beyond hard cuts."""
    behind = utterance.behind if isinstance(utterance, Utterance) else b""
    skipped = round((start_s - utterance.start_s) * utterance.sample_rate_hz) + len(utterance.before) // 2
    carried = utterance.before + _whole(utterance.pcm) + behind
    return _heard(carried[2 * max(0, skipped) :], utterance.sample_rate_hz)


def _whole(pcm: bytes) -> bytes:
    return pcm[: len(pcm) // 2 * 2]


def _heard(pcm: bytes, rate_hz: int) -> Audio:
    import soxr

    samples = np.frombuffer(pcm, "<i2").astype(np.float32) / np.float32(_FULL_SCALE)
    if rate_hz == SAMPLE_RATE_HZ:
        return samples
    resampled: Audio = soxr.resample(samples, rate_hz, SAMPLE_RATE_HZ, quality="HQ")
    return resampled
