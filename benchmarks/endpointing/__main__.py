"""Channel seconds per CPU second of voice activity detection, and of the whole separate stage.

    python -m benchmarks.endpointing [FILE] [--channels 1 2 16 100] [--chunk-s 0.2] [--runs 5] [--json FILE]

| kind | what it is |
|---|---|
| `silero-vad` | the package as it comes (`load_silero_vad(onnx=True)`): a call for each 32 ms of each channel |
| `in lockstep` | the same with all channels as rows of one call: not possible where calls begin at different times |
| `8 kHz form` | the same form of the model as ours: eight frames of one channel per run |
| `detection` | all that we ask: both forms, loudness and the look of the sound |
| `stage` | our separate stage without a bus: from μ-law chunks of two-leg calls to utterances, checkpoints included |

The legs of FILE (the sample call) are repeated, each channel from another offset. All kinds get the same samples,
alternate, run one thread, and are measured by the CPU time of this process; the first run is not counted. The same run
compares the form's probabilities with those of the package.

What it does not show: the bus, resampling (FILE must have 8 kHz), channels that are hardly ever silent.
"""

import argparse
import sys
from typing import Any

from benchmarks.endpointing.contenders import KINDS, TARGET, channels_of, measured
from benchmarks.harness.command import add_call, add_outputs, benchmark_parser
from benchmarks.harness.report import spread_text, write_report


def parser() -> argparse.ArgumentParser:
    made = benchmark_parser("endpointing", __doc__)
    add_call(made)
    made.add_argument("--channels", type=int, nargs="+", default=[1, 2, 16, 100], help="channel counts (1 2 16 100)")
    made.add_argument("--chunk-s", type=float, default=0.2, help="length of the stage's chunks (0.2)")
    made.add_argument("--runs", type=int, default=5, help="runs of each kind (5)")
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
    print(f"\nthe form's probabilities and the package's differ by {far:.2g} at most; the stage's target is {TARGET}")


if __name__ == "__main__":
    sys.exit(main())
