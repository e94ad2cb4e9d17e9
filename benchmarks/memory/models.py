"""Resident memory of Whisper models of every published shape, on a CPU.

    python -m benchmarks.memory.models [NAME …] [--compute-type int8] [--json FILE]

Each model is written with random weights in the published shape, as float16 like the hub's. The transcriber's engine
loads it in a process of its own, with one worker, and decodes one row of 30 s at beam 5. The folder is removed before
the next one is written: large-v3 takes 3.1 GB of disk. Memory depends on the shape and not on the values, but for the
length of the text: random weights write as much as a window allows, so a row of speech takes a little less.

For a GPU nothing is measured. Its columns are parameters times two bytes, the estimate of a row that sizes batches
(`Architecture.row_bytes`), and 1.1 GB for CUDA and its libraries: what faster-whisper's published 4,525 MB for large-v2
(float16, beam 5, RTX 3070 Ti) leave beyond its weights and one row.

What it does not show: speed with real weights, several workers (each adds the buffers of one row), a GPU.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import psutil

from benchmarks.harness.command import add_outputs, benchmark_parser
from benchmarks.harness.report import write_report
from pipeline.wiring.weights import resolve_model
from stages.transcribe.engine.architecture import read_architecture
from stages.transcribe.engine.devices import GPU_BATCH
from stages.transcribe.engine.protocol import Row
from stages.transcribe.engine.whisper import Engine
from tests.support.models.whisper import SHAPES, write_whisper

CUDA_GB: Final = 1.1
BEAM_SIZE: Final = 5


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """Memory of a process in GB (10^9 bytes): before the model is loaded, and what it holds more after it.

    `peak_gb`: the most that it held more at any time.
    """

    process_gb: float
    loaded_gb: float
    decoded_gb: float
    peak_gb: float
    load_s: float
    decode_s: float


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """`gpu_one_gb`, `gpu_batch_gb`: estimated with one row, and with a full batch, in float16."""

    name: str
    parameters_m: float
    file_gb: float
    languages: int
    mel_bands: int
    cpu: Measured
    gpu_one_gb: float
    gpu_batch_gb: float


def measured(folder: Path, compute_type: str) -> Measured:
    """Load and decode in this process."""
    own = psutil.Process()
    rng = np.random.default_rng(1)
    audio = (0.05 * rng.standard_normal(30 * 16_000)).astype(np.float32)
    import faster_whisper  # noqa: F401  what the engine imports is not the model's
    import torch
    import whisperx.audio  # noqa: F401

    before = own.memory_info().rss
    began = time.monotonic()
    engine = Engine(folder, name="measured", compute_type=compute_type, workers=1, beam_size=BEAM_SIZE)
    load_s = time.monotonic() - began
    loaded = own.memory_info().rss
    began = time.monotonic()
    engine.transcribe_batch([Row(audio=audio, voiced=[(0.0, 30.0)], language="en")])
    decode_s = time.monotonic() - began
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    assert torch.get_num_threads() == 1
    return Measured(
        process_gb=round(before / 1e9, 3),
        loaded_gb=round((loaded - before) / 1e9, 3),
        decoded_gb=round((own.memory_info().rss - before) / 1e9, 3),
        peak_gb=round((int(peak.split()[1]) * 1024 - before) / 1e9, 3),
        load_s=round(load_s, 1),
        decode_s=round(decode_s, 1),
    )


def measure(name: str, base: Path, compute_type: str) -> Model:
    """Write the model, measure it in a process of its own, and remove it. Raises AssertionError if that fails."""
    with tempfile.TemporaryDirectory(prefix="callstream-models-") as folder:
        path = write_whisper(Path(folder) / name, SHAPES[name], base=base)
        command = [
            sys.executable,
            "-m",
            "benchmarks.memory.models",
            "--folder",
            str(path),
            "--compute-type",
            compute_type,
        ]
        run = subprocess.run(command, capture_output=True, check=False)
        if run.returncode:
            raise AssertionError(f"{name} failed ({run.returncode}): {run.stderr.decode()[-2000:]}")
        cpu = msgspec.json.decode(run.stdout.splitlines()[-1], type=Measured)
        read = read_architecture(path)
        weights_gb, row_gb = 2 * read.n_parameters / 1e9, read.row_bytes(BEAM_SIZE) / 1e9
        return Model(
            name=name,
            parameters_m=round(read.n_parameters / 1e6),
            file_gb=round((path / "model.bin").stat().st_size / 1e9, 3),
            languages=len(read.languages),
            mel_bands=read.n_mels,
            cpu=cpu,
            gpu_one_gb=round(weights_gb + CUDA_GB + row_gb, 1),
            gpu_batch_gb=round(weights_gb + CUDA_GB + GPU_BATCH * row_gb, 1),
        )


def show(models: list[Model], compute_type: str) -> None:
    columns = (
        "model",
        "parameters",
        "languages",
        "mel bands",
        "file",
        compute_type,
        "at most",
        "GPU, 1 row",
        "16 rows",
    )
    print(f"| {' | '.join(columns)} |")
    print("|---|---|---|---|---|---|---|---|---|")
    for one in models:
        print(
            f"| {one.name} | {one.parameters_m:.0f} M | {one.languages} | {one.mel_bands} | {one.file_gb:.2f} GB "
            f"| {one.cpu.decoded_gb:.2f} GB | {one.cpu.peak_gb:.2f} GB | {one.gpu_one_gb:.1f} GB "
            f"| {one.gpu_batch_gb:.1f} GB |"
        )


def parser() -> argparse.ArgumentParser:
    made = benchmark_parser("memory.models", __doc__)
    made.add_argument("names", nargs="*", default=list(SHAPES), help="models (all published shapes)")
    made.add_argument("--compute-type", default="int8", help="arithmetic on the CPU (int8)")
    made.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    add_outputs(made)
    return made


def main() -> int:
    given = parser().parse_args()
    if given.folder:
        measure_here = measured(given.folder, given.compute_type)
        print(msgspec.json.encode(measure_here).decode())
        return 0
    models = []
    with tempfile.TemporaryDirectory() as cache:
        base = resolve_model("base", Path(cache)).path
        for name in given.names:
            models.append(measure(name, base, given.compute_type))
            print(f"{name}: {models[-1].cpu.decoded_gb:.2f} GB", file=sys.stderr, flush=True)
    show(models, given.compute_type)
    figures = {"models": msgspec.to_builtins(models), "compute_type": given.compute_type}
    write_report("memory.models", figures, given.json, given={"models": given.names}, runs=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
