"""The transcriber against the plain tools in one run: audio seconds per CPU second, and word errors.

    python -m benchmarks.transcribe [--real FILE…] [--calls 30] [--runs 3] [--json FILE] [--plot FILE]

Every measurement runs in a separate process, one after the other, all kinds alternating (see
`benchmarks.transcribe.contenders`). Two sets of calls:

- `script`: the calls of `benchmarks.speech`, whose every word is known. Word errors of each kind, the difference of
  ours to each plain tool with its 95 % interval by paired bootstrap over calls, and the error of our word times.
- `real`: with `--real`, the channels of FILEs as one call. It has no reference transcript, so the table shows the
  percentage of words by which two kinds differ; `padded` is our transcriber without short windows.

CPU time is that of the process and all its children, without loading.

What it does not show: a GPU, languages other than English, accuracy on real calls.
"""

import argparse
import contextlib
import sys
import tempfile
import wave
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
import soxr
from numpy.typing import NDArray

from benchmarks.harness.command import add_outputs, add_settings, benchmark_parser
from benchmarks.harness.report import spread_text, write_report
from benchmarks.speech.corpus import FOLDER, N_CALLS, SEED, Call, corpus
from benchmarks.transcribe.contenders import BEAM, COMPUTE_TYPE, Job, Kind, in_own_process
from benchmarks.transcribe.figures import Runs, accuracy, disagreement, speed
from pipeline.wiring.weights import resolve_model
from stages.separate.files import open_audio_file

KINDS: Final = get_args(Kind)
WARM_UP_S: Final = 8

Samples = NDArray[np.int16]


def parser() -> argparse.ArgumentParser:
    made = benchmark_parser("transcribe", __doc__)
    made.add_argument("--real", nargs="+", type=Path, default=[], metavar="FILE", help="recordings of one real call")
    made.add_argument("--calls", type=int, default=N_CALLS, help=f"script-truth calls; 0 for none ({N_CALLS})")
    made.add_argument("--seed", type=int, default=SEED, help=f"seed of those calls ({SEED})")
    made.add_argument("--runs", type=int, default=3, help="measurements of each kind (3)")
    made.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="kinds to run (all)")
    made.add_argument("--threads", type=int, default=2, help="threads of each model (2)")
    made.add_argument("--model", default="base", help="name, directory or package:NAME (base)")
    made.add_argument("--language", default="en", help="language of the calls (en)")
    add_settings(made)
    add_outputs(made, plot="speed and word errors")
    return made


def main() -> int:
    reading = parser()
    given = reading.parse_args()
    if not given.calls and not given.real:
        reading.error("nothing to transcribe: --calls 0 and no --real")
    with tempfile.TemporaryDirectory() as folder:
        report = measured(given, Path(folder))
    show(report, given.runs)
    write_report("transcribe", report, given.json, given=report.pop("input"), runs=given.runs)
    if given.plot is not None:
        from benchmarks.harness.plots import draw_transcribe

        draw_transcribe(report, given.plot)
        print(f"drawn in {given.plot}")
    return 0


def measured(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run all kinds and return the report."""
    sets: dict[str, list[str]] = {}
    report: dict[str, Any] = {"input": {}}
    calls: list[Call] = []
    if given.calls:
        spoken = corpus(FOLDER, n_calls=given.calls, seed=given.seed, on_progress=_progress)
        calls = spoken.calls
        sets["script"] = [str(spoken.path(call)) for call in calls]
        report["input"]["script"] = spoken.described()
    if given.real:
        channels, rate_hz = read_call(given.real)
        write_wav(folder / "real.wav", channels, rate_hz)
        sets["real"] = [str(folder / "real.wav")]
        channel_s = round(sum(map(len, channels)) / rate_hz, 1)
        report["input"]["real"] = {"files": [path.name for path in given.real], "channel_s": channel_s}
    channels, rate_hz = read_call([Path(next(iter(sets.values()))[0])])
    write_wav(folder / "warm_up.wav", [channel[: WARM_UP_S * rate_hz] for channel in channels], rate_hz)
    model = resolve_model(given.model, folder / "models")
    done: Runs = {f"{kind}/{name}": [] for kind in given.kinds for name in sets}
    for number in range(given.runs):
        for kind in given.kinds:
            job = Job(
                kind=kind,
                warm_up=str(folder / "warm_up.wav"),
                sets=list(sets.values()),
                model=str(model.path),
                threads=given.threads,
                language=given.language,
                changes=given.set,
                scratch=str(folder / f"{kind}-{number}"),
            )
            for name, one in zip(sets, in_own_process(job), strict=True):
                done[f"{kind}/{name}"].append(one)
                print(f"run {number + 1} {kind} {name}: CPU {one.cpu_s:.1f} s", file=sys.stderr, flush=True)
    report |= {
        "model": {"name": model.name, "sha256": model.sha256, "compute_type": COMPUTE_TYPE, "beam": BEAM},
        "threads": given.threads,
        "settings": given.set,
        "sets": {},
    }
    for name in sets:
        runs = {kind: done[f"{kind}/{name}"] for kind in given.kinds}
        figures = speed(runs, report["input"][name]["channel_s"])
        figures |= accuracy(runs, calls) if name == "script" else {"differing_percent": disagreement(runs)}
        report["sets"][name] = figures
    return report


def read_call(files: list[Path]) -> tuple[list[Samples], int]:
    """Return every channel of every file, padded to one length, at the lowest of their rates."""
    channels: list[tuple[Samples, int]] = []
    for path in files:
        audio = open_audio_file(path)
        with contextlib.closing(audio):
            frames = np.frombuffer(b"".join(audio), "<i2").reshape(-1, audio.channels)
        channels += [(frames[:, index], audio.sample_rate_hz) for index in range(audio.channels)]
    rate_hz = min(rate for _, rate in channels)
    equal = [soxr.resample(samples, rate, rate_hz) for samples, rate in channels]
    longest = max(map(len, equal))
    return [np.pad(samples, (0, longest - len(samples))) for samples in equal], rate_hz


def write_wav(path: Path, channels: list[Samples], rate_hz: int) -> None:
    with wave.open(str(path), "wb") as file:
        file.setparams((len(channels), 2, rate_hz, 0, "NONE", ""))
        file.writeframes(np.stack(channels, axis=1).astype("<i2").tobytes())


def show(report: dict[str, Any], runs: int) -> None:
    print(f"model {report['model']['name']}, {COMPUTE_TYPE}, beam {BEAM}")
    print(f"{report['threads']} threads, median of {runs} runs (lowest – highest)")
    for name, figures in report["sets"].items():
        has_truth = "errors" in figures
        print(f"\n| {name} | CPU s | audio s per CPU s |{' word errors, % (S, D, I) |' if has_truth else ''}")
        print("|---|---|---|---|" if has_truth else "|---|---|---|")
        for kind, one in figures["kinds"].items():
            cells = [spread_text(one["cpu_s"], 1), spread_text(one["audio_s_per_cpu_s"], 1)]
            if has_truth:
                all_ = figures["errors"][kind]["all"]
                counts = ", ".join(str(all_[key]) for key in ("substituted", "deleted", "inserted"))
                cells.append(f"{all_['percent']:.2f} ({counts})")
            print(f"| {kind} | {' | '.join(cells)} |")
        for ours, others in figures["times_as_fast"].items():
            for plain, times in others.items():
                line = f"{ours}: {spread_text(times, 2)} × {plain}"
                if has_truth:
                    gap = figures["difference"][ours][plain]
                    line += f", word errors {gap['points']:+.2f} points (95 %: {gap['low']:+.2f} to {gap['high']:+.2f})"
                print(line)
        for kind, one in figures.get("errors", {}).items():
            print(f"{kind}: " + ", ".join(f"{v} {f['percent']:.2f} %" for v, f in one.items() if v != "calls"))
        for source, one in figures.get("word_times", {}).items():
            print(f"word times by {source}: {one}")
        for one, others in figures.get("differing_percent", {}).items():
            print(f"{one} differs by " + ", ".join(f"{percent} % from {other}" for other, percent in others.items()))


def _progress(done: int, of: int) -> None:
    print(f"making call {done + 1} of {of}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
