"""One call, many kills of the pipeline: is its transcript the same?

The call runs once undisturbed and then once for each kind of kill; its producer outlives the pipeline. The transcripts
are compared word by word. A kill that hits an idle stage proves nothing about it, so the report counts the restarts in
which each stage found input that had not been acknowledged. The sink holds its input for only a quarter of a second:
every third kill of `up` waits until a turn is published. All others come at random.

    python -m benchmarks.kills [FILE] --kills 20 --json FILE

What it does not show: a machine that loses power, several calls and workers at a time (`benchmarks.chaos` has those).
"""

import argparse
import random
import sys
import tempfile
from pathlib import Path

from benchmarks.harness.command import add_call, add_outputs, benchmark_parser
from benchmarks.harness.report import write_report
from benchmarks.kills.runs import KINDS, calm, disturbed
from tests.support.processes.deployment import said


def parser() -> argparse.ArgumentParser:
    made = benchmark_parser("kills", __doc__)
    add_call(made)
    made.add_argument("--kills", type=int, default=20, help="kills of each kind (20)")
    made.add_argument("--kind", action="append", choices=KINDS, help="kinds of kill (all three)")
    made.add_argument("--seed", type=int, default=1, help="seed of the moments (1)")
    add_outputs(made)
    return made


def main() -> int:
    given = parser().parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="callstream-kills-") as folder:
        expected = calm(Path(folder) / "calm", given.file)
        for number, kind in enumerate(given.kind or KINDS):
            chance = random.Random(given.seed + number)
            document, hit, kills = disturbed(Path(folder) / str(number), given.file, kind, given.kills, chance)
            before, after = said(expected), said(document)
            row = {
                "kind": kind,
                "kills": kills,
                "stages_hit": dict(sorted(hit.items())),
                "turns": len(after),
                "turns_lost": sum(turn not in after for turn in before),
                "turns_added": sum(turn not in before for turn in after),
                "turns_doubled": len(after) - len({str(turn) for turn in after}),
                "equal": before == after,
                "gaps": len(document["gaps"]),
            }
            print(row)
            rows.append(row)
    sent = {"file": given.file.name, "seed": given.seed}
    write_report("kills", {"rows": rows}, given.json, given=sent, runs=1)
    return 0 if all(row["equal"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
