"""Speed, word errors and differences of the measured kinds."""

from typing import Any, Final

from benchmarks.harness.report import spread
from benchmarks.speech.corpus import Call
from benchmarks.speech.scoring import Errors, difference, errors
from benchmarks.speech.timing import TimingErrors
from benchmarks.transcribe.contenders import Measurement

PLAIN: Final = ("whisperx", "whisperx-silero", "faster-whisper")
OURS: Final = ("transcriber", "pipeline")

Runs = dict[str, list[Measurement]]
"""Runs by kind."""


def speed(runs: Runs, audio_s: float) -> dict[str, Any]:
    """Return the CPU time of each kind, and the speed of ours relative to each plain tool, run by run."""
    return {
        "kinds": {
            kind: {
                "cpu_s": spread([one.cpu_s for one in done]),
                "wall_s": spread([one.wall_s for one in done]),
                "audio_s_per_cpu_s": spread([round(audio_s / one.cpu_s, 2) for one in done]),
                "same_text_in_all_runs": all(one.texts == done[0].texts for one in done),
                "texts": done[0].texts,
            }
            for kind, done in runs.items()
        },
        "times_as_fast": {
            ours: {
                plain: spread([round(b.cpu_s / a.cpu_s, 2) for a, b in zip(runs[ours], runs[plain], strict=True)])
                for plain in PLAIN
                if plain in runs
            }
            for ours in OURS
            if ours in runs
        },
    }


def accuracy(runs: Runs, calls: list[Call]) -> dict[str, Any]:
    """Return word errors of each kind's first run, ours against the plain tools, and errors of our word times."""
    by_kind: dict[str, list[Errors]] = {
        kind: [
            sum((errors(call.said(channel), text) for channel, text in enumerate(texts)), Errors())
            for call, texts in zip(calls, done[0].texts, strict=True)
        ]
        for kind, done in runs.items()
    }
    figures: dict[str, Any] = {
        "errors": {
            kind: {
                "all": sum(found, Errors()).described(),
                **{
                    variant: sum(
                        (one for one, call in zip(found, calls, strict=True) if call.variant == variant), Errors()
                    ).described()
                    for variant in sorted({call.variant for call in calls})
                },
                "calls": [one.described() for one in found],
            }
            for kind, found in by_kind.items()
        },
        "difference": {
            ours: {plain: difference(by_kind[ours], by_kind[plain]) for plain in PLAIN if plain in by_kind}
            for ours in OURS
            if ours in by_kind
        },
    }
    if "transcriber" in runs:
        timing = TimingErrors()
        for call, segments in zip(calls, runs["transcriber"][0].segments, strict=True):
            timing.add(call, segments)
        figures["word_times"] = timing.described()
    return figures


def disagreement(runs: Runs) -> dict[str, dict[str, float]]:
    """Return by how many percent of the second's words each two kinds differ, over all legs."""

    def between(one: str, other: str) -> float:
        pairs = [
            (a, b)
            for texts, others in zip(runs[one][0].texts, runs[other][0].texts, strict=True)
            for a, b in zip(texts, others, strict=True)
        ]
        return round(sum((errors(b, a) for a, b in pairs), Errors()).percent, 2)

    return {one: {other: between(one, other) for other in runs if other != one} for one in runs}
