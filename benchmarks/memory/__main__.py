"""Peak memory of the whole process tree for a short and for an hour-long call.

    python -m benchmarks.memory [FILE] [--minutes 1 60] [--json FILE]

FILE (the sample call) is repeated to the given length and transcribed by `callstream transcribe` on a fresh data
directory: producer, JetStream, all stages, the model and DuckDB, up to the summary. The resident memory of the command
and of its nats-server is read every 0.2 s; the peak of their sum is what a machine needs. Pages that two processes
share count twice; the page cache does not count.

What it does not show: several calls at a time, other models, a GPU, an instance that runs for days.
"""

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import psutil

from benchmarks.harness.command import add_call, add_outputs, benchmark_parser
from benchmarks.harness.report import write_report
from tests.calls import bad
from tests.support.processes.deployment import COMMAND, Deployment

SAMPLE_EVERY_S = 0.2
LIMIT_MB = 300


class Peak(msgspec.Struct, kw_only=True):
    """Peaks of one call, in MB (10^6 bytes). `total_mb` is the largest sum at one moment, not the sum of the peaks."""

    minutes: float
    total_mb: float = 0.0
    command_mb: float = 0.0
    nats_server_mb: float = 0.0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    over_time_mb: list[tuple[float, float, float]] = []
    """About twelve readings: seconds since the start, MB of the command, MB of nats-server."""


def measure(call: Path, minutes: float, folder: Path) -> Peak:
    """Transcribe `minutes` of `call` in a separate process. Raises AssertionError when the command fails."""
    path = bad.hour_long(folder / f"{minutes:g}-minutes.wav", call, seconds=60 * minutes)
    deployment = Deployment(folder / f"data-{minutes:g}")
    began = time.monotonic()
    with open(folder / "stderr", "wb") as errors:
        process = subprocess.Popen(
            [COMMAND, "transcribe", str(path)],
            env=deployment.environment,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
        peak = watch(psutil.Process(process.pid), Peak(minutes=minutes), began)
        code = process.wait()
    peak.wall_s = round(time.monotonic() - began, 1)
    if code:
        raise AssertionError(f"the command exited {code}: {(folder / 'stderr').read_text()[-2000:]}")
    path.unlink()
    return peak


def watch(command: psutil.Process, peak: Peak, began: float) -> Peak:
    """Read the memory of the process tree until the command has ended."""
    cpu_s: dict[int, float] = {}
    series: list[tuple[float, float, float]] = []
    while command.status() != psutil.STATUS_ZOMBIE:
        held_mb = {"command": 0.0, "nats-server": 0.0}
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in [command, *command.children(recursive=True)]:
                name = "command" if process.pid == command.pid else process.name()
                used = process.cpu_times()
                held_mb[name] = held_mb.get(name, 0.0) + process.memory_info().rss / 1e6
                cpu_s[process.pid] = used.user + used.system
        peak.total_mb = max(peak.total_mb, sum(held_mb.values()))
        peak.command_mb = max(peak.command_mb, held_mb["command"])
        peak.nats_server_mb = max(peak.nats_server_mb, held_mb["nats-server"])
        series.append((round(time.monotonic() - began, 1), round(held_mb["command"]), round(held_mb["nats-server"])))
        time.sleep(SAMPLE_EVERY_S)
    peak.cpu_s = round(sum(cpu_s.values()), 1)
    peak.over_time_mb = series[:: max(1, len(series) // 12)]
    return peak


def show(peaks: list[Peak]) -> None:
    print("| call | peak MB | command | nats-server | wall s | CPU s |")
    print("|---|---|---|---|---|---|")
    for peak in peaks:
        print(
            f"| {peak.minutes:g} min | {peak.total_mb:.0f} | {peak.command_mb:.0f} | {peak.nats_server_mb:.0f} "
            f"| {peak.wall_s:.0f} | {peak.cpu_s:.0f} |"
        )
    print(f"\nfrom shortest to longest: {growth_mb(peaks):+.0f} MB, allowed {LIMIT_MB}")


def growth_mb(peaks: list[Peak]) -> float:
    shortest, longest = min(peaks, key=lambda peak: peak.minutes), max(peaks, key=lambda peak: peak.minutes)
    return longest.total_mb - shortest.total_mb


def parser() -> argparse.ArgumentParser:
    made = benchmark_parser("memory", __doc__)
    add_call(made)
    made.add_argument("--minutes", type=float, nargs="+", default=[1.0, 60.0], help="lengths of the calls (1 60)")
    add_outputs(made)
    return made


def main() -> int:
    given = parser().parse_args()
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        for minutes in given.minutes:
            peaks.append(measure(given.file, minutes, Path(folder)))
            print(f"{minutes:g} minutes: peak {peaks[-1].total_mb:.0f} MB", file=sys.stderr)
    show(peaks)
    figures: dict[str, Any] = {
        "calls": msgspec.to_builtins(peaks),
        "growth_mb": round(growth_mb(peaks)),
        "limit_mb": LIMIT_MB,
    }
    audio = {"file": given.file.name, "minutes": given.minutes}
    write_report("memory", figures, given.json, given=audio, runs=1)
    return 0 if growth_mb(peaks) <= LIMIT_MB else 1


if __name__ == "__main__":
    sys.exit(main())
