"""Who speaks when on a channel that is not one speaker's: asked for when the call ends, from all of its utterances.

They are read back from the bus, so nothing of them is kept in memory or in a checkpoint while the call goes on, and a
crash costs nothing: the call's end is read again, and with it the utterances.
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
from stages.transcribe.speakers.voices import VoiceEncoder

T = TypeVar("T")

StoredUtterances = Callable[[CallRef, Origin], AsyncIterator[UtteranceRecord]]
"""The records of a call on a topic of utterances, from a place on, in order. Raises what the bus raises."""

_SHARED_ROLES: Final = frozenset({"channel-0", "mono", "mixed", "unknown"})


def is_shared(channels: Sequence[Channel]) -> bool:
    """Whether the call's one channel may hold several speakers: its producer named nobody who speaks on it."""
    return len(channels) == 1 and channels[0].role.lower() in _SHARED_ROLES


class CallVoices(Protocol):
    """The voices of one call. Its methods take long: they are called from a thread, one after the other."""

    def hear(self, audio: Audio, start_s: float, voiced: Sequence[tuple[float, float]]) -> None:
        """An utterance, in the call's order. `start_s` and `voiced` are seconds from the call's start."""
        ...

    def turns(self) -> list[SpeakerTurn]:
        """Who spoke when: in order, without overlaps, `speaker_1` first; nothing where that cannot be told."""
        ...

    def close(self) -> None:
        """Let go of what was heard."""
        ...


class Diarizer(Protocol):
    source: SpeakerSource

    def open(self) -> CallVoices: ...


class VoiceDiarizer:
    """Estimates speakers from packaged voice embeddings."""

    source: SpeakerSource = "estimated"

    def __init__(self, encoder: VoiceEncoder) -> None:
        self._encoder = encoder

    def open(self) -> CallVoices:
        return VoiceEstimate(self._encoder)


class PyannoteDiarizer:
    """A pipeline of pyannote.audio: `speaker-diarization` or one like it."""

    source: SpeakerSource = "pyannote"

    def __init__(self, name: str, *, device: str = "cpu") -> None:
        """`name` is a directory with a `config.yaml`, or a repository of the hub. Raises EngineError."""
        with torch_imports():
            import torch
            from pyannote.audio import Pipeline
            from pyannote.audio.telemetry import set_telemetry_metrics

        set_telemetry_metrics(False)
        try:
            self._pipeline: Any = Pipeline.from_pretrained(name)
        except Exception as error:  # what is missing or damaged raises what its library likes
            raise EngineError(f"the diarization pipeline {name!r}: {type(error).__name__}: {error}") from error
        if self._pipeline is None:
            raise EngineError(f"the diarization pipeline {name!r} cannot be had from the hub: is it gated?")
        self._pipeline.to(torch.device(torch_device(device)))

    def open(self) -> CallVoices:
        return _PyannoteCall(self._pipeline)


class _PyannoteCall:
    """The whole call lies in a file without a name, for hours of it need not fit into memory."""

    def __init__(self, pipeline: Any) -> None:
        self._pipeline = pipeline
        self._file = TemporaryFile()  # noqa: SIM115  # closed by `close`
        self._n_samples = 0

    def hear(self, audio: Audio, start_s: float, voiced: Sequence[tuple[float, float]]) -> None:  # noqa: ARG002
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
    """Adds who speaks when to the end of a call whose channel is shared."""

    def __init__(
        self, diarizer: Diarizer | None, stored: StoredUtterances, *, executor: Executor | None = None
    ) -> None:
        """`diarizer` None: there are no weights, and speakers stay unknown."""
        self._diarizer = diarizer
        self._stored = stored
        self._executor = executor

    async def found(self, closed: CallClosed, opened: Origin) -> tuple[CallClosed, dict[str, Any]]:
        """`closed` with speakers, and what the ledger says of it. `opened` is where the call's first record lies.

        Raises what the bus raises; a diarizer that fails leaves the speakers unknown and says why.
        """
        if self._diarizer is None:
            return _unknown(closed, "there are no weights to tell voices apart")
        source = self._diarizer.source
        with contextlib.closing(self._diarizer.open()) as voices:
            try:
                n_heard, turns = await self._listened(voices, closed, opened)
            except _Failed as failed:
                why = repr(failed.__cause__)
                structlog.get_logger("callstream.diarization").error("speakers could not be told apart", error=why)
                return _unknown(closed, why)
        if not turns:
            return _unknown(closed, "no voice was heard")
        unknown_s = sum(turn.end_s - turn.start_s for turn in turns if turn.speaker == UNKNOWN_SPEAKER)
        names = sorted({turn.speaker for turn in turns} - {UNKNOWN_SPEAKER})
        detail = {"source": source, "found": names, "unknown_s": round(unknown_s, 3), "utterances": n_heard}
        return msgspec.structs.replace(closed, speakers=turns, speaker_source=source), detail

    async def _listened(self, voices: CallVoices, closed: CallClosed, opened: Origin) -> tuple[int, list[SpeakerTurn]]:
        """How many utterances were heard, and who spoke. Raises _Failed, and what the bus raises."""
        n_heard, last_seq = 0, -1
        async for record in self._stored(closed.call, opened):
            if record.seq >= closed.seq:
                break
            if isinstance(record, Utterance) and record.seq > last_seq:
                await self._run(_hear, voices, record)
                n_heard += 1
            last_seq = max(last_seq, record.seq)
        return n_heard, await self._run(voices.turns)

    async def _run(self, work: Callable[..., T], *arguments: Any) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, partial(work, *arguments))
        except Exception as error:
            raise _Failed from error


class _Failed(Exception):
    """The diarizer raised the cause."""


def _hear(voices: CallVoices, utterance: Utterance) -> None:
    """Part by part: the voices must hear the pauses between them."""
    for part in utterance_audio.parts(utterance):
        voices.hear(utterance_audio.audio(part), part.start_s, part.voiced)


def _unknown(closed: CallClosed, why: str) -> tuple[CallClosed, dict[str, Any]]:
    return msgspec.structs.replace(closed, speaker_source="unknown"), {"source": "unknown", "why": why}
