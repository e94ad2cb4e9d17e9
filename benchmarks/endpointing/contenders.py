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
import asyncio
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness.report import spread, write_report
from schemas.audio import AudioChunk, AudioEvent, CallEnded, CallStarted
from schemas.calls import DEFAULT_TENANT, CallRef
from schemas.utterances import Utterance
from stages.protocol import Event, Origin
from stages.separate.codecs import Samples
from stages.separate.speech import (
    BLOCK_FRAMES,
    FRAME_SAMPLES,
    VAD_RATE_HZ,
    SpeechState,
    VoiceActivityModel,
    load_voice_activity_model,
)
from stages.separate.stage import SeparateStage
from tests.calls import bad
from tests.support.processes.deployment import SAMPLE

KINDS: Final = ("silero-vad", "in lockstep", "model", "stage")
CHANNEL_S: Final = 600
"""Audio of a run, of all channels together."""
LEAST_S: Final = 12
TARGET: Final = 500
_ORIGIN: Final = Origin("", 0, 0, b"")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.endpointing",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", nargs="?", type=Path, default=SAMPLE, metavar="FILE")
    parser.add_argument("--channels", type=int, nargs="+", default=[1, 2, 16, 100])
    parser.add_argument("--chunk-s", type=float, default=0.2, help="length of the stage's chunks (0.2)")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write all figures there")
    given = parser.parse_args()
    rows = {n: measured(channels_of(given.file, n), given.chunk_s, given.runs) for n in given.channels}
    show(rows)
    figures: dict[str, Any] = {"input": given.file.name, "chunk_s": given.chunk_s, "target": TARGET, "channels": rows}
    write_report("endpointing", figures, given.json)


def channels_of(path: Path, n_channels: int) -> Samples:
    """Frames of each channel, shape (channels, frames, 256), whole blocks. Raises SystemExit for another rate."""
    pcm, rate_hz = bad.read_wav(path)
    if rate_hz != VAD_RATE_HZ:
        raise SystemExit(f"{path} has {rate_hz} Hz, not {VAD_RATE_HZ}")
    n_frames = int(max(LEAST_S, CHANNEL_S / n_channels) * VAD_RATE_HZ) // FRAME_SAMPLES // BLOCK_FRAMES * BLOCK_FRAMES
    legs = [
        np.resize(np.roll(pcm[:, index % pcm.shape[1]], -(index // 2) * VAD_RATE_HZ), n_frames * FRAME_SAMPLES)
        for index in range(n_channels)
    ]
    return np.stack(legs).reshape(n_channels, n_frames, FRAME_SAMPLES)


def measured(channels: Samples, chunk_s: float, runs: int) -> dict[str, Any]:
    """Channel seconds per CPU second of each kind, and how far our probabilities are from the package's."""
    package, model = loaded_package(), load_voice_activity_model()
    calls = [events_of(channels[first : first + 2], chunk_s) for first in range(0, len(channels), 2)]
    kinds: dict[str, Callable[[], Any]] = {
        "silero-vad": lambda: np.concatenate([by_package(package, channel[None]) for channel in channels]),
        "in lockstep": lambda: by_package(package, channels),
        "model": lambda: np.stack([by_model(model, frames) for frames in channels]),
        "stage": lambda: asyncio.run(by_stage(SeparateStage(model), calls)),
    }
    audio_s = channels.size / VAD_RATE_HZ
    speeds: dict[str, list[float]] = {kind: [] for kind in kinds}
    said: dict[str, Any] = {}
    for run in range(runs + 1):
        for kind, hear in kinds.items():
            began = time.process_time()
            said[kind] = hear()
            if run:
                speeds[kind].append(round(audio_s / (time.process_time() - began)))
        print(f"{len(channels)} channels, run {run} of {runs}", file=sys.stderr, flush=True)
    return {
        "channel_s": round(audio_s, 1),
        "per_cpu_s": {kind: spread(values) for kind, values in speeds.items()},
        "largest_difference": float(np.abs(said["model"] - said["silero-vad"]).max()),
        "utterances": said["stage"],
    }


def loaded_package() -> Any:
    import torch
    from silero_vad import load_silero_vad

    torch.set_num_threads(1)
    return load_silero_vad(onnx=True)


def by_package(package: Any, channels: Samples) -> NDArray[np.float32]:
    """Probabilities of shape (channels, frames)."""
    import torch

    package.reset_states()
    heard = [
        package(torch.from_numpy(channels[:, index] / np.float32(32768)), VAD_RATE_HZ).numpy()
        for index in range(channels.shape[1])
    ]
    return np.concatenate(heard, axis=1)


def by_model(model: VoiceActivityModel, frames: Samples) -> NDArray[np.float32]:
    """A block at a time, as a live channel's audio comes in. Probabilities of shape (frames,)."""
    state, heard = SpeechState(), []
    for first in range(0, len(frames), BLOCK_FRAMES):
        probabilities, state = model.probabilities(frames[first : first + BLOCK_FRAMES], state)
        heard.append(probabilities)
    return np.concatenate(heard)


def events_of(channels: Samples, chunk_s: float) -> list[AudioEvent]:
    """A call with a leg or two."""
    pcm = channels.reshape(len(channels), -1).T
    step = int(chunk_s * VAD_RATE_HZ)
    chunks = [AudioChunk(data=bad.mulaw(pcm[at : at + step])) for at in range(0, len(pcm), step)]
    start = CallStarted(encoding="mulaw", sample_rate_hz=VAD_RATE_HZ, channels=len(channels), roles=[])
    return [start, *chunks, CallEnded(events=len(chunks) + 2)]


async def by_stage(stage: SeparateStage, calls: list[list[AudioEvent]]) -> int:
    """Events of all calls in turn; how many utterances came out."""
    separators = [stage.open(CallRef(DEFAULT_TENANT, f"{number}"), None) for number in range(len(calls))]
    n_utterances = 0
    for seq, events in enumerate(zip(*calls, strict=True)):
        for separator, record in zip(separators, events, strict=True):
            event = Event(seq=seq, event_id=str(seq), origin=_ORIGIN, timestamp_s=0.0)
            numbered = [one.record async for one in separator.submit(record, event) if one.seq is not None]
            if numbered:
                separator.checkpoint()
            n_utterances += sum(isinstance(one, Utterance) for one in numbered)
    return n_utterances


def show(rows: dict[int, dict[str, Any]]) -> None:
    print("| channels | " + " | ".join(f"`{kind}`" for kind in KINDS) + " |")
    print("|---" * (len(KINDS) + 1) + "|")
    for n_channels, row in rows.items():
        speeds = [row["per_cpu_s"][kind] for kind in KINDS]
        cells = [f"{speed['median']:.0f} ({speed['min']:.0f} – {speed['max']:.0f})" for speed in speeds]
        print(f"| {n_channels} | " + " | ".join(cells) + " |")
    far = max(row["largest_difference"] for row in rows.values())
    print(f"\nthe model's probabilities and the package's differ by {far:.2g} at most; asked of the stage: {TARGET}")


if __name__ == "__main__":
    main()
