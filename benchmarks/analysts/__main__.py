"""The sink's commits while analysts run queries without end.

    python -m benchmarks.analysts [--pairs 3] [--queries 10] [--seconds 10] [--json FILE]

A process writes a call (4 turns, summary, metrics) into its warehouse every 100 ms and takes the time of each commit. A
pair is one run alone and one beside `--queries` cross joins of `callstream sql`, in random order, each with a warehouse
of its own. As many of the joins run as a data directory has readers, and the others wait. After each run: how long the
last query outlived its limit.

What it does not show: a warehouse so large that copying it fills the disk's queue.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Final

from benchmarks.harness.command import add_outputs, benchmark_parser
from benchmarks.harness.report import spread, spread_text, write_report
from pipeline.client.sql import query
from pipeline.client.sql_limits import SqlLimits
from pipeline.errors import InputError
from tests.support.attacks import RUNAWAYS

ROOT: Final = Path(__file__).parents[2]
STARTING_S: Final = 10.0
"""From the first question to the first commit that counts: the readers have copied and stepped back by then."""

SINK: Final = """
import sys, time
from pathlib import Path
from stages.sink.stage import SinkStage
from stages.sink.tables import Tables
from tests.unit.stages.sink.calls import CallScript

with Tables(Path(sys.argv[1])) as tables:
    stage = SinkStage(tables)
    for number in range(1_000_000):
        records = CallScript(f"call-{number}").whole(4)
        began = time.monotonic()
        stage.write(records)
        print(began, time.monotonic() - began, flush=True)
        time.sleep(0.1)
"""


def parser() -> argparse.ArgumentParser:
    made = benchmark_parser("analysts", __doc__)
    made.add_argument("--pairs", type=int, default=3, help="pairs of runs (3)")
    made.add_argument("--queries", type=int, default=10, help="queries at the same time (10)")
    made.add_argument("--seconds", type=float, default=10.0, help="of each run that count (10)")
    made.add_argument("--seed", type=int, default=1, help="of the order in each pair (1)")
    add_outputs(made)
    return made


@contextmanager
def sink(database: Path) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-c", SINK, str(database)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline(), "the sink died"
        yield process
        process.kill()


def outlived_s(database: Path, limits: SqlLimits) -> float:
    """Ask the cross join. Returns how long after its limit the query was gone, with its reader if it had one."""
    began = time.monotonic()
    try:
        query(database, RUNAWAYS[0], limits)
    except InputError as error:
        if "ended after" not in str(error) and "waited" not in str(error):
            raise
    return time.monotonic() - began - limits.time_s


def run(n_queries: int, seconds: float) -> dict[str, Any]:
    """Return percentile 95 and median of the commits in ms, their number, and how long a reader outlived its limit."""
    limits = SqlLimits(time_s=STARTING_S + seconds, memory_bytes=300_000_000, rows=1000, temp_bytes=0)
    with tempfile.TemporaryDirectory(prefix="analysts") as folder, ThreadPoolExecutor(max(1, n_queries)) as analysts:
        database = Path(folder) / "callstream.duckdb"
        with sink(database) as process:
            asked = [analysts.submit(outlived_s, database, limits) for _ in range(n_queries)]
            from_s = time.monotonic() + STARTING_S
            took_ms: list[float] = []
            assert process.stdout is not None
            for line in process.stdout:
                began, took_s = map(float, line.split())
                if began > from_s + seconds:
                    break
                if began > from_s:
                    took_ms.append(1000 * took_s)
            outlived = [one.result() for one in asked]
    return {
        "p95_ms": quantiles(took_ms, n=20)[-1],
        "median_ms": median(took_ms),
        "commits": len(took_ms),
        "outlived_s": max(outlived, default=0.0),
    }


def main() -> None:
    options = parser().parse_args()
    order = random.Random(options.seed)
    pairs: list[dict[str, dict[str, Any]]] = []
    for number in range(1, options.pairs + 1):
        legs = [("alone", 0), ("beside", options.queries)]
        order.shuffle(legs)
        pair = {name: run(n_queries, options.seconds) for name, n_queries in legs}
        pairs.append(pair)
        for name, found in sorted(pair.items()):
            print(f"{number} {name}: " + ", ".join(f"{key} {value:.2f}" for key, value in found.items()), flush=True)
    ratios = spread([pair["beside"]["p95_ms"] / pair["alone"]["p95_ms"] for pair in pairs])
    figures = {
        "alone_p95_ms": spread([pair["alone"]["p95_ms"] for pair in pairs]),
        "beside_p95_ms": spread([pair["beside"]["p95_ms"] for pair in pairs]),
        "ratio": ratios,
        "outlived_s": max(pair["beside"]["outlived_s"] for pair in pairs),
    }
    print(f"95th percentile beside {options.queries} queries / alone: {spread_text(ratios, 2)}")
    print(f"a query was gone {figures['outlived_s']:.2f} s after its limit at the latest")
    given = {"queries": options.queries, "seconds": options.seconds, "statement": RUNAWAYS[0]}
    write_report("analysts", figures, options.json, given=given, runs=options.pairs)


if __name__ == "__main__":
    main()
