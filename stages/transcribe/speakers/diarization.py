"""Speaker turns on a channel that several speakers share, found when the call ends from all of its utterances.

The utterances are read back from the bus. So during the call nothing is kept in memory or in a checkpoint, and a crash
costs nothing: the call's end is read again, and its utterances with it.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from tempfile import TemporaryFile
from typing import Any, Final, Protocol, TypeVar

import msgspec
import numpy as np
import structlog

from schemas.calls import CallRef
from schemas.utterances import (
    UNKNOWN_SPEAKER,
    CallClosed,
    Channel,
    SpeakerSource,
    SpeakerTurn,
    Utterance,
    UtteranceRecord,
)
from stages.adapters.torch_loading import torch_device, torch_imports
from stages.protocol import Origin
from stages.transcribe import audio as utterance_audio
from stages.transcribe.engine.protocol import Audio, EngineError
from stages.transcribe.engine.windows import SAMPLE_RATE_HZ
from stages.transcribe.speakers.clustering import VoiceEstimate
from stages.transcribe.speakers.voices import Encoder

T = TypeVar("T")

StoredUtterances = Callable[[CallRef, Origin], AsyncIterator[UtteranceRecord]]
"""Yields the records of a call on a topic of utterances, in order, from an origin on. Raises what the bus raises."""

_SHARED_ROLES: Final = frozenset({"channel-0", "mono", "mixed", "unknown"})


def is_shared(channels: Sequence[Channel]) -> bool:
    """Return whether the call's one channel may hold several speakers: its producer named none who speaks on it."""
    return len(channels) == 1 and channels[0].role.lower() in _SHARED_ROLES


class CallVoices(Protocol):
    """The voices of one call. Its methods take long: they are called from a thread, one at a time."""

    def add(self, audio: Audio, start_s: float, voiced: Sequence[tuple[float, float]]) -> None:
        """Add an utterance, in the call's order. `start_s` and `voiced` are seconds from the call's start."""
        ...

    def turns(self) -> list[SpeakerTurn]:
        """Return the speaker turns in order, without overlaps, `speaker_1` first; none if they cannot be told apart."""
        ...

    def close(self) -> None:
        """Free the audio."""
        ...


class Diarizer(Protocol):
    source: SpeakerSource

    def open(self) -> CallVoices: ...


class VoiceDiarizer:
    """Estimates speakers from packaged voice embeddings."""

    source: SpeakerSource = "estimated"

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    def open(self) -> CallVoices:
        return VoiceEstimate(self._encoder)


class PyannoteDiarizer:
    """A pipeline of pyannote.audio: `speaker-diarization` or one like it."""

    source: SpeakerSource = "pyannote"

    def __init__(self, name: str, *, device: str = "cpu") -> None:
        """`name`: a directory with a `config.yaml`, or a repository of the hub. Raises EngineError."""
        with torch_imports():
            import torch
            from pyannote.audio import Pipeline
            from pyannote.audio.telemetry import set_telemetry_metrics

        set_telemetry_metrics(False)
        try:
            self._pipeline: Any = Pipeline.from_pretrained(name)
        except Exception as error:  # the libraries raise any error for missing or damaged files
            raise EngineError(f"the diarization pipeline {name!r}: {type(error).__name__}: {error}") from error
        if self._pipeline is None:
            raise EngineError(f"the diarization pipeline {name!r} cannot be had from the hub: is it gated?")
        self._pipeline.to(torch.device(torch_device(device)))

    def open(self) -> CallVoices:
        return _PyannoteCall(self._pipeline)


class _PyannoteCall:
    """Keeps the whole call in an unnamed file, because hours of audio need not fit into memory."""

    def __init__(self, pipeline: Any) -> None:
        self._pipeline = pipeline
        self._file = TemporaryFile()  # noqa: SIM115  # closed by `close`
        self._n_samples = 0

    def add(self, audio: Audio, start_s: float, voiced: Sequence[tuple[float, float]]) -> None:  # noqa: ARG002
        first = round(start_s * SAMPLE_RATE_HZ)
        self._file.seek(first * audio.itemsize)
        self._file.write(audio.tobytes())
        self._n_samples = max(self._n_samples, first + len(audio))

    def close(self) -> None:
        self._file.close()

    def turns(self) -> list[SpeakerTurn]:
        import torch

        if not self._n_samples:
            return []
        self._file.flush()
        samples = np.memmap(self._file, np.float32, mode="c", shape=(1, self._n_samples))
        found = self._pipeline({"waveform": torch.from_numpy(samples), "sample_rate": SAMPLE_RATE_HZ})
        annotation = getattr(found, "exclusive_speaker_diarization", found)
        names: dict[str, str] = {}
        turns: list[SpeakerTurn] = []
        for stretch, _, label in annotation.itertracks(yield_label=True):
            start_s = max(stretch.start, turns[-1].end_s if turns else 0.0)
            if stretch.end > start_s:
                name = names.setdefault(label, f"speaker_{len(names) + 1}")
                turns.append(SpeakerTurn(round(start_s, 3), round(stretch.end, 3), name))
        return turns


class Speakers:
    """Adds the speaker turns to the end of a call whose channel is shared."""

    def __init__(
        self, diarizer: Diarizer | None, stored: StoredUtterances, *, executor: Executor | None = None
    ) -> None:
        """Without a `diarizer`, because there are no weights, speakers stay unknown."""
        self._diarizer = diarizer
        self._stored = stored
        self._executor = executor

    async def add_to(self, closed: CallClosed, opened: Origin, channel: int = 0) -> tuple[CallClosed, dict[str, Any]]:
        """Return `closed` with the speaker turns of a channel, and the details for the ledger.

        `opened` is the position of the call's first record.

        If the diarizer fails, the speakers are unknown and the details give the reason. Raises what the bus raises.
        """
        if self._diarizer is None:
            return _unknown(closed, "there are no weights to tell voices apart")
        source = self._diarizer.source
        with contextlib.closing(self._diarizer.open()) as voices:
            try:
                n_utterances, turns = await self._diarize(voices, closed, opened, channel)
            except _Failed as failed:
                why = repr(failed.__cause__)
                structlog.get_logger("callstream.diarization").error("diarization failed", error=why)
                return _unknown(closed, why)
        if not turns:
            return _unknown(closed, "no voice was heard")
        unknown_s = sum(turn.end_s - turn.start_s for turn in turns if turn.speaker == UNKNOWN_SPEAKER)
        names = sorted({turn.speaker for turn in turns} - {UNKNOWN_SPEAKER})
        detail = {"source": source, "found": names, "unknown_s": round(unknown_s, 3), "utterances": n_utterances}
        return msgspec.structs.replace(closed, speakers=turns, speaker_source=source), detail

    async def _diarize(
        self, voices: CallVoices, closed: CallClosed, opened: Origin, channel: int
    ) -> tuple[int, list[SpeakerTurn]]:
        """Return the number of utterances, and the speaker turns. Raises _Failed, and what the bus raises."""
        n_utterances, last_seq = 0, -1
        async for record in self._stored(closed.call, opened):
            if record.seq >= closed.seq:
                break
            if isinstance(record, Utterance) and record.seq > last_seq and record.channel == channel:
                await self._run(_add, voices, record)
                n_utterances += 1
            last_seq = max(last_seq, record.seq)
        return n_utterances, await self._run(voices.turns)

    async def _run(self, work: Callable[..., T], *arguments: Any) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, partial(work, *arguments))
        except Exception as error:
            raise _Failed from error


class _Failed(Exception):
    """The diarizer failed; its error is the cause."""


def _add(voices: CallVoices, utterance: Utterance) -> None:
    """Add the utterance's parts one by one, each at its place in the call."""
    for part in utterance_audio.parts(utterance):
        voices.add(utterance_audio.audio(part), part.start_s, part.voiced)


def _unknown(closed: CallClosed, why: str) -> tuple[CallClosed, dict[str, Any]]:
    return msgspec.structs.replace(closed, speaker_source="unknown"), {"source": "unknown", "why": why}
