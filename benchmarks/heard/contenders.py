"""The compared transcribers on sets of recordings, each in a separate process, set by set.

| kind | what it is |
|---|---|
| `ours` | our separate and transcribe stages as for recorded calls, with word times, without a bus |
| `live` | the same as for live calls that nobody watches |
| `whisperx` | `whisperx.load_model(…).transcribe` with its own pyannote voice activity detection; no word times |
| `windows` | `faster_whisper.WhisperModel.transcribe`, no detection: full windows of 30 s, word times by attention |

All have the same model, compute type, beam and threads. `windows` does not condition on the text before, as the others
do not. A set without a language leaves it to be detected: by leg for the plain tools, by call for ours.
"""

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from benchmarks.harness.clock import Clock
from benchmarks.harness.offline import OfflineStages, settings_of, texts_of
from benchmarks.heard.coverage import Heard
from benchmarks.heard.references import Span
from benchmarks.transcribe.contenders import BATCH, BEAM, COMPUTE_TYPE, Float, legs
from schemas.segments import Segment

Kind = Literal["ours", "live", "whisperx", "windows"]
KINDS: Final[tuple[Kind, ...]] = ("ours", "live", "whisperx", "windows")


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """Files to be transcribed together; each has `channels` channels."""

    name: str
    language: str | None
    files: list[str]
    channels: int


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """The job of a process."""

    kind: Kind
    sets: list[Work]
    model: str
    threads: int
    changes: list[str]


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a process made of one set: of each file, each channel. `languages`: of each file, what ours decided on.

    `guards`: utterances dropped, by guard.
    """

    name: str
    cpu_s: float
    heard: list[list[Heard]]
    languages: list[list[str]] = []
    guards: dict[str, int] = {}


def in_own_process(job: Job) -> Iterator[Outcome]:
    """Yield the outcome of each set as it comes. Raises CalledProcessError if the process fails."""
    code = "import sys; from benchmarks.heard.contenders import child; child(sys.argv[1])"
    with tempfile.TemporaryDirectory() as folder:
        asked = Path(folder) / "job.json"
        asked.write_bytes(msgspec.json.encode(job))
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", code, str(asked)],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if line.startswith(b"{"):
                    yield msgspec.json.decode(line, type=Outcome)
            if process.wait():
                raise subprocess.CalledProcessError(process.returncode, process.args)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def child(asked: str) -> None:
    """Run a process: an outcome on a line of standard output for each set."""
    job = msgspec.json.decode(Path(asked).read_bytes(), type=Job)
    if job.kind in ("ours", "live"):
        asyncio.run(_ours(job))
    else:
        _plain(job)


def _say(outcome: Outcome) -> None:
    sys.stdout.buffer.write(b"\n" + msgspec.json.encode(outcome) + b"\n")
    sys.stdout.buffer.flush()


# -- ours ------------------------------------------------------------------------------------------------------------


async def _ours(job: Job) -> None:
    for language in dict.fromkeys(one.language for one in job.sets):
        with tempfile.TemporaryDirectory() as folder:
            settings = settings_of(
                Path(folder),
                job.changes,
                model=job.model,
                compute_type=COMPUTE_TYPE,
                beam_size=BEAM,
                asr_workers=job.threads,
                language=language,
            )
            async with OfflineStages(settings, live=job.kind == "live") as stages:
                for one in job.sets:
                    if one.language == language:
                        with Clock() as clock:
                            heard = await stages.transcribe_files([Path(file) for file in one.files])
                        _say(_outcome(one, clock.cpu_s, heard))


def _outcome(one: Work, cpu_s: float, heard: list[list[Segment]]) -> Outcome:
    guards: dict[str, int] = {}
    for segment in (segment for segments in heard for segment in segments if segment.guard is not None):
        guards[str(segment.guard)] = guards.get(str(segment.guard), 0) + 1
    return Outcome(
        name=one.name,
        cpu_s=cpu_s,
        heard=[heard_by(segments, one.channels) for segments in heard],
        languages=[sorted({segment.language for segment in segments}) for segments in heard],
        guards=guards,
    )


def heard_by(segments: list[Segment], channels: int) -> list[Heard]:
    """Return what segments say of each channel."""
    found = []
    for channel, text in enumerate(texts_of(segments, channels)):
        own = [segment for segment in segments if segment.channel == channel]
        found.append(
            Heard(
                text=text,
                utterances=sorted(
                    span for segment in own for span in (segment.parts or [(segment.start_s, segment.end_s)])
                ),
                words=[
                    (word.text, word.start_s, word.end_s)
                    for segment in sorted(own, key=lambda one: one.start_s)
                    for word in segment.words
                ],
                unheard=sorted(span for segment in own for span in _unheard(segment)),
            )
        )
    return found


def _unheard(segment: Segment) -> list[Span]:
    """Return the spans of a segment that are marked as not understood, where its version has such marks."""
    marks = msgspec.to_builtins(segment).get("unheard", [])
    return [(float(mark["start_s"]), float(mark["end_s"])) for mark in marks]


# -- the plain tools -------------------------------------------------------------------------------------------------


def _plain(job: Job) -> None:
    import torch

    torch.set_num_threads(job.threads)
    hear = _windows(job) if job.kind == "windows" else _whisperx(job)
    for one in job.sets:
        files = [list(legs(Path(file))) for file in one.files]
        with Clock() as clock:
            heard = [[hear(samples, one.language) for samples in file] for file in files]
        _say(Outcome(name=one.name, cpu_s=clock.cpu_s, heard=heard))


def _whisperx(job: Job) -> Callable[[Float, str | None], Heard]:
    import whisperx

    model = whisperx.load_model(
        job.model, "cpu", compute_type=COMPUTE_TYPE, threads=job.threads, asr_options={"beam_size": BEAM}
    )

    def hear(samples: Float, language: str | None) -> Heard:
        model.tokenizer = None  # it would keep the language of the leg before
        try:
            segments: list[Any] = model.transcribe(samples, batch_size=BATCH, language=language)["segments"]
        except IndexError:  # WhisperX raises it if its detector finds no speech
            segments = []
        return Heard(
            text=" ".join(segment["text"].strip() for segment in segments),
            utterances=[(float(segment["start"]), float(segment["end"])) for segment in segments],
        )

    return hear


def _windows(job: Job) -> Callable[[Float, str | None], Heard]:
    from faster_whisper import WhisperModel

    model = WhisperModel(job.model, device="cpu", compute_type=COMPUTE_TYPE, cpu_threads=job.threads)

    def hear(samples: Float, language: str | None) -> Heard:
        found, _ = model.transcribe(
            samples,
            language=language,
            beam_size=BEAM,
            vad_filter=False,
            condition_on_previous_text=False,
            word_timestamps=True,
        )
        segments = list(found)
        return Heard(
            text=" ".join(segment.text.strip() for segment in segments),
            words=[
                (word.word.strip(), float(word.start), float(word.end))
                for segment in segments
                for word in segment.words or []
            ],
        )

    return hear
