"""Runs of the contenders over sets, and the figures of each: coverage, word errors by kind, speed."""

import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from benchmarks.heard.contenders import Job, Kind, Outcome, Work, in_own_process
from benchmarks.heard.coverage import coverage, total, without_words
from benchmarks.heard.sets import Set
from benchmarks.heard.texts import word_errors
from benchmarks.speech.scoring import Errors, difference

FOLDER: Final = Path("~/.cache/callstream/heard/outcomes").expanduser()
KEPT: Final[tuple[Kind, ...]] = ("whisperx", "windows")
"""The plain tools, whose text for the same samples and model is always the same."""


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a measurement. `model`: a directory; `model_id` tells models apart."""

    model: str
    model_id: str
    threads: int
    changes: list[str]
    again: bool


def outcomes(
    sets: Sequence[Set], kinds: Sequence[Kind], run: Run, folder: Path = FOLDER
) -> Iterator[tuple[Set, Kind, Outcome, bool]]:
    """Yield what each kind made of each set, ours first; True with what was kept of an earlier run.

    What the plain tools make of a set is kept, unless `run.again`.
    """
    for kind in kinds:
        waiting = []
        for one in sets:
            kept = _kept(folder, one, kind, run)
            if kind in KEPT and kept.exists() and not run.again:
                yield one, kind, msgspec.json.decode(kept.read_bytes(), type=Outcome), True
            else:
                waiting.append(one)
        by_name = {one.name: one for one in waiting}
        if waiting:
            for outcome in in_own_process(_job(kind, waiting, run)):
                one = by_name[outcome.name]
                if kind in KEPT:
                    folder.mkdir(parents=True, exist_ok=True)
                    _kept(folder, one, kind, run).write_bytes(msgspec.json.encode(outcome))
                yield one, kind, outcome, False


def figures(one: Set, outcome: Outcome) -> dict[str, Any]:
    """Return what one kind made of one set."""
    found, errors = [], []
    for recording, duration_s, channels in zip(one.recordings, one.duration_s, outcome.heard, strict=True):
        wrong = Errors()
        for leg, heard in zip(recording.legs, channels, strict=True):
            found.append(coverage(leg, heard, duration_s))
            if leg.text is not None:
                wrong += word_errors(leg.text, heard.text, leg.language)
        errors.append(wrong)
    return {
        "cpu_s": round(outcome.cpu_s, 2),
        "audio_s_per_cpu_s": round(one.channel_s / outcome.cpu_s, 2),
        "coverage": total(found).described(),
        "errors": sum(errors, Errors()).described(),
        "calls": [wrong.described() for wrong in errors],
        "guards": outcome.guards,
        "languages": outcome.languages,
        "without_words": [
            [without_words(leg, heard) for leg, heard in zip(recording.legs, channels, strict=True)]
            for recording, channels in zip(one.recordings, outcome.heard, strict=True)
            if channels[0].words is not None
        ],
        "texts": [[heard.text for heard in channels] for channels in outcome.heard],
    }


def report(
    sets: Sequence[Set], kinds: Sequence[Kind], run: Run, on_figures: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Measure all. `on_figures` is called with the report so far after each set of each kind."""
    made: dict[str, Any] = {
        one.name: {
            "corpus": one.corpus,
            "condition": one.condition,
            "language": one.language,
            "recordings": [recording.name for recording in one.recordings],
            "channel_s": round(one.channel_s, 1),
            "sha256": one.sha256[:16],
            "kinds": {},
        }
        for one in sets
    }
    for one, kind, outcome, kept in outcomes(sets, kinds, run):
        made[one.name]["kinds"][kind] = figures(one, outcome) | {"kept_from_an_earlier_run": kept}
        print(f"{kind} {one.name}: CPU {outcome.cpu_s:.1f} s{', kept' if kept else ''}", file=sys.stderr, flush=True)
        on_figures(made)
    return made


def against(made: dict[str, Any], ours: str, other: str, names: Sequence[str]) -> dict[str, float] | None:
    """Return ours minus theirs in points of word error rate over sets, with its interval; None without texts."""
    pairs = [
        (_errors(a), _errors(b))
        for name in names
        if ours in made[name]["kinds"] and other in made[name]["kinds"]
        for a, b in zip(made[name]["kinds"][ours]["calls"], made[name]["kinds"][other]["calls"], strict=True)
    ]
    if not sum(b.words for _, b in pairs):
        return None
    return difference([a for a, _ in pairs], [b for _, b in pairs])


def _errors(described: dict[str, Any]) -> Errors:
    return Errors(described["words"], described["substituted"], described["deleted"], described["inserted"])


def _job(kind: Kind, sets: Sequence[Set], run: Run) -> Job:
    return Job(
        kind=kind,
        sets=[
            Work(
                name=one.name,
                language=one.language,
                files=[recording.file for recording in one.recordings],
                channels=one.channels,
            )
            for one in sets
        ],
        model=run.model,
        threads=run.threads,
        changes=run.changes,
    )


def _kept(folder: Path, one: Set, kind: Kind, run: Run) -> Path:
    key = "\n".join([kind, one.name, one.sha256, str(one.language), run.model_id])
    return folder / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
