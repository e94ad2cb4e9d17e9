"""Word errors of texts against scripts, and the interval of the difference between two transcribers."""

from collections.abc import Sequence
from typing import Any, Final

import jiwer
import msgspec
import numpy as np

from tests.calls.wording import comparable

RESAMPLES: Final = 10_000


class Errors(msgspec.Struct, frozen=True):
    """Word errors after Whisper's normalization with digits joined (`tests.calls.wording`). `words`: words said."""

    words: int = 0
    substituted: int = 0
    deleted: int = 0
    inserted: int = 0

    def __add__(self, other: "Errors") -> "Errors":
        return Errors(
            self.words + other.words,
            self.substituted + other.substituted,
            self.deleted + other.deleted,
            self.inserted + other.inserted,
        )

    @property
    def all(self) -> int:
        return self.substituted + self.deleted + self.inserted

    @property
    def percent(self) -> float:
        return 100 * self.all / self.words if self.words else 0.0

    def described(self) -> dict[str, Any]:
        return {"percent": round(self.percent, 3), **msgspec.structs.asdict(self)}

    def __str__(self) -> str:
        return f"{self.percent:.2f} % of {self.words} ({self.substituted} S, {self.deleted} D, {self.inserted} I)"


def errors(said: str, written: str) -> Errors:
    outcome = jiwer.process_words(comparable(said), comparable(written))
    return Errors(
        outcome.hits + outcome.substitutions + outcome.deletions,
        outcome.substitutions,
        outcome.deletions,
        outcome.insertions,
    )


def places(said: str, written: str) -> list[str]:
    """Return the differences with the words before them: `… on the [bill: pill]`."""
    outcome = jiwer.process_words(comparable(said), comparable(written))
    true, given = outcome.references[0], outcome.hypotheses[0]
    return [
        f"… {' '.join(true[max(0, chunk.ref_start_idx - 3) : chunk.ref_start_idx])} "
        f"[{' '.join(true[chunk.ref_start_idx : chunk.ref_end_idx]) or '–'}: "
        f"{' '.join(given[chunk.hyp_start_idx : chunk.hyp_end_idx]) or '–'}]"
        for chunk in outcome.alignments[0]
        if chunk.type != "equal"
    ]


def difference(ours: Sequence[Errors], theirs: Sequence[Errors], seed: int = 1) -> dict[str, float]:
    """Return ours minus theirs in points of word error rate, with its 95 % interval.

    Both are the same calls in the same order; the interval is a paired bootstrap over calls (Bisani and Ney 2004,
    "Bootstrap estimates for confidence intervals in ASR performance evaluation").
    """
    words = np.array([one.words for one in theirs])
    gap = np.array([one.all - other.all for one, other in zip(ours, theirs, strict=True)])
    drawn = np.random.default_rng(seed).integers(len(words), size=(RESAMPLES, len(words)))
    points = 100 * gap[drawn].sum(axis=1) / words[drawn].sum(axis=1)
    low, high = np.percentile(points, [2.5, 97.5])
    return {
        "points": round(100 * float(gap.sum()) / float(words.sum()), 3),
        "low": round(float(low), 3),
        "high": round(float(high), 3),
    }
