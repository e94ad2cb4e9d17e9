"""Latency of live calls, how many of them fit, and what backfill beside them costs.

    python -m benchmarks.live calls --calls 4 [--seconds 60]
    python -m benchmarks.live search [--from 4] [--limit 3.0]
    python -m benchmarks.live isolation [--calls 4] [--bus jetstream]

A pipeline is started (`--bus embedded`: `callstream up`; `jetstream`, `kafka`: a broker and a worker for each stage),
warmed up with a call, and sent two-channel calls at the speed of speech in blocks of 0.2 s. At least 40 % of each leg
is speech: legs of the script-truth calls and, with `--real`, of real ones, each from its own offset, with pauses
shortened where necessary. The first `--watched` calls ask for partials.

- `calls`: p50, p95 and p99 from the end of speech to the final segment and from the end of a word to its first sight,
  texts that took back committed words, and the share of words committed before the final.
- `search`: the same for more and more calls until the p95 of the finals exceeds `--limit`, then in between.
- `isolation`: the p95 of the finals without and with a saturating backfill, alternating.

All times are from one clock in the measuring process, which also sends, so the time to see a record is included. "End
of speech" is the detector's last voiced moment of the utterance, so the pause that ends an utterance (0.7 s) is
included, too.

What it does not show: a network, a GPU, calls of hours.
"""

import argparse
import asyncio
import contextlib
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final, get_args

from benchmarks.harness.command import add_outputs, add_settings, benchmark_parser
from benchmarks.harness.report import spread, write_report
from benchmarks.live.figures import latencies
from benchmarks.live.service import BusKind, running
from benchmarks.live.speakers import Samples, conversations, legs_of
from benchmarks.live.traffic import Backfill, Sightings, run_calls
from benchmarks.speech.corpus import FOLDER, N_CALLS, corpus
from pipeline.bus.opening import open_bus
from pipeline.bus.protocol import Bus
from pipeline.bus.security import BusSecurity
from stages.separate.speech import load_voice_activity_model

WARM_UP_S: Final = 12.0
DRAIN_S: Final = 60.0
LANGUAGE: Final = "en"


def parser() -> argparse.ArgumentParser:
    made = benchmark_parser("live", __doc__)
    commands = made.add_subparsers(dest="command", required=True)
    one = commands.add_parser("calls", help="latency of a number of calls")
    search = commands.add_parser("search", help="how many calls fit")
    isolation = commands.add_parser("isolation", help="latency without and with backfill")
    for command in (one, search, isolation):
        command.add_argument("--bus", choices=get_args(BusKind), default="embedded", help="where it runs (embedded)")
        command.add_argument("--seconds", type=float, default=60.0, help="length of the calls in seconds (60)")
        command.add_argument("--watched", type=int, default=1, help="calls that ask for partials (1)")
        command.add_argument("--model", default="base", help="name, directory or package:NAME (base)")
        add_settings(command)
        command.add_argument("--real", nargs="+", type=Path, default=[], metavar="FILE", help="real recordings")
        command.add_argument(
            "--sources", type=int, default=N_CALLS, help=f"script-truth calls to take from ({N_CALLS})"
        )
        command.add_argument("--seed", type=int, default=1, help="seed of offsets and pairs (1)")
        command.add_argument("--runs", type=int, default=1, help="repeats of each measurement (1)")
        add_outputs(command, plot="the distribution of latencies")
    for command in (one, isolation):
        command.add_argument("--calls", type=int, default=4, help="calls at a time (4)")
    search.add_argument("--from", type=int, default=4, dest="calls", help="first number of calls (4)")
    search.add_argument("--to", type=int, default=64, help="highest number of calls (64)")
    search.add_argument("--limit", type=float, default=3.0, help="highest p95 of the finals in seconds (3.0)")
    isolation.add_argument("--backlog", type=int, default=12, help="backfill calls in flight (12)")
    return made


def main() -> int:
    given = parser().parse_args()
    report = asyncio.run(measured(given))
    show(report)
    write_report(f"live {given.command}", report, given.json, given=report.pop("input"), runs=given.runs)
    if given.plot is not None:
        from benchmarks.harness.plots import draw_live

        draw_live(report, given.plot)
        print(f"drawn in {given.plot}")
    return 0


class Bench:
    """A running pipeline, the audio for it, and what is seen of its answers."""

    def __init__(self, bus: Bus, sightings: Sightings, audio: Iterator[Samples], given: argparse.Namespace) -> None:
        self.bus = bus
        self.sightings = sightings
        self._audio = audio
        self._given = given
        self._measured = 0

    def audio(self, n_calls: int) -> list[Samples]:
        return [next(self._audio) for _ in range(n_calls)]

    async def measure(self, audio: list[Samples], *, watched: int | None = None, label: str = "") -> dict[str, Any]:
        self._measured += 1
        calls = await run_calls(
            self.bus,
            self.sightings,
            audio,
            f"live-{self._measured}",
            watched=self._given.watched if watched is None else watched,
            drain_s=DRAIN_S,
            language=LANGUAGE,
        )
        figures = {"label": label or f"{len(audio)} calls", **latencies(calls, self.sightings)}
        print(_line(figures), file=sys.stderr, flush=True)
        return figures


async def measured(given: argparse.Namespace) -> dict[str, Any]:
    vad = load_voice_activity_model()
    spoken = corpus(FOLDER, n_calls=given.sources)
    files = [spoken.path(call) for call in spoken.calls]
    legs = legs_of([*files, *given.real], vad)
    report: dict[str, Any] = {
        "bus": given.bus,
        "model": given.model,
        "settings": given.set,
        "input": {
            "legs": len(legs),
            "speech_share": {
                "least": round(min(leg.share for leg in legs), 3),
                "most": round(max(leg.share for leg in legs), 3),
            },
            "seconds": given.seconds,
            "real": [path.name for path in given.real],
        },
    }
    settings = {"model": given.model, "language": LANGUAGE, **dict(change.split("=", 1) for change in given.set)}
    with tempfile.TemporaryDirectory() as folder, running(given.bus, Path(folder), settings) as (url, security):
        async with _watching(url, security) as (bus, sightings):
            warm_up = next(conversations(legs, WARM_UP_S, given.seed))
            await run_calls(bus, sightings, [warm_up], "warm-up", watched=1, drain_s=DRAIN_S, language=LANGUAGE)
            bench = Bench(bus, sightings, conversations(legs, given.seconds, given.seed), given)
            if given.command == "calls":
                report["measurements"] = [await bench.measure(bench.audio(given.calls)) for _ in range(given.runs)]
            elif given.command == "search":
                report |= await _search(bench, given)
            else:
                report |= await _isolation(bench, files, given)
    return report


@contextlib.asynccontextmanager
async def _watching(url: str, security: BusSecurity) -> AsyncIterator[tuple[Bus, Sightings]]:
    bus = await open_bus(url, security)
    sightings, ready = Sightings(), asyncio.Event()
    watching = asyncio.create_task(sightings.watch(bus, ready))
    try:
        await ready.wait()
        yield bus, sightings
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await bus.close()


async def _search(bench: Bench, given: argparse.Namespace) -> dict[str, Any]:
    """Double the number of calls while they fit, then bisect. A number fits when it does in each of `--runs`."""
    fits, fails, n_calls = 0, given.to + 1, min(given.calls, given.to)
    steps: list[dict[str, Any]] = []
    while fails - fits > 1:
        fit = True
        for _ in range(given.runs):
            found = await bench.measure(bench.audio(n_calls))
            steps.append(found)
            fit = found["final_s"] is not None and found["final_s"]["p95"] <= given.limit
            if not fit:
                break
        fits, fails = (n_calls, fails) if fit else (fits, n_calls)
        n_calls = min(2 * fits, fails - 1) if fails > given.to and fits else (fits + fails) // 2
    return {"limit_s": given.limit, "most_calls": fits, "measurements": steps}


async def _isolation(bench: Bench, files: list[Path], given: argparse.Namespace) -> dict[str, Any]:
    """Measure the same calls without and with backfill, alternating."""
    audio = bench.audio(given.calls)
    found: list[dict[str, Any]] = []
    ratios: list[float] = []
    backfilled = 0
    for _ in range(given.runs):
        without = await bench.measure(audio, label="without backfill")
        backfill = Backfill(bench.bus, bench.sightings, files, at_a_time=given.backlog, language=LANGUAGE)
        running_backfill = asyncio.create_task(backfill.run())
        while not backfill.has_begun:
            await asyncio.sleep(0.2)
            if running_backfill.done():
                running_backfill.result()
        beside = await bench.measure(audio, label="with backfill")
        backfill.stop()
        await running_backfill
        bench.sightings.forget("backfill-")
        backfilled += backfill.calls
        found += [without, beside]
        ratios.append(round(beside["final_s"]["p95"] / without["final_s"]["p95"], 3))
    return {"p95_ratio": spread(ratios), "backfilled_calls": backfilled, "measurements": found}


def show(report: dict[str, Any]) -> None:
    print(f"bus {report['bus']}, model {report['model']}, settings {report['settings'] or 'as a deployment'}")
    print("| | finals p50 / p95 / p99 s | first shown p50 / p95 / p99 s | flips | committed early | producer late s |")
    print("|---|---|---|---|---|---|")
    for one in report["measurements"]:
        early = "–" if one["committed_early"] is None else f"{100 * one['committed_early']:.0f} % of {one['words']}"
        cells = [one["label"], _triple(one["final_s"]), _triple(one["shown_s"]), one["flips"], early]
        print("| " + " | ".join(map(str, [*cells, one["producer_late_s"]])) + " |")
    if "most_calls" in report:
        print(f"{report['most_calls']} calls fit below {report['limit_s']} s")
    if "p95_ratio" in report:
        print(f"p95 with backfill: {report['p95_ratio']['median']} × that without ({report['p95_ratio']['runs']})")


def _triple(values: dict[str, Any] | None) -> str:
    return "–" if values is None else f"{values['p50']:.2f} / {values['p95']:.2f} / {values['p99']:.2f} ({values['n']})"


def _line(one: dict[str, Any]) -> str:
    return f"{one['label']}: finals {_triple(one['final_s'])}, shown {_triple(one['shown_s'])}, flips {one['flips']}"


if __name__ == "__main__":
    sys.exit(main())
