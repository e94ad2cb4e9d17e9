"""The one-word table: lines of prompts and digits, and what becomes of each word."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from benchmarks.heard.clips import Clip
from benchmarks.heard.contenders import Job, Kind, Work, in_own_process
from benchmarks.heard.lines import Line
from benchmarks.heard.measuring import Run
from benchmarks.heard.repeats import Count, counted
from benchmarks.heard.sets import write
from benchmarks.heard.word_lines import a_second_apart, alone_lines, one_a_second

WAYS: Final[dict[str, Callable[[Sequence[Clip]], list[Line]]]] = {
    "alone": alone_lines,
    "one a second": one_a_second,
    "a second apart": a_second_apart,
}


class WordSet(msgspec.Struct, frozen=True, kw_only=True):
    """Lines of one language, said in one way. `files`: of each line."""

    name: str
    way: str
    language: str
    lines: list[Line]
    files: list[str]


def word_sets(clips: Sequence[Clip], by_people: Sequence[Clip], folder: Path) -> list[WordSet]:
    """Return the lines of prompts by language and way, and people's digits one a second, written as files."""
    made = []
    for way, lines_of in WAYS.items():
        for language in dict.fromkeys(clip.language for clip in clips):
            own = [clip for clip in clips if clip.language == language]
            made.append(_written(f"{language}, {way}", way, language, lines_of(own), folder))
    if by_people:
        made.append(_written("digits of people, one a second", "one a second", "en", one_a_second(by_people), folder))
    return made


def words_report(
    sets: Sequence[WordSet], kinds: Sequence[Kind], run: Run, on_figures: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Return the counts of each set by kind. `on_figures` is called with those so far after each set of each kind."""
    by_name = {one.name: one for one in sets}
    made: dict[str, Any] = {
        one.name: {"way": one.way, "language": one.language, "lines": len(one.lines), "kinds": {}} for one in sets
    }
    for kind in kinds:
        work = [Work(name=one.name, language=one.language, files=one.files, channels=1) for one in sets]
        job = Job(kind=kind, sets=work, model=run.model, threads=run.threads, changes=run.changes)
        for outcome in in_own_process(job):
            one = by_name[outcome.name]
            count = Count()
            for line, [heard] in zip(one.lines, outcome.heard, strict=True):
                count += counted(line, heard.words or [])
            made[one.name]["kinds"][kind] = count.described() | {
                "cpu_s": round(outcome.cpu_s, 2),
                "guards": outcome.guards,
                "texts": {line.name: heard.text for line, [heard] in zip(one.lines, outcome.heard, strict=True)},
            }
            print(f"{kind} {one.name}: CPU {outcome.cpu_s:.1f} s", file=sys.stderr, flush=True)
            on_figures(made)
    return made


def _written(name: str, way: str, language: str, lines: list[Line], folder: Path) -> WordSet:
    place = folder / name.replace(" ", "-").replace(",", "")
    place.mkdir(parents=True)
    files = []
    for number, line in enumerate(lines):
        path = place / f"{number:04}.wav"
        write(path, [line.samples])
        files.append(str(path))
    return WordSet(name=name, way=way, language=language, lines=lines, files=files)
