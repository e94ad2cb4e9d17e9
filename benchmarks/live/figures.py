"""Latencies of live calls."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from benchmarks.live.traffic import LiveCall, SeenPartial, SeenSegment, Sightings, bare_words


def latencies(calls: Sequence[LiveCall], sightings: Sightings) -> dict[str, Any]:
    """Return quantiles in seconds and counts.

    - `final_s`: from the last voiced moment of each utterance with words to its segment.
    - `shown_s`: from the end of each word of a call that asked for partials to the first text, partial or final, that
      has the word at its position.
    - `flips`: texts that took back committed words.
    - `committed_early`: the share of words that were committed before the final.
    """
    finals: list[float] = []
    shown: list[float] = []
    words = early = flips = 0
    for call in calls:
        for seen in sightings.segments.get(call.call_id, []):
            segment = seen.segment
            if not segment.words:
                continue
            finals.append(seen.at_s - call.began_s - segment.voiced[-1][1])
            partials = sightings.partials.get(segment.segment_id)
            if partials is None:
                continue
            shown += first_shown(seen, partials, call.began_s)
            flips += flipped(segment.text, partials)
            words += len(segment.text.split())
            early += max((len(one.committed.split()) for one in partials if not one.final), default=0)
    return {
        "calls": len(calls),
        "producer_late_s": max((call.late_s for call in calls), default=0.0),
        "final_s": quantiles(finals),
        "shown_s": quantiles(shown),
        "flips": flips,
        "words": words,
        "committed_early": round(early / words, 4) if words else None,
        "all_final_s": [round(one, 3) for one in sorted(finals)],
        "all_shown_s": [round(one, 3) for one in sorted(shown)],
    }


def first_shown(seen: SeenSegment, partials: Iterable[SeenPartial], began_s: float) -> list[float]:
    """Return, for each word of the segment, the seconds from its end to its first sight; below 0 if shown before."""
    first = [seen.at_s] * len(seen.segment.words)
    final = [word for one in seen.segment.words for word in bare_words(one.text)[:1]]
    for one in partials:
        for index, word in enumerate(bare_words(f"{one.committed} {one.tail}")[: len(final)]):
            if word == final[index]:
                first[index] = min(first[index], one.at_s)
    return [at_s - began_s - word.end_s for at_s, word in zip(first, seen.segment.words, strict=True)]


def flipped(final: str, partials: Sequence[SeenPartial]) -> int:
    """Count the texts, the final one included, that do not begin with what was committed before them."""
    count, committed = 0, ""
    for text in [one.committed for one in sorted(partials, key=lambda one: one.at_s)] + [final]:
        count += not text.startswith(committed)
        committed = text
    return count


def quantiles(values: Sequence[float]) -> dict[str, Any] | None:
    """Return count, p50, p95 and p99; None without values."""
    if not values:
        return None
    points = np.percentile(values, [50, 95, 99])
    return {"n": len(values), **{f"p{q}": round(float(at), 3) for q, at in zip((50, 95, 99), points, strict=True)}}
