"""Many calls under faults of workers, broker, network, device, clock and records: is anything lost, doubled, altered?

Plain producers send calls until all faults have happened. Then the same calls go through an undisturbed pipeline, and
the contents of all topics and of the warehouse after both runs are compared, record by record and row by row. Without
`--real-model` the transcriber's text is a hash of its samples.

    python -m benchmarks.chaos --kills 120 --each 8 --json FILE

What it does not show: a machine that loses power (kill -9 leaves what the kernel has taken), a disk that is slow or
lies about what it has synced, packets that are lost or reordered below TCP, a step of the broker's own clock, a broker
of more than one node.
"""

import argparse
import asyncio
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.chaos.checks import Findings, check
from benchmarks.chaos.disk import namespace
from benchmarks.chaos.plan import FaultPlan
from benchmarks.chaos.run import Load, NotCompleted, Outcome, Run
from benchmarks.harness.command import add_outputs, benchmark_parser
from benchmarks.harness.report import write_report

SHOWN = 40


def parser() -> argparse.ArgumentParser:
    made = benchmark_parser("chaos", __doc__)
    made.add_argument("--bus", choices=("jetstream", "kafka"), default="jetstream", help="broker (jetstream)")
    made.add_argument("--kills", type=int, default=200, help="kills, a tenth of them of the broker (200)")
    made.add_argument("--calls", type=int, default=5, help="calls at a time (5)")
    made.add_argument("--seconds", type=float, nargs=2, default=(15.0, 45.0), help="shortest and longest call (15 45)")
    made.add_argument("--speed", type=float, default=4.0, help="times the speed of speech (4)")
    made.add_argument("--gap", type=float, default=3.0, help="seconds between two faults, on average (3)")
    made.add_argument("--pause", type=float, default=30.0, help="seconds that the broker is paused (30)")
    made.add_argument("--pauses", type=int, help="pauses of the broker (one for every 60 kills)")
    made.add_argument("--fills", type=int, help="times that the store's disk is full (one for every 60 kills)")
    made.add_argument("--freezes", type=int, help="pauses of a worker past its lease (one for every 20 kills)")
    made.add_argument("--long-freezes", type=int, help="pauses of a worker for minutes (one for every 60 kills)")
    made.add_argument("--long", type=float, nargs=2, default=(60.0, 150.0), help="seconds that they last (60 150)")
    made.add_argument(
        "--each",
        type=int,
        help="number of latencies, cuts and partitions of one worker, partitions of all but one, device failures and "
        "clock steps each, and a third of the poison records (one for every 20 kills)",
    )
    made.add_argument("--real-model", action="store_true", help="transcribe with CALLSTREAM_MODEL's default")
    made.add_argument("--seed", type=int, default=1, help="seed of calls and faults (1)")
    made.add_argument("--keep", type=Path, metavar="DIR", help="keep logs, stores and tables there")
    add_outputs(made)
    return made


def plan(given: argparse.Namespace) -> FaultPlan:
    seldom = 1 + given.kills // 60
    each = given.kills // 20 if given.each is None else given.each
    return FaultPlan(
        kills=given.kills,
        broker_kills=max(1, given.kills // 10),
        broker_pauses=seldom if given.pauses is None else given.pauses,
        broker_pause_s=given.pause,
        disk_fills=seldom if given.fills is None else given.fills,
        disk_full_s=6.0,
        additions=given.kills // 10,
        removals=given.kills // 10,
        worker_pauses=given.kills // 20 if given.freezes is None else given.freezes,
        worker_pause_s=(1.0, 25.0),
        long_pauses=seldom if given.long_freezes is None else given.long_freezes,
        long_pause_s=tuple(given.long),
        latencies=each,
        cuts=each,
        partitions=each,
        lone_workers=each,
        device_failures=each,
        clock_steps=each,
        poisons=3 * each,
        gap_s=given.gap,
    )


async def both_runs(folder: Path, load: Load, faults: FaultPlan) -> tuple[Outcome, Outcome]:
    with Run(folder / "chaos", load) as run:
        chaos = await run.chaos(faults)
    print(f"  sending the {len(chaos.calls)} calls again, undisturbed", file=sys.stderr, flush=True)
    with Run(folder / "calm", load) as run:
        calm = await run.calm(sorted(chaos.calls))
    return chaos, calm


def figures(given: argparse.Namespace, chaos: Outcome, findings: Findings) -> dict[str, Any]:
    done = chaos.done
    return {
        "bus": given.bus,
        "seed": given.seed,
        "transcriber": "model" if given.real_model else "hash of the samples",
        "calls": len(chaos.calls),
        "calls_at_a_time": given.calls,
        "speed": given.speed,
        "audio_s": round(sum(chaos.calls.values())),
        "wall_s": round(chaos.wall_s),
        "faults": sum(done.by_kind().values()),
        "faults_by_kind": done.by_kind(),
        "calls_of_a_failing_device": chaos.device_failures,
        "kills": done.kills.total() + done.broker_kills,
        "worker_kills": dict(done.kills),
        "worker_kills_with_unacknowledged_input": dict(done.hits),
        "worker_kills_while_the_broker_was_away": dict(done.unasked),
        "broker_kills": done.broker_kills,
        "broker_pauses": done.broker_pauses,
        "broker_pause_s": given.pause,
        "disk_fills": done.disk_fills,
        "broker_restarts_after_full_disk": done.broker_restarts_after_full_disk,
        "workers_added": dict(done.additions),
        "workers_removed": dict(done.removals),
        "workers_paused": dict(done.worker_pauses),
        "workers_paused_for_minutes": dict(done.long_pauses),
        "latencies": dict(done.latencies),
        "cuts": dict(done.cuts),
        "partitions": dict(done.partitions),
        "lone_workers": dict(done.lone_workers),
        "clock_steps": dict(done.clock_steps),
        "poisons": dict(Counter(poison.topic for poison in done.poisons)),
        "dead_letters_of_poison": len(chaos.evidence.letters),
        "workers_ended_by_themselves": chaos.ended_by_themselves,
        "records": dict(findings.records),
        "sent_again_by_producers": chaos.resent,
        "repeats_seen_outside": dict(findings.repeats),
        "lost": +findings.lost,
        "doubled": +findings.doubled,
        "altered": +findings.altered,
        "wrong": findings.wrong,
        "not_done": chaos.not_done,
    }


def main() -> int:
    given = parser().parse_args()
    inside = "CHAOS_NAMESPACE"
    if inside not in os.environ and (before := namespace()):
        command = [*before, sys.executable, "-m", "benchmarks.chaos", *sys.argv[1:]]
        os.execvpe(command[0], command, os.environ | {inside: "1"})
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # a namespace's first process ignores it by default
    folder = given.keep or Path(tempfile.mkdtemp(prefix="callstream-chaos-"))
    load = Load(
        bus=given.bus,
        concurrent=given.calls,
        seconds=tuple(given.seconds),
        speed=given.speed,
        seed=given.seed,
        real_model=given.real_model,
    )
    began = time.monotonic()
    try:
        chaos, calm = asyncio.run(both_runs(folder, load, plan(given)))
    except NotCompleted as error:
        print(f"{error}; everything is in {folder}", file=sys.stderr)
        return 1
    findings = check(chaos, calm)
    report = figures(given, chaos, findings)
    for name, value in report.items():
        if name not in ("wrong", "faults_by_kind"):
            print(f"{name:<40} {value}")
    print("\n| kind of fault | times |\n|---|---|")
    for kind, times in report["faults_by_kind"].items():
        print(f"| {kind} | {times} |")
    for line in findings.wrong[:SHOWN]:
        print(f"WRONG: {line}")
    sent = {"calls": report["calls"], "audio_s": report["audio_s"], "seed": given.seed}
    write_report("chaos", report, given.json, given=sent, runs=1)
    print(f"{len(findings.wrong)} things are wrong; {time.monotonic() - began:.0f} s")
    if findings.wrong:
        print(f"everything is in {folder}")
        return 1
    if given.keep is None:
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
