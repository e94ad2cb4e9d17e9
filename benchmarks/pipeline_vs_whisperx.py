"""The whole pipeline against bare WhisperX: audio seconds per CPU second, and where their words differ.

    python -m benchmarks.pipeline_vs_whisperx FILE [--runs 3] [--threads 2] [--json FILE] [--script script.json]

FILE is a call with one speaker a channel; several files are joined as the channels of one call. Every measurement runs
in a process of its own, one after the other, the three of them in turn:

- `pipeline`: producer, JetStream, separate, transcribe with word times, merge, summarize, DuckDB, until the warehouse
  holds the transcript and the summary. CPU time of the process and all its children, nats-server included.
- `whisperx`: `whisperx.load_model(…)` with its own pyannote voice activity detection, then `transcribe` of each
  channel on its own, with the batch size of WhisperX's command line. No word times, no audio decoding.
- `whisperx-silero`: the same with Silero through `vad_model=`.

All have the same model, compute type, beam and number of threads. Loading is left out: each first transcribes the
call's first seconds, unmeasured. What this does not show: a GPU, other languages, accuracy on real calls (without
`--script` two texts are compared, and neither is known to be right).
"""

import argparse
import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
import wave
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import jiwer
import msgspec
import numpy as np
import psutil
import soxr
from numpy.typing import NDArray

from pipeline.embedded import Embedded
from pipeline.models import resolve_model
from pipeline.producer import publish_audio
from pipeline.settings import Settings
from pipeline.warehouse import open_reader
from pipeline.watch import FOLLOWED, CallWatch
from pipeline.worker import DATABASE_FILE
from schemas.calls import DEFAULT_TENANT, CallRef
from stages.separate.files import open_audio_file
from tests.calls.wording import comparable

KINDS: Final = ("pipeline", "whisperx", "whisperx-silero")
WARM_UP_S: Final = 8
WHISPERX_BATCH: Final = 8
"""The default of WhisperX's command line."""
VAD_OPTIONS: Final = {"chunk_size": 30, "vad_onset": 0.5, "vad_offset": 0.363}
"""WhisperX's defaults."""
RATE_HZ: Final = 16_000

Samples = NDArray[np.int16]


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """One run of one kind. `texts`: what was said on each channel."""

    kind: str
    cpu_s: float
    wall_s: float
    texts: list[str]


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What a measuring process is told. `call` and `warm_up` are WAV files with a channel for each speaker."""

    kind: str
    call: str
    warm_up: str
    model: str
    threads: int
    language: str
    scratch: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--runs", type=int, default=3, help="measurements of each kind (3)")
    parser.add_argument("--threads", type=int, default=2, help="cores that each may use for the model (2)")
    parser.add_argument("--model", default="base", help="name, directory or package:NAME (base)")
    parser.add_argument("--language", default="en", help="of the call (en)")
    parser.add_argument("--script", type=Path, help="what was said: a JSON file like that of the sample call")
    parser.add_argument("--json", type=Path, help="write all figures there")
    parser.add_argument("--differences", type=int, default=40, help="how many differing places to list (40)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = measure(given, Path(folder))
    show(report, given.differences)
    if given.json is not None:
        given.json.write_text(json.dumps(report, indent=2) + "\n")


def measure(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All runs in processes of their own, and what follows from them."""
    channels, rate_hz = read_call(given.files)
    write_wav(folder / "call.wav", channels, rate_hz)
    write_wav(folder / "warm_up.wav", [channel[: WARM_UP_S * rate_hz] for channel in channels], rate_hz)
    model = resolve_model(given.model, folder / "models")
    runs: dict[str, list[Measurement]] = {kind: [] for kind in KINDS}
    for number in range(given.runs):
        for kind in KINDS:
            job = Job(
                kind=kind,
                call=str(folder / "call.wav"),
                warm_up=str(folder / "warm_up.wav"),
                model=str(model.path),
                threads=given.threads,
                language=given.language,
                scratch=str(folder / f"{kind}-{number}"),
            )
            done = in_own_process(job)
            runs[kind].append(done)
            print(f"run {number + 1} {kind}: CPU {done.cpu_s:.1f} s, wall {done.wall_s:.1f} s", file=sys.stderr)
    audio_s = len(channels[0]) / rate_hz * len(channels)
    report: dict[str, Any] = {
        "machine": machine(),
        "versions": {name: version(name) for name in ("whisperx", "faster-whisper", "ctranslate2", "torch")},
        "input": {
            "files": [path.name for path in given.files],
            "channels": len(channels),
            "channel_seconds": round(audio_s, 1),
        },
        "model": {"name": model.name, "sha256": model.sha256, "compute_type": "int8", "beam": 5},
        "threads": given.threads,
        "runs": given.runs,
        "kinds": {kind: figures(done, audio_s) for kind, done in runs.items()},
        "differences": [
            disagreement(ours, bare)
            for ours, bare in zip(runs["pipeline"][0].texts, runs["whisperx"][0].texts, strict=True)
        ],
    }
    cpu_s = {kind: report["kinds"][kind]["cpu_s"]["median"] for kind in KINDS}
    report["ratio"] = {kind: round(cpu_s[kind] / cpu_s["pipeline"], 2) for kind in KINDS[1:]}
    if given.script is not None:
        lines = json.loads(given.script.read_text())["lines"]
        said = [" ".join(line["text"] for line in lines if line["channel"] == n) for n in range(len(channels))]
        report["word_errors_percent"] = {kind: error_rate(said, done[0].texts) for kind, done in runs.items()}
    return report


def read_call(files: list[Path]) -> tuple[list[Samples], int]:
    """Every channel of every file, of equal length, at the lowest of their rates."""
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


def in_own_process(job: Job) -> Measurement:
    Path(job.scratch).mkdir()
    result = Path(job.scratch) / "measurement.json"
    code = "import sys; from benchmarks.pipeline_vs_whisperx import child; child(sys.argv[1], sys.argv[2])"
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, msgspec.json.encode(job).decode(), str(result)],
        check=True,
        cwd=Path(__file__).parents[1],
        stdout=subprocess.DEVNULL,
    )
    return msgspec.json.decode(result.read_bytes(), type=Measurement)


def child(job_json: str, result: str) -> None:
    """What a measuring process runs."""
    job = msgspec.json.decode(job_json, type=Job)
    done = asyncio.run(run_pipeline(job)) if job.kind == "pipeline" else run_whisperx(job)
    Path(result).write_bytes(msgspec.json.encode(done))


async def run_pipeline(job: Job) -> Measurement:
    settings = Settings(
        data=Path(job.scratch) / "data",
        model=job.model,
        compute_type="int8",
        asr_workers=job.threads,
        metrics_port=None,
    )
    async with Embedded(settings) as pipeline:
        failing = asyncio.ensure_future(pipeline.worker.wait())
        try:
            await finish(pipeline.worker.ready.wait(), failing)
            await finish(send(pipeline, job.warm_up, "warm-up", job.language), failing)
            with Clock() as clock:
                await finish(send(pipeline, job.call, "call", job.language), failing)
        finally:
            failing.cancel()
        with contextlib.closing(open_reader(settings.data / DATABASE_FILE, pipeline.instance)) as reader:
            document = await asyncio.to_thread(reader.show, CallRef(DEFAULT_TENANT, "call"))
    turns = sorted(document["turns"], key=lambda turn: turn["start_s"])
    texts = [
        " ".join(turn["text"] for turn in turns if turn["channel"] == channel["index"])
        for channel in document["channels"]
    ]
    return Measurement(kind=job.kind, cpu_s=clock.cpu_s, wall_s=clock.wall_s, texts=texts)


async def finish(work: Any, failing: "asyncio.Future[None]") -> None:
    """Await `work`, or raise what stopped the pipeline."""
    task = asyncio.ensure_future(work)
    await asyncio.wait({task, failing}, return_when=asyncio.FIRST_COMPLETED)
    if failing.done():
        failing.result()
    await task


async def send(pipeline: Embedded, path: str, call_id: str, language: str) -> None:
    """Publish a file as a call and wait until the warehouse has all of it."""
    call = CallRef(DEFAULT_TENANT, call_id)
    watch = CallWatch()
    feed = await pipeline.bus.follow(FOLLOWED, key=call.key)
    audio = open_audio_file(Path(path))
    sending = asyncio.create_task(
        publish_audio(pipeline.bus, audio, call=call, roles=[], language=language, metadata={}, lane="batch")
    )
    async for record in feed:
        watch.apply(record)
        if watch.failure is not None:
            raise RuntimeError(watch.failure)
        if watch.stored:
            break
    await sending
    await feed.close()


def run_whisperx(job: Job) -> Measurement:
    import torch
    import whisperx

    torch.set_num_threads(job.threads)
    vad = silero() if job.kind == "whisperx-silero" else None
    model = whisperx.load_model(
        job.model, "cpu", compute_type="int8", threads=job.threads, language=job.language, vad_model=vad
    )
    for samples in float_channels(job.warm_up):
        with contextlib.suppress(IndexError):  # WhisperX fails where its detector finds no speech
            model.transcribe(samples, batch_size=WHISPERX_BATCH)
    call = list(float_channels(job.call))
    with Clock() as clock:
        done = [model.transcribe(samples, batch_size=WHISPERX_BATCH) for samples in call]
    texts = [" ".join(segment["text"].strip() for segment in one["segments"]) for one in done]
    return Measurement(kind=job.kind, cpu_s=clock.cpu_s, wall_s=clock.wall_s, texts=texts)


def float_channels(path: str) -> Iterator[NDArray[np.float32]]:
    channels, rate_hz = read_call([Path(path)])
    for samples in channels:
        yield soxr.resample(samples.astype(np.float32) / np.float32(32768), rate_hz, RATE_HZ)


def silero() -> Any:
    """Silero as faster-whisper ships it, as a detector for WhisperX; its own wants to download one."""
    from faster_whisper.vad import VadOptions, get_speech_timestamps
    from whisperx.diarize import Segment
    from whisperx.vads import Vad

    class Silero(Vad):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(VAD_OPTIONS["vad_onset"])

        def __call__(self, audio: dict[str, Any]) -> list[Any]:
            options = VadOptions(
                threshold=VAD_OPTIONS["vad_onset"],
                max_speech_duration_s=VAD_OPTIONS["chunk_size"],
                min_silence_duration_ms=100,
                speech_pad_ms=30,
            )
            found = get_speech_timestamps(audio["waveform"], options)
            return [Segment(one["start"] / RATE_HZ, one["end"] / RATE_HZ, "UNKNOWN") for one in found]

        @staticmethod
        def preprocess_audio(audio: NDArray[np.float32]) -> NDArray[np.float32]:
            return audio

    return Silero()


class Clock:
    """CPU seconds of this process and all its children, and wall seconds, inside the block."""

    def __enter__(self) -> "Clock":
        self._cpu_s, self._wall_s = self._used_s(), time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.cpu_s = round(self._used_s() - self._cpu_s, 3)
        self.wall_s = round(time.monotonic() - self._wall_s, 3)

    def _used_s(self) -> float:
        me = psutil.Process()
        times = [me.cpu_times(), *(process.cpu_times() for process in me.children(recursive=True))]
        return float(sum(t.user + t.system + t.children_user + t.children_system for t in times))


def figures(done: list[Measurement], audio_s: float) -> dict[str, Any]:
    def spread(values: list[float]) -> dict[str, float]:
        return {
            "median": round(statistics.median(values), 2),
            "low": round(min(values), 2),
            "high": round(max(values), 2),
        }

    return {
        "cpu_s": spread([one.cpu_s for one in done]),
        "wall_s": spread([one.wall_s for one in done]),
        "audio_s_per_cpu_s": spread([audio_s / one.cpu_s for one in done]),
        "audio_s_per_wall_s": spread([audio_s / one.wall_s for one in done]),
        "texts": done[0].texts,
        "same_text_in_all_runs": all(one.texts == done[0].texts for one in done),
    }


def disagreement(ours: str, bare: str) -> dict[str, Any]:
    """How two texts of a channel differ after Whisper's normalization, with the differing words in their place."""
    outcome = jiwer.process_words(comparable(bare), comparable(ours))
    bare_words, our_words = outcome.references[0], outcome.hypotheses[0]
    places = [
        {
            "before": " ".join(bare_words[max(0, chunk.ref_start_idx - 3) : chunk.ref_start_idx]),
            "whisperx": " ".join(bare_words[chunk.ref_start_idx : chunk.ref_end_idx]),
            "pipeline": " ".join(our_words[chunk.hyp_start_idx : chunk.hyp_end_idx]),
        }
        for chunk in outcome.alignments[0]
        if chunk.type != "equal"
    ]
    return {
        "words": len(bare_words),
        "percent": round(100 * outcome.wer, 2),
        "substituted": outcome.substitutions,
        "only_in_whisperx": outcome.deletions,
        "only_in_pipeline": outcome.insertions,
        "places": places,
    }


def error_rate(said: list[str], written: list[str]) -> float:
    pairs = [(comparable(one), comparable(other)) for one, other in zip(said, written, strict=True)]
    return round(100 * float(jiwer.wer([one for one, _ in pairs], [other for _, other in pairs])), 2)


def machine() -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
    return {
        "processor": names[0] if names else "unknown",
        "cores": psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "load_at_end": [round(load, 1) for load in psutil.getloadavg()],
        "python": sys.version.split()[0],
    }


def show(report: dict[str, Any], places: int) -> None:
    print(f"machine  {report['machine']}")
    print(f"versions {report['versions']}")
    print(f"input    {report['input']}, model {report['model']['name']}, int8, {report['threads']} threads")
    print(f"median of {report['runs']} runs (lowest – highest)\n")
    print("| | CPU s | wall s | audio s per CPU s |")
    print("|---|---|---|---|")
    for kind, one in report["kinds"].items():
        cells = (f"{each['median']} ({each['low']} – {each['high']})" for each in list(one.values())[:3])
        print(f"| {kind} | {' | '.join(cells)} |")
    for kind, ratio in report["ratio"].items():
        print(f"\n{kind} takes {ratio} × the CPU time of the pipeline")
    if "word_errors_percent" in report:
        print(f"\nword errors against the script, %: {report['word_errors_percent']}")
    for index, one in enumerate(report["differences"]):
        counts = {name: count for name, count in one.items() if name != "places"}
        print(f"\nchannel {index}, the pipeline against whisperx: {counts}")
        for place in one["places"][:places]:
            print(
                f"  … {place['before']} [whisperx: {place['whisperx'] or '–'}] [pipeline: {place['pipeline'] or '–'}]"
            )


if __name__ == "__main__":
    main()
