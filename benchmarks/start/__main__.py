"""Time until `callstream up` is ready and until it has stopped, against WhisperX loading its model.

    python -m benchmarks.start [--runs 5] [--json FILE]

Alternating, each in a separate process: `up` on an existing data directory, from the command to the log line `ready`,
its resident memory then, and after a pause from SIGTERM to its exit; and a process that imports WhisperX and loads the
same weights with `whisperx.load_model`. After a crash a call waits as long as a start takes. The first run warms the
page cache and is not counted.

What it does not show: a cold disk, other models, a GPU.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import psutil

from benchmarks.harness.command import add_outputs, benchmark_parser
from benchmarks.harness.report import spread, spread_text, write_report
from pipeline.wiring.weights import resolve_model
from tests.support.processes.deployment import Deployment

WITHIN_S: Final = 120.0
SETTLED_AFTER_S: Final = 15.0
"""`up` loads the embedding model of search after it is ready."""

_LOAD: Final = """
import sys, whisperx
model = whisperx.load_model(sys.argv[1], "cpu", compute_type="int8", language="en")
print("loaded", flush=True)
sys.stdin.read()
"""


def parser() -> argparse.ArgumentParser:
    made = benchmark_parser("start", __doc__)
    made.add_argument("--runs", type=int, default=5, help="counted runs of each (5)")
    add_outputs(made)
    return made


def main() -> int:
    given = parser().parse_args()
    ready_s: dict[str, list[float]] = {"up": [], "whisperx": []}
    memory_mb: dict[str, list[float]] = {name: [] for name in ready_s}
    stopped_s: list[float] = []
    with tempfile.TemporaryDirectory(prefix="callstream-start-") as folder, Deployment(Path(folder) / "data") as up:
        weights = resolve_model("base", Path(folder)).path
        for run in range(given.runs + 1):
            figures = {"up": started(up)}
            stop_s = stopped(up)
            figures["whisperx"] = loaded(weights)
            print(f"run {run}: {figures}, stopped in {stop_s:.1f} s", file=sys.stderr)
            if run:
                stopped_s.append(stop_s)
                for name, (took_s, held_mb) in figures.items():
                    ready_s[name].append(took_s)
                    memory_mb[name].append(held_mb)
    print("| | ready after s, median (lowest – highest) | of whisperx | MB then |\n|---|---|---|---|")
    plain = spread(ready_s["whisperx"])["median"]
    for name, values in ready_s.items():
        took, held = spread(values), spread(memory_mb[name])
        print(f"| {name} | {spread_text(took, 1)} | {took['median'] / plain:.2f} | {held['median']:.0f} |")
    stops = spread(stopped_s)
    print(f"stopped after s: {spread_text(stops, 1)}")
    report = {
        "ready_s": {name: spread(values) for name, values in ready_s.items()},
        "memory_mb": {name: spread(values) for name, values in memory_mb.items()},
        "stopped_s": stops,
    }
    write_report("start", report, given.json, given="Whisper base, int8", runs=given.runs)
    return 0


def started(up: Deployment) -> tuple[float, float]:
    """Start `up`. Returns the seconds until it is ready and its memory in MB then."""
    began = time.monotonic()
    up.start()
    while not any(line.get("event") == "ready" for line in up.log_lines(up.starts)):
        assert up.alive, up.log_path(up.starts).read_text()
        assert time.monotonic() - began < WITHIN_S
        time.sleep(0.05)
    return time.monotonic() - began, psutil.Process(up.pid).memory_info().rss / 1e6


def stopped(up: Deployment) -> float:
    """Stop `up` after it has loaded all models. Returns the seconds until it has ended."""
    time.sleep(SETTLED_AFTER_S)
    began = time.monotonic()
    code = up.terminate()
    assert code == 0, code
    return time.monotonic() - began


def loaded(weights: Path) -> tuple[float, float]:
    """Load the weights with WhisperX in a process. Returns the seconds that took and its memory in MB then."""
    began = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", _LOAD, str(weights)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        while (line := process.stdout.readline()) and line.strip() != b"loaded":
            pass
        took_s = time.monotonic() - began
        assert line, "the process ended before its model was loaded"
        held_mb = psutil.Process(process.pid).memory_info().rss / 1e6
        process.stdin.close()
    return took_s, held_mb


if __name__ == "__main__":
    sys.exit(main())
