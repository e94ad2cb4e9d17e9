"""Ways to find speech on telephone channels, and their speed in channel seconds per CPU second."""

import asyncio
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness.report import spread
from schemas.audio import AudioChunk, AudioEvent, CallEnded, CallStarted
from schemas.calls import DEFAULT_TENANT, CallRef
from schemas.utterances import Utterance
from stages.protocol import Event, Origin
from stages.separate.codecs import Samples
from stages.separate.frame_models import BLOCK_FRAMES, NO_MEMORY, FrameModel, frame_model, shipped_weights
from stages.separate.silero import NARROW
from stages.separate.speech import (
    FRAME_SAMPLES,
    VAD_RATE_HZ,
    SpeechState,
    VoiceActivityModel,
    load_voice_activity_model,
)
from stages.separate.stage import SeparateStage
from tests.calls import bad

KINDS: Final = ("silero-vad", "in lockstep", "8 kHz form", "detection", "stage")
CHANNEL_S: Final = 600
"""Audio of one run, all channels together."""
LEAST_S: Final = 12
TARGET: Final = 500
_ORIGIN: Final = Origin("", 0, 0, b"")


def channels_of(path: Path, n_channels: int) -> Samples:
    """Return frames, int16, shape (channels, frames, 256), in whole blocks.

    Raises SystemExit if the file's rate is not 8 kHz.
    """
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
    """Return channel seconds per CPU second of each kind, and the largest difference to the package's probabilities."""
    package, model = loaded_package(), load_voice_activity_model()
    narrow = frame_model(shipped_weights(), NARROW)
    calls = [events_of(channels[first : first + 2], chunk_s) for first in range(0, len(channels), 2)]
    kinds: dict[str, Callable[[], Any]] = {
        "silero-vad": lambda: np.concatenate([by_package(package, channel[None]) for channel in channels]),
        "in lockstep": lambda: by_package(package, channels),
        "8 kHz form": lambda: np.stack([by_form(narrow, frames) for frames in channels]),
        "detection": lambda: np.stack([by_model(model, frames) for frames in channels]),
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
        "largest_difference": float(np.abs(said["8 kHz form"] - said["silero-vad"]).max()),
        "utterances": said["stage"],
    }


def loaded_package() -> Any:
    import torch
    from silero_vad import load_silero_vad

    torch.set_num_threads(1)
    return load_silero_vad(onnx=True)


def by_package(package: Any, channels: Samples) -> NDArray[np.float32]:
    """Return probabilities, shape (channels, frames)."""
    import torch

    package.reset_states()
    heard = [
        package(torch.from_numpy(channels[:, index] / np.float32(32768)), VAD_RATE_HZ).numpy()
        for index in range(channels.shape[1])
    ]
    return np.concatenate(heard, axis=1)


def by_form(model: FrameModel, frames: Samples) -> NDArray[np.float32]:
    """Return the probabilities of one form of the model, shape (frames,), a block at a time."""
    whole = np.concatenate([np.zeros(NARROW.context_samples, np.int16), frames.reshape(-1)])
    samples = whole.astype(np.float32) / np.float32(32768)
    inputs: NDArray[np.float32] = np.lib.stride_tricks.sliding_window_view(samples, NARROW.n_inputs)[::FRAME_SAMPLES]
    memory, heard = NO_MEMORY, []
    for first in range(0, len(frames), BLOCK_FRAMES):
        probabilities, memory = model.probabilities(inputs[first : first + BLOCK_FRAMES], memory)
        heard.append(probabilities)
    return np.concatenate(heard)


def by_model(model: VoiceActivityModel, frames: Samples) -> NDArray[np.float32]:
    """Return probabilities, shape (frames,), computed a block at a time as for a live channel."""
    state, heard = SpeechState(), []
    for first in range(0, len(frames), BLOCK_FRAMES):
        probabilities, state = model.probabilities(frames[first : first + BLOCK_FRAMES], state)
        heard.append(probabilities)
    return np.concatenate(heard)


def events_of(channels: Samples, chunk_s: float) -> list[AudioEvent]:
    """Return the events of a call with one or two legs."""
    pcm = channels.reshape(len(channels), -1).T
    step = int(chunk_s * VAD_RATE_HZ)
    chunks = [AudioChunk(data=bad.mulaw(pcm[at : at + step])) for at in range(0, len(pcm), step)]
    start = CallStarted(encoding="mulaw", sample_rate_hz=VAD_RATE_HZ, channels=len(channels), roles=[])
    return [start, *chunks, CallEnded(events=len(chunks) + 2)]


async def by_stage(stage: SeparateStage, calls: list[list[AudioEvent]]) -> int:
    """Submit the events of all calls, interleaved. Returns the number of utterances."""
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
