"""Calls whose every word is known: make them, and score the transcriber on them.

    python -m benchmarks.speech make [--calls 30] [--seed 1]
    python -m benchmarks.speech score [--quick] [--set beam_size=1]… [--against FILE] [--json FILE]
    python -m benchmarks.speech cuts [--monologues 24] [--seed 1] [--set beam_size=1]… [--json FILE]

`make` builds telephone calls from our own sentences and a text-to-speech voice and keeps them in
~/.cache/callstream/speech. It needs the dependency group `bench`.

`score` runs the separate and transcribe stages over them in this process, without a bus, and prints word errors, CPU
time (without loading), word times and starts of turns against the script, and what the guards dropped. `--against`
compares with the JSON of an earlier run over the same calls; the interval of the difference in word errors is from a
paired bootstrap over calls.

`cuts` does the same with speakers who talk for 30 to 60 s without a pause (`benchmarks.speech.monologues`) and counts
changed, lost and inserted words within 1 s of a hard cut, and elsewhere.

What it does not show: accuracy on real calls. A synthetic voice is clearer than people; the figures compare
transcribers and detect regressions.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.harness.clock import Clock
from benchmarks.harness.command import add_outputs, add_settings, benchmark_parser
from benchmarks.harness.offline import OfflineStages, settings_of, texts_of
from benchmarks.harness.report import write_report
from benchmarks.speech.boundaries import Boundaries, boundaries, turns_of
from benchmarks.speech.corpus import FOLDER, N_CALLS, SEED, VARIANTS, Corpus, corpus
from benchmarks.speech.cuts import CutErrors, cut_errors
from benchmarks.speech.monologues import N_MONOLOGUES, monologues
from benchmarks.speech.monologues import VARIANTS as MONOLOGUE_VARIANTS
from benchmarks.speech.scoring import Errors, difference, errors, places
from benchmarks.speech.timing import TimingErrors

QUICK_CALLS = 9


def parser() -> argparse.ArgumentParser:
    made = benchmark_parser("speech", __doc__)
    commands = made.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make", help="make the calls that do not exist yet")
    scoring = commands.add_parser("score", help="transcribe the calls and count word errors")
    cutting = commands.add_parser("cuts", help="count word errors beside cuts in the middle of speech")
    cutting.add_argument("--monologues", type=int, default=N_MONOLOGUES, help=f"number of monologues ({N_MONOLOGUES})")
    for command in (making, scoring):
        command.add_argument("--calls", type=int, default=N_CALLS, help=f"number of calls ({N_CALLS})")
    for command in (making, scoring, cutting):
        command.add_argument("--seed", type=int, default=SEED, help=f"seed of the draw ({SEED})")
        command.add_argument("--folder", type=Path, default=FOLDER, help=f"folder of the calls ({FOLDER})")
        add_outputs(command)
    scoring.add_argument("--quick", action="store_true", help=f"only the first {QUICK_CALLS} calls")
    scoring.add_argument("--variant", choices=VARIANTS, help="only calls of this variant")
    for command in (scoring, cutting):
        add_settings(command)
    scoring.add_argument("--against", type=Path, metavar="FILE", help="JSON of an earlier run")
    scoring.add_argument("--places", type=int, default=0, help="errors to list for each call (0)")
    return made


def main() -> int:
    given = parser().parse_args()
    figures: dict[str, Any] = {}
    if given.command == "cuts":
        spoken = monologues(given.folder, n=given.monologues, seed=given.seed, on_progress=_progress)
        figures = asyncio.run(cut_up(spoken, given.set))
        _show_cuts(figures)
    else:
        n_calls = min(given.calls, QUICK_CALLS) if given.command == "score" and given.quick else given.calls
        spoken = corpus(given.folder, n_calls=n_calls, seed=given.seed, on_progress=_progress)
        if given.command == "make":
            print(spoken.folder)
        else:
            spoken = spoken.of(given.variant) if given.variant else spoken
            figures = asyncio.run(scored(spoken, given.set))
            if given.against is not None:
                earlier = json.loads(given.against.read_text(encoding="utf-8"))
                figures["against"] = compared(figures, earlier, spoken.described())
            _show(figures, given.places)
    described = spoken.described() | {name: figures.pop(name) for name in ("channel_s",) if name in figures}
    write_report(f"speech {given.command}", figures, given.json, given=described, runs=1)
    return 0


async def scored(calls: Corpus, changes: list[str]) -> dict[str, Any]:
    """Run our transcriber over `calls` and return all figures."""
    with tempfile.TemporaryDirectory() as folder:
        async with OfflineStages(settings_of(Path(folder), changes)) as stages:
            await stages.transcribe_file(calls.path(calls.calls[0]))  # not measured: the first decode is slow
            with Clock() as clock:
                heard = await stages.transcribe_files([calls.path(call) for call in calls.calls])
    timing, guards = TimingErrors(), Counter[str]()
    turns: dict[str, Boundaries] = {}
    rows = []
    for call, segments in zip(calls.calls, heard, strict=True):
        timing.add(call, segments)
        found = boundaries(call, await turns_of(call, segments))
        for name in ("all", call.variant):
            turns[name] = turns.get(name, Boundaries()) + found
        guards.update(segment.guard for segment in segments if segment.guard is not None)
        texts = texts_of(segments)
        one = [errors(call.said(channel), text) for channel, text in enumerate(texts)]
        rows.append(
            {
                "call": call.name,
                "variant": call.variant,
                "errors": sum(one, Errors()).described(),
                "texts": texts,
                "places": [place for channel, text in enumerate(texts) for place in places(call.said(channel), text)],
            }
        )
    return {
        "settings": changes,
        "cpu_s": clock.cpu_s,
        "wall_s": clock.wall_s,
        "audio_s_per_cpu_s": round(calls.audio_s / clock.cpu_s, 2),
        "errors": {name: total.described() for name, total in _totals(rows).items()},
        "word_times": timing.described(),
        "turns": {name: one.described() for name, one in turns.items()},
        "guards": dict(guards),
        "calls": rows,
    }


async def cut_up(spoken: Corpus, changes: list[str]) -> dict[str, Any]:
    """Run our transcriber over monologues and return word errors beside hard cuts and elsewhere."""
    with tempfile.TemporaryDirectory() as folder:
        async with OfflineStages(settings_of(Path(folder), changes)) as stages:
            cuts = [await stages.utterances(spoken.path(call)) for call in spoken.calls]
            await stages.transcribe_file(spoken.path(spoken.calls[0]))  # not measured: the first decode is slow
            with Clock() as clock:
                heard = await stages.transcribe_files([spoken.path(call) for call in spoken.calls])
    found = {
        call.name: cut_errors(call, utterances, segments)
        for call, utterances, segments in zip(spoken.calls, cuts, heard, strict=True)
    }
    of_variant = {
        variant: sum((found[call.name] for call in spoken.calls if call.variant == variant), CutErrors())
        for variant in MONOLOGUE_VARIANTS
    }
    return {
        "channel_s": round(sum(call.duration_s for call in spoken.calls), 1),
        "settings": changes,
        "cpu_s": clock.cpu_s,
        "cuts": {"all": sum(found.values(), CutErrors()).described()}
        | {variant: errors.described() for variant, errors in of_variant.items()},
    }


def compared(ours: dict[str, Any], theirs: dict[str, Any], calls: dict[str, Any]) -> dict[str, Any]:
    """Return the differences of this run to an earlier one. Raises SystemExit if it was over other calls."""
    if [row["call"] for row in ours["calls"]] != [row["call"] for row in theirs["calls"]] or (
        calls["sha256"] != theirs["input"]["sha256"]
    ):
        raise SystemExit("the earlier run was over other calls")
    found = {
        variant: difference(_errors(ours, variant), _errors(theirs, variant))
        for variant in ("all", *VARIANTS)
        if _errors(ours, variant)
    }
    return {"word_errors": found, "cpu": round(ours["cpu_s"] / theirs["cpu_s"], 3)}


def _errors(figures: dict[str, Any], variant: str) -> list[Errors]:
    return [_counts(row["errors"]) for row in figures["calls"] if variant in ("all", row["variant"])]


def _counts(described: dict[str, Any]) -> Errors:
    return Errors(described["words"], described["substituted"], described["deleted"], described["inserted"])


def _totals(rows: list[dict[str, Any]]) -> dict[str, Errors]:
    totals = {"all": sum((_counts(row["errors"]) for row in rows), Errors())}
    for variant in VARIANTS:
        of_variant = [_counts(row["errors"]) for row in rows if row["variant"] == variant]
        if of_variant:
            totals[variant] = sum(of_variant, Errors())
    return totals


def _show(figures: dict[str, Any], n_places: int) -> None:
    print(f"settings    {figures['settings'] or 'as a deployment'}")
    print(f"CPU         {figures['cpu_s']:.1f} s, {figures['audio_s_per_cpu_s']} audio s per CPU s (both legs count)")
    for name, one in figures["errors"].items():
        print(f"{name:<11} {_counts(one)}")
    for source, one in figures["word_times"].items():
        print(f"word times  {source}: {one}")
    for name, one in figures["turns"].items():
        needless = f"{100 * one['needless_short']:.1f} % short ones that the script does not have"
        print(f"turns       {name}: F1 {one['f1']:.3f} of {one['script']} starts, {needless}")
    print(f"guards      {figures['guards']}")
    if "against" in figures:
        for name, one in figures["against"]["word_errors"].items():
            print(f"against     {name}: {one['points']:+.2f} points (95 %: {one['low']:+.2f} to {one['high']:+.2f})")
        print(f"against     {figures['against']['cpu']} × its CPU time")
    for row in figures["calls"]:
        for place in row["places"][:n_places]:
            print(f"  {row['call']}: {place}")


def _show_cuts(figures: dict[str, Any]) -> None:
    print(f"settings    {figures['settings'] or 'as a deployment'}")
    print("| monologues | hard cuts | inside a word | errors within 1 s of one | elsewhere |\n|---|---|---|---|---|")
    for name, one in figures["cuts"].items():
        beside, elsewhere = _place(one["beside"]), _place(one["elsewhere"])
        print(f"| {name} | {one['cuts']} | {one['inside_a_word']} | {beside} | {elsewhere} |")
    for example in figures["cuts"]["all"]["examples"]:
        print(f"  {example}")


def _place(one: dict[str, Any]) -> str:
    changed, lost, inserted = one["changed"], one["lost"], one["inserted"]
    return f"{one['percent']:.1f} % of {one['words']:,} ({changed} changed, {lost} lost, {inserted} inserted)"


def _progress(done: int, of: int) -> None:
    print(f"making call {done + 1} of {of}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
