"""Channel seconds per CPU second of voice activity detection, and of the whole separate stage around it.

    python -m benchmarks.endpointing [FILE] [--channels 1 2 16 100] [--chunk-s 0.2] [--runs 5] [--json FILE]

| kind | what it is |
|---|---|
| `silero-vad` | the package as it comes (`load_silero_vad(onnx=True)`): a call for each 32 ms of each channel |
| `in lockstep` | the same with all channels as the rows of one call; calls that begin at different times cannot |
| `model` | our model: eight frames of a channel a run, each channel for itself |
| `stage` | our separate stage without a bus: μ-law chunks of two-leg calls to utterances, checkpoints included |

The legs of FILE (the sample call) are repeated, each channel from another place on. All kinds hear the same samples,
take turns, run one thread, and are measured by the CPU time of this process after a run that does not count. That our
model says what the package says is checked in the same run.

What it does not show: the bus, resampling (FILE must have 8 kHz), or what a channel costs that is hardly ever silent.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from benchmarks.endpointing.contenders import KINDS, TARGET, channels_of, measured
from benchmarks.harness.command import add_outputs, benchmark_parser
from benchmarks.harness.report import spread_text, write_report
from tests.support.processes.deployment import SAMPLE


def parser() -> argparse.ArgumentParser:
    made = benchmark_parser("endpointing", __doc__)
    made.add_argument("file", nargs="?", type=Path, default=SAMPLE, metavar="FILE", help="a call (the sample)")
    made.add_argument("--channels", type=int, nargs="+", default=[1, 2, 16, 100], help="how many (1 2 16 100)")
    made.add_argument("--chunk-s", type=float, default=0.2, help="length of the stage's chunks (0.2)")
    made.add_argument("--runs", type=int, default=5, help="of each kind (5)")
    add_outputs(made)
    return made


def main() -> int:
    given = parser().parse_args()
    rows = {n: measured(channels_of(given.file, n), given.chunk_s, given.runs) for n in given.channels}
    show(rows)
    figures = {"target": TARGET, "channels": rows}
    audio = {"file": given.file.name, "chunk_s": given.chunk_s}
    write_report("endpointing", figures, given.json, given=audio, runs=given.runs)
    return 0


def show(rows: dict[int, dict[str, Any]]) -> None:
    print("| channels | " + " | ".join(f"`{kind}`" for kind in KINDS) + " |")
    print("|---" * (len(KINDS) + 1) + "|")
    for n_channels, row in rows.items():
        cells = [spread_text(row["per_cpu_s"][kind]) for kind in KINDS]
        print(f"| {n_channels} | " + " | ".join(cells) + " |")
    far = max(row["largest_difference"] for row in rows.values())
    print(f"\nthe model's probabilities and the package's differ by {far:.2g} at most; asked of the stage: {TARGET}")


if __name__ == "__main__":
    sys.exit(main())
