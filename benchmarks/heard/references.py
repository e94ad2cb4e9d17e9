"""What was said on each leg of a recording, and when: what a transcript is held against."""

import contextlib
import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.heard.clips import Samples, frame_db
from benchmarks.speech.corpus import Call
from stages.separate.files import open_audio_file

Span = tuple[float, float]
"""Start and end in seconds."""

FRAME_S: Final = 0.01
BELOW_DB: Final = 30.0
"""A frame is speech within so much of the leg's loud frames (their 95th percentile)."""
BRIDGE_S: Final = 0.1
"""A shorter dip within speech is speech."""
LEAST_S: Final = 0.08
"""A shorter sound alone is none."""


class Leg(msgspec.Struct, frozen=True, kw_only=True):
    """One channel: `text`, None where nobody wrote it down; `words`, their spans; `speech`, where there is sound of it.

    `language` decides how texts are compared. `exact`: the words' times are known, not spread over their line.
    """

    text: str | None
    words: list[Span]
    speech: list[Span]
    language: str = "en"
    exact: bool = True


class Recording(msgspec.Struct, frozen=True, kw_only=True):
    """A file and the references of its channels."""

    name: str
    file: str
    legs: list[Leg]


def of_call(call: Call, dry: Sequence[Samples]) -> list[Leg]:
    """Return the references of a call by its dry legs, on which there is nothing but the voices."""
    found = []
    for channel, samples in enumerate(dry):
        speech = speech_of(samples)
        words: list[Span] = []
        for line in call.lines:
            if line.channel == channel:
                known = [(word.start_s, word.end_s) for word in line.words]
                guessed = spread([word.text for word in line.words], within(speech, (line.start_s, line.end_s)))
                words += [
                    (start_s, end_s) if start_s is not None and end_s is not None else guess
                    for (start_s, end_s), guess in zip(known, guessed, strict=True)
                ]
        exact = all(word.start_s is not None for line in call.lines for word in line.words[:1])
        found.append(Leg(text=call.said(channel), words=words, speech=speech, language=call.language, exact=exact))
    return found


def of_recording(samples: Samples, language: str = "en") -> Leg:
    """Return the reference of a channel that nobody wrote down: only where its loud sounds are."""
    return Leg(text=None, words=[], speech=speech_of(samples), language=language)


def of_stm(stm: str) -> list[tuple[str, Span, str]]:
    """Return speaker, span and text of each line of an STM file (NIST SCTK): its format is
    `file channel speaker start end [<labels>] text`. Lines that begin with `;;` are remarks.
    """
    found = []
    for line in stm.splitlines():
        parts = line.split(maxsplit=5)
        if len(parts) == 6 and not line.startswith(";;"):
            text = re.sub(r"^<[^>]*>\s*", "", parts[5])
            found.append((parts[2], (float(parts[3]), float(parts[4])), text))
    return found


def of_stm_recording(stm: str, samples: Samples) -> Leg:
    """Return the reference of a recording with one channel: all speakers' lines in order of their start."""
    lines = sorted(of_stm(stm), key=lambda line: line[1])
    speech = speech_of(samples)
    said = [within(speech, span) for _, span, _ in lines]
    words = [word for (_, _, text), at in zip(lines, said, strict=True) for word in spread(text.split(), at)]
    text = " ".join(text for _, _, text in lines)
    return Leg(text=text, words=words, speech=joined([span for at in said for span in at]), exact=False)


def speech_of(samples: Samples) -> list[Span]:
    """Return where the samples are as loud as speech: within 30 dB of the loud frames, dips of 0.1 s bridged."""
    levels = frame_db(samples)
    if not len(levels) or levels.max() < -80:
        return []
    loud = levels > max(float(np.percentile(levels[levels > levels.max() - 40], 95)) - BELOW_DB, -75.0)
    return [one for one in joined(_spans(loud), BRIDGE_S) if one[1] - one[0] >= LEAST_S]


def spread(words: Sequence[str], spans: Sequence[Span]) -> list[Span]:
    """Return a span for each word: the time within `spans`, divided by the words' lengths."""
    if not words or not spans:
        return [(0.0, 0.0)] * len(words)
    lengths = np.array([len(word) + 1 for word in words], float)
    edges = np.concatenate([[0.0], np.cumsum(lengths) / lengths.sum()]) * sum(end - start for start, end in spans)
    knots = np.cumsum([0.0, *(end - start for start, end in spans)])

    def at(seconds: float, side: str) -> float:
        index = int(
            np.clip(np.searchsorted(knots, seconds, "right" if side == "start" else "left") - 1, 0, len(spans) - 1)
        )
        return float(spans[index][0] + seconds - knots[index])

    return [(round(at(a, "start"), 3), round(at(b, "end"), 3)) for a, b in itertools.pairwise(edges)]


def within(spans: Sequence[Span], limits: Span) -> list[Span]:
    """Return the parts of `spans` between two limits, or the limits where there are none."""
    low, high = limits
    found = [(max(start, low), min(end, high)) for start, end in spans if end > low and start < high]
    return found or [limits]


def joined(spans: Sequence[Span], bridge_s: float = 0.0) -> list[Span]:
    """Return the union of spans; gaps up to `bridge_s` are filled."""
    found: list[Span] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1] + bridge_s:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def read_channels(path: Path) -> tuple[list[Samples], int]:
    """Return the channels of a file and its rate."""
    audio = open_audio_file(path)
    with contextlib.closing(audio):
        frames = np.frombuffer(b"".join(audio), "<i2").reshape(-1, audio.channels)
    return [frames[:, index].astype(np.int16) for index in range(audio.channels)], audio.sample_rate_hz


def _spans(mask: NDArray[np.bool_]) -> list[Span]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return [(float(a) * FRAME_S, float(b) * FRAME_S) for a, b in edges.reshape(-1, 2)]
