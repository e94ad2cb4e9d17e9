"""The compared transcribers, each run in a separate process.

| kind | what it is |
|---|---|
| `whisperx` | `whisperx.load_model(…).transcribe` with its own pyannote voice activity detection |
| `whisperx-silero` | the same with Silero, as faster-whisper ships it, through `vad_model=` |
| `faster-whisper` | `faster_whisper.BatchedInferencePipeline`, which brings Silero |
| `transcriber` | our separate and transcribe stages, with word times, without a bus |
| `padded` | our stages, each utterance padded to 30 s, to show that shorter windows do not change the text |
| `pipeline` | producer, JetStream, all stages with word times, DuckDB, until everything is in the warehouse |

All have the same model, compute type, beam and number of threads. The plain tools get one leg after the other as
16 kHz samples (their decoding and resampling is not counted), in batches of 8, and make no word times. Loading is not
counted: each transcribes a warm-up file first.
"""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import numpy as np
import soxr
from numpy.typing import NDArray

from benchmarks.harness.clock import Clock
from benchmarks.harness.offline import OfflineStages, settings_of, texts_of
from pipeline.client.call_progress import FOLLOWED, CallWatch
from pipeline.client.publish import publish_audio
from pipeline.client.warehouse import open_reader
from pipeline.instance import DATABASE_FILE
from pipeline.settings import Settings
from pipeline.wiring.embedded import Embedded
from schemas.calls import DEFAULT_TENANT, CallRef
from schemas.segments import Segment
from stages.separate.files import open_audio_file

Kind = Literal["whisperx", "whisperx-silero", "faster-whisper", "transcriber", "padded", "pipeline"]

BATCH: Final = 8
"""The default of WhisperX's command line; faster-whisper's own is the same."""
BEAM: Final = 5
COMPUTE_TYPE: Final = "int8"
VAD_OPTIONS: Final = {"chunk_size": 30, "vad_onset": 0.5, "vad_offset": 0.363}
"""WhisperX's defaults."""
RATE_HZ: Final = 16_000
AT_A_TIME: Final = 2
"""Calls sent to the pipeline at a time."""

Float = NDArray[np.float32]


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """One set of calls in one run. `texts`: of each call, the text of each leg. `segments`: of each call, if the kind
    has them.
    """

    cpu_s: float
    wall_s: float
    texts: list[list[str]]
    segments: list[list[Segment]] = []


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """The job of a measuring process. `sets` are lists of call files; each set is measured separately."""

    kind: Kind
    warm_up: str
    sets: list[list[str]]
    model: str
    threads: int
    language: str
    changes: list[str]
    scratch: str


def in_own_process(job: Job) -> list[Measurement]:
    """Return a measurement of each set. Raises CalledProcessError if the process fails; its errors are on stderr."""
    Path(job.scratch).mkdir()
    result = Path(job.scratch) / "measurements.json"
    code = "import sys; from benchmarks.transcribe.contenders import child; child(sys.argv[1], sys.argv[2])"
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, msgspec.json.encode(job).decode(), str(result)],
        check=True,
        cwd=Path(__file__).parents[2],
        stdout=subprocess.DEVNULL,
    )
    return msgspec.json.decode(result.read_bytes(), type=list[Measurement])


def child(job_json: str, result: str) -> None:
    """Run a measuring process."""
    job = msgspec.json.decode(job_json, type=Job)
    if job.kind == "pipeline":
        done = asyncio.run(_run_pipeline(job))
    elif job.kind in ("transcriber", "padded"):
        done = asyncio.run(_run_stages(job))
    else:
        done = _run_plain(job)
    Path(result).write_bytes(msgspec.json.encode(done))


def legs(path: Path) -> Iterator[Float]:
    """Yield each leg of a call, float32, shape (n_samples,), at 16 kHz."""
    audio = open_audio_file(path)
    with contextlib.closing(audio):
        frames = np.frombuffer(b"".join(audio), "<i2").reshape(-1, audio.channels)
    for index in range(audio.channels):
        samples = frames[:, index].astype(np.float32) / np.float32(32768)
        yield soxr.resample(samples, audio.sample_rate_hz, RATE_HZ)


# -- the plain tools -------------------------------------------------------------------------------------------------


def _run_plain(job: Job) -> list[Measurement]:
    import torch

    torch.set_num_threads(job.threads)
    hear = _faster_whisper(job) if job.kind == "faster-whisper" else _whisperx(job)
    for samples in legs(Path(job.warm_up)):
        hear(samples)
    measured = []
    for files in job.sets:
        calls = [list(legs(Path(file))) for file in files]
        with Clock() as clock:
            texts = [[hear(samples) for samples in call] for call in calls]
        measured.append(Measurement(cpu_s=clock.cpu_s, wall_s=clock.wall_s, texts=texts))
    return measured


def _whisperx(job: Job) -> Callable[[Float], str]:
    import whisperx

    model = whisperx.load_model(
        job.model,
        "cpu",
        compute_type=COMPUTE_TYPE,
        threads=job.threads,
        language=job.language,
        asr_options={"beam_size": BEAM},
        vad_model=_silero() if job.kind == "whisperx-silero" else None,
    )

    def hear(samples: Float) -> str:
        try:
            segments = model.transcribe(samples, batch_size=BATCH)["segments"]
        except IndexError:  # WhisperX raises it if its detector finds no speech
            return ""
        return " ".join(segment["text"].strip() for segment in segments)

    return hear


def _faster_whisper(job: Job) -> Callable[[Float], str]:
    from faster_whisper import BatchedInferencePipeline, WhisperModel

    model = WhisperModel(job.model, device="cpu", compute_type=COMPUTE_TYPE, cpu_threads=job.threads)
    pipeline = BatchedInferencePipeline(model)

    def hear(samples: Float) -> str:
        segments, _ = pipeline.transcribe(samples, language=job.language, beam_size=BEAM, batch_size=BATCH)
        return " ".join(segment.text.strip() for segment in segments)

    return hear


def _silero() -> Any:
    """Return Silero from faster-whisper as a detector for WhisperX, which would download its own."""
    from faster_whisper.vad import VadOptions, get_speech_timestamps
    from whisperx.diarize import Segment as Found
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
            return [Found(one["start"] / RATE_HZ, one["end"] / RATE_HZ, "UNKNOWN") for one in found]

        @staticmethod
        def preprocess_audio(audio: Float) -> Float:
            return audio

    return Silero()


# -- ours ------------------------------------------------------------------------------------------------------------


def _settings(job: Job) -> Settings:
    return settings_of(
        Path(job.scratch) / "data",
        job.changes,
        model=job.model,
        compute_type=COMPUTE_TYPE,
        beam_size=BEAM,
        asr_workers=job.threads,
        language=job.language,
    )


async def _run_stages(job: Job) -> list[Measurement]:
    settings = _settings(job)
    measured = []
    async with OfflineStages(settings, padded=job.kind == "padded") as stages:
        await stages.transcribe_file(Path(job.warm_up))
        for files in job.sets:
            with Clock() as clock:
                heard = await stages.transcribe_files([Path(file) for file in files])
            measured.append(
                Measurement(
                    cpu_s=clock.cpu_s,
                    wall_s=clock.wall_s,
                    texts=[texts_of(segments) for segments in heard],
                    segments=heard,
                )
            )
    return measured


async def _run_pipeline(job: Job) -> list[Measurement]:
    settings = _settings(job)
    measured = []
    async with Embedded(settings) as pipeline:
        failing = asyncio.ensure_future(pipeline.worker.wait())
        try:
            await _finish(pipeline.worker.ready.wait(), failing)
            await _finish(send_call(pipeline, job.warm_up, "warm-up", job.language), failing)
            for number, files in enumerate(job.sets):
                with Clock() as clock:
                    await _finish(_send_all(pipeline, files, f"set-{number}", job.language), failing)
                measured.append((clock, [f"set-{number}/{index}" for index in range(len(files))]))
        finally:
            failing.cancel()
        with contextlib.closing(open_reader(settings.data / DATABASE_FILE, pipeline.instance)) as reader:
            return [
                Measurement(
                    cpu_s=clock.cpu_s,
                    wall_s=clock.wall_s,
                    texts=[
                        _stored(await asyncio.to_thread(reader.show, CallRef(DEFAULT_TENANT, name))) for name in names
                    ],
                )
                for clock, names in measured
            ]


def _stored(document: dict[str, Any]) -> list[str]:
    turns = sorted(document["turns"], key=lambda turn: turn["start_s"])
    return [
        " ".join(turn["text"] for turn in turns if turn["channel"] == channel["index"])
        for channel in document["channels"]
    ]


async def _finish(work: Any, failing: "asyncio.Future[None]") -> None:
    """Await `work`, or raise what stopped the pipeline."""
    task = asyncio.ensure_future(work)
    await asyncio.wait({task, failing}, return_when=asyncio.FIRST_COMPLETED)
    if failing.done():
        failing.result()
    await task


async def _send_all(pipeline: Embedded, files: list[str], name: str, language: str) -> None:
    turn = asyncio.Semaphore(AT_A_TIME)

    async def one(index: int, file: str) -> None:
        async with turn:
            await send_call(pipeline, file, f"{name}/{index}", language)

    async with asyncio.TaskGroup() as group:
        for index, file in enumerate(files):
            group.create_task(one(index, file))


async def send_call(pipeline: Embedded, path: str, call_id: str, language: str) -> None:
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
    audio.close()
