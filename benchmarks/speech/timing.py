"""Errors of word times against the script."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from typing import Any, Final

import numpy as np

from benchmarks.speech.corpus import Call, TruthWord
from schemas.segments import Segment

WIDTHS_S: Final = (0.05, 0.1, 0.2)


class TimingErrors:
    """Signed errors of starts and ends in seconds, by source of the word times."""

    def __init__(self) -> None:
        self._found: dict[str, list[tuple[float, float]]] = defaultdict(list)

    def add(self, call: Call, segments: Iterable[Segment]) -> None:
        """Add a call. Words are paired by aligning the texts; only equal ones count, interpolated ones separately."""
        written = [segment for segment in segments if segment.words]
        for channel in sorted({line.channel for line in call.lines}):
            true = [word for line in call.lines if line.channel == channel for word in line.words]
            given = [
                (word, f"{segment.word_source}{', interpolated' if word.interpolated else ''}")
                for segment in sorted(written, key=lambda one: one.start_s)
                if segment.channel == channel
                for word in segment.words
            ]
            bare = [_bare(word.text) for word, _ in given]
            for truth, index in _paired(true, bare):
                if truth.start_s is not None and truth.end_s is not None:
                    word, source = given[index]
                    self._found[source].append((word.start_s - truth.start_s, word.end_s - truth.end_s))

    def described(self) -> dict[str, Any]:
        """Return by source: count, median and 95th percentile of the absolute error, bias, shares within widths."""
        return {source: _figures(np.array(pairs)) for source, pairs in sorted(self._found.items())}


def _paired(true: Sequence[TruthWord], bare: Sequence[str]) -> Iterable[tuple[TruthWord, int]]:
    matcher = SequenceMatcher(None, [_bare(word.text) for word in true], bare, autojunk=False)
    for block in matcher.get_matching_blocks():
        for n in range(block.size):
            yield true[block.a + n], block.b + n


def _figures(pairs: "np.ndarray[Any, np.dtype[np.float64]]") -> dict[str, Any]:
    figures: dict[str, Any] = {"words": len(pairs)}
    for name, errors in (("start", pairs[:, 0]), ("end", pairs[:, 1])):
        size = np.abs(errors)
        figures[name] = {
            "median_s": round(float(np.median(size)), 3),
            "p95_s": round(float(np.percentile(size, 95)), 3),
            "bias_s": round(float(np.median(errors)), 3),
            **{f"within_{round(1000 * width)}_ms": round(float(np.mean(size <= width)), 4) for width in WIDTHS_S},
        }
    return figures


def _bare(text: str) -> str:
    return re.sub(r"\W", "", text.casefold())
