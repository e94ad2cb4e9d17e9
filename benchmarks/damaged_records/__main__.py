"""Damaged records on every topic, while the lanes run: is each a dead letter at worst?

    python -m benchmarks.damaged_records [--bus nats|kafka] [--mutants 1000000] [--minutes M] [--seed 1] [--json FILE]

Sound records of every kind are damaged by a seed and published below the client libraries: on NATS with the login of a
producer as PUB and HPUB (and on the topics between stages as the owner), on Kafka as record batches. Damaged are bytes
and values of bodies, names and values of headers, keys, subjects, and the frames of the protocols. Meanwhile separate,
transcribe, merge and sink run as one process; the transcriber's text is a hash of its samples. After every 1,000
mutants a whole call is sent: it must be completed with the words that it has alone. The lanes must neither crash nor
restart, and their memory must stay bounded.

What it does not show: a speech model, the summarize stage, a client that sends slowly or opens connections without end,
reply subjects, open transactions, damaged media files (`benchmarks.damaged_files`), records that are sound and lie.
"""

import argparse
import asyncio
import logging
import sys
import tempfile
from collections import Counter
from math import inf
from pathlib import Path
from typing import Any

import structlog

from benchmarks.damaged_records.mutants import KINDS
from benchmarks.damaged_records.run import measure
from benchmarks.harness.command import add_outputs, benchmark_parser
from benchmarks.harness.report import write_report


def parser() -> argparse.ArgumentParser:
    made = benchmark_parser("damaged_records", __doc__)
    made.add_argument("--bus", choices=("nats", "kafka"), default="nats", help="the broker, which is started (nats)")
    made.add_argument("--mutants", type=int, default=1_000_000, help="damaged records, in thousands (1000000)")
    made.add_argument("--minutes", type=float, default=inf, help="stop then, however many they are (never)")
    made.add_argument("--seed", type=int, default=1, help="seed of the damage (1)")
    made.add_argument("--producers-only", action="store_true", help="only on the topics that producers write to")
    made.add_argument("--keep", type=Path, metavar="DIR", help="keep the store and the log of the lanes there")
    add_outputs(made)
    return made


def main() -> int:
    given = parser().parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        figures = asyncio.run(
            measure(
                given.bus,
                folder,
                mutants=given.mutants,
                seed=given.seed,
                minutes=given.minutes,
                producers_only=given.producers_only,
            )
        )
    _print(figures)
    write_report(
        "damaged_records",
        figures,
        given.json,
        given={
            "bus": given.bus,
            "seed": given.seed,
            "mutants": figures["mutants"],
            "producers_only": given.producers_only,
        },
        runs=1,
    )
    return 0 if held(figures) else 1


def held(figures: dict[str, Any]) -> bool:
    """Return whether the lanes lived on, and every good call was completed with its words."""
    good = figures["good_calls"]
    return not (figures["crashed"] or figures["restarts"] or good["unequal"] or good["missing"])


def _print(figures: dict[str, Any]) -> None:
    rows: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    for name, count in figures["outcomes"].items():
        changed, _, outcome = name.partition(": ")
        rows[changed][outcome.partition(":")[0]] += count
    columns = sorted({outcome for row in rows.values() for outcome in row})
    print(f"| changed | mutants | {' | '.join(columns)} |\n|---|---|{'---|' * len(columns)}")
    rows["all"] = sum(rows.values(), Counter())
    for changed, row in rows.items():
        print(f"| {changed} | {row.total()} | {' | '.join(str(row[outcome]) for outcome in columns)} |")
    print(f"{figures['mutants']} mutants in {figures['wall_s']:.0f} s; bodies parsed: {figures['parsed_share']:.1%}")
    for name in ("steps", "letters", "restarts", "call_retries", "good_calls", "memory", "logged"):
        print(f"{name}: {figures[name]}")


if __name__ == "__main__":
    sys.exit(main())
