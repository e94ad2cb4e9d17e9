"""What is lost when everything is killed: one call, its producer outliving the pipeline, many kills.

Runs the call once undisturbed and then once for each kind of kill, and compares the transcripts word by word. Counts
in how many restarts each stage found input that its predecessor had not acknowledged: a kill that hits an idle stage
proves nothing about it. The sink holds its input for a quarter of a second only, so every third kill of `up` waits for
a turn to be published; all others come at random moments.

    python -m benchmarks.kills [FILE] --kills 20 --json FILE
"""

import argparse
import random
import sys
import tempfile
from pathlib import Path

from benchmarks.harness.report import write_report
from benchmarks.kills.runs import KINDS, calm, disturbed
from tests.support.processes.deployment import SAMPLE, said


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", nargs="?", type=Path, default=SAMPLE, help="a two-channel call (default: the sample)")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--kind", action="append", choices=KINDS, help="default: all three")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="callstream-kills-") as folder:
        expected = calm(Path(folder) / "calm", arguments.file)
        for number, kind in enumerate(arguments.kind or KINDS):
            chance = random.Random(arguments.seed + number)
            document, hit, kills = disturbed(Path(folder) / str(number), arguments.file, kind, arguments.kills, chance)
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
    write_report("kills", {"file": arguments.file.name, "seed": arguments.seed, "rows": rows}, arguments.json)
    return 0 if all(row["equal"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
