"""Clips put on the line one after the other: mono recordings of which each clip's place is known."""

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

from benchmarks.heard.clips import Clip, Samples
from benchmarks.speech.telephone import RATE_HZ, line_noise

LEAD_S: Final = 1.0
TAIL_S: Final = 1.5
"""Line noise before the first clip and after the last."""
BREATH_S: Final = 0.25
"""Least pause between two clips that come at a fixed pace."""


class Placed(msgspec.Struct, frozen=True, kw_only=True):
    """A clip's place on a line in seconds."""

    clip_id: str
    text: str
    start_s: float
    end_s: float


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A recording of one channel, int16, shape (n_samples,), 8 kHz, and the clips on it in order."""

    name: str
    language: str
    samples: Samples
    clips: list[Placed]


def alone(clip: Clip, seed: int = 1) -> Line:
    """Return a line on which nothing is said but one clip."""
    return _line(clip.clip_id, [clip], [LEAD_S], seed)


def paced(name: str, clips: Sequence[Clip], pace_s: float = 1.0, seed: int = 1) -> Line:
    """Return clips that begin `pace_s` apart, later where a clip is too long for it."""
    starts, at_s = [], LEAD_S
    for clip in clips:
        starts.append(at_s)
        at_s += max(pace_s, clip.duration_s + BREATH_S)
    return _line(name, clips, starts, seed)


def spaced(name: str, clips: Sequence[Clip], pause_s: float, seed: int = 1) -> Line:
    """Return clips with a pause between each two."""
    starts, at_s = [], LEAD_S
    for clip in clips:
        starts.append(at_s)
        at_s += clip.duration_s + pause_s
    return _line(name, clips, starts, seed)


def _line(name: str, clips: Sequence[Clip], starts_s: Sequence[float], seed: int) -> Line:
    placed = [
        Placed(clip_id=clip.clip_id, text=clip.text, start_s=round(at_s, 4), end_s=round(at_s + clip.duration_s, 4))
        for clip, at_s in zip(clips, starts_s, strict=True)
    ]
    noise = line_noise(int((placed[-1].end_s + TAIL_S) * RATE_HZ), np.random.default_rng(seed))
    samples = np.round(noise * 32767).astype(np.int32)
    for clip, at_s in zip(clips, starts_s, strict=True):
        first = int(at_s * RATE_HZ)
        samples[first : first + len(clip.samples)] += clip.samples
    return Line(
        name=name,
        language=clips[0].language,
        samples=np.clip(samples, -32768, 32767).astype(np.int16),
        clips=placed,
    )
