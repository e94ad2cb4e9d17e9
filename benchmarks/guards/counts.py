"""Counts of words transcribed from sounds without speech, and of true words that guards dropped."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.speech.corpus import Call
from benchmarks.speech.telephone import RATE_HZ
from schemas.segments import Segment

PIECES_S: Final = (0.4, 1.0, 2.5, 6.0)
PIECES_OF_EACH: Final = 2
"""Of each length, on each leg, spread over the sound."""


def pieces(pcm: NDArray[np.int16]) -> Iterator[tuple[int, bytes]]:
    """Yield pieces of both legs of a sound, one after the other: first sample and PCM bytes."""
    at = 0
    for leg in pcm.T:
        for seconds in PIECES_S:
            for number in range(PIECES_OF_EACH):
                first = (2 * number + 1) * len(leg) // (2 * PIECES_OF_EACH)
                piece = leg[first : first + int(seconds * RATE_HZ)]
                yield at, piece.tobytes()
                at += len(piece)


def answered(segments: Sequence[Segment]) -> dict[str, Any]:
    """Return the utterances and words of a sound, the seconds that were decoded, and what each guard dropped."""
    return {
        "utterances": len(segments),
        "decoded_s": round(sum(segment.end_s - segment.start_s for segment in segments), 2),
        "words": sum(len(segment.words) for segment in segments),
        "texts": [_judged(segment) for segment in segments if segment.words],
        "guards": dict(Counter(segment.guard for segment in segments if segment.guard is not None)),
        "dropped": [_judged(segment) for segment in segments if segment.dropped_text],
    }


def taken(calls: Sequence[Call], heard: Sequence[Sequence[Segment]]) -> dict[str, Any]:
    """Return how many true words each guard dropped, and how many lie in no utterance."""
    dropped, unheard, words = Counter[str](), 0, 0
    utterances: list[dict[str, Any]] = []
    for call, segments in zip(calls, heard, strict=True):
        counts = Counter[str]()
        for channel, at_s in call.word_times():
            words += 1
            around = [one for one in segments if one.channel == channel and one.start_s <= at_s <= one.end_s]
            unheard += not around
            if around and around[0].guard is not None:
                dropped[around[0].guard] += 1
                counts[around[0].segment_id] += 1
        utterances += [
            {"call": call.name, "true_words": counts[one.segment_id], **_judged(one)}
            for one in segments
            if one.guard is not None
        ]
    lost = sum(dropped.values())
    return {
        "words": words,
        "dropped": dict(dropped),
        "dropped_percent": round(100 * lost / words, 3),
        "unheard": unheard,
        "unheard_percent": round(100 * unheard / words, 3),
        "utterances": utterances,
    }


def _judged(segment: Segment) -> dict[str, Any]:
    return {
        "text": segment.text or segment.dropped_text,
        "guard": segment.guard,
        "voiced_s": round(sum(end - start for start, end in segment.voiced), 2),
        "seconds": round(segment.end_s - segment.start_s, 2),
        "no_speech": segment.no_speech_probability,
        "probability": segment.probability,
        "flags": segment.flags,
    }
