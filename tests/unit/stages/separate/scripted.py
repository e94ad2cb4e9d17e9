"""Calls of noise bursts, a voice activity model that finds them, and a runner that may crash anywhere."""

from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from schemas import envelope, topics
from schemas.audio import AudioChunk, AudioEvent, AudioRecord, CallEnded, CallOverdue, CallStarted, Encoding
from schemas.calls import CallRef
from schemas.utterances import UtteranceRecord
from stages.errors import RejectedInput
from stages.protocol import Event, Origin, Output
from stages.separate.codecs import Samples
from stages.separate.speech import SpeechState
from stages.separate.stage import CallSeparator, SeparateStage

CALL = CallRef("default", "call-1")
RATE_HZ = 8_000


class LoudnessModel:
    """Takes loud frames for speech. Its memory of the last frame is in the state, like the real model's."""

    def probabilities(self, frames: Samples, state: SpeechState) -> tuple[NDArray[np.float32], SpeechState]:
        before = float(np.frombuffer(state.memory, "<f4")[0])
        found = []
        for frame in frames.astype(np.float64):
            before = 0.2 * before + 0.8 * min(1.0, float(np.abs(frame).mean()) / 400)
            found.append(before)
        memory = np.full(256, before, np.float32).tobytes()
        return np.asarray(found, np.float32), msgspec.structs.replace(state, memory=memory)


def bursts(*stretches: tuple[float, float], length_s: float, rate_hz: int = RATE_HZ, seed: int = 1) -> Samples:
    """Return mono audio: loud noise in each (start_s, end_s), digital silence elsewhere."""
    samples = np.zeros(int(length_s * rate_hz), np.int16)
    random = np.random.default_rng(seed)
    for start_s, end_s in stretches:
        first, last = int(start_s * rate_hz), int(end_s * rate_hz)
        samples[first:last] = random.normal(0, 3000, last - first).clip(-32768, 32767).astype(np.int16)
    return samples


def call_events(
    *channels: Samples, chunk_s: float = 0.5, encoding: Encoding = "pcm_s16le", rate_hz: int = RATE_HZ
) -> list[AudioEvent]:
    """Return a whole call of PCM chunks; event n of the list has number n."""
    data = np.stack(channels, axis=1).astype("<i2").tobytes()
    size = int(chunk_s * rate_hz) * 2 * len(channels)
    chunks = [AudioChunk(data=data[at : at + size]) for at in range(0, len(data), size)]
    start = CallStarted(encoding=encoding, sample_rate_hz=rate_hz, channels=len(channels), roles=["agent", "customer"])
    return [start, *chunks, CallEnded(events=len(chunks) + 2)]


class Arrival(msgspec.Struct, frozen=True):
    """An event with its position on the bus. The bus stores one record a second, unless `at_s` says when."""

    position: int
    seq: int
    record: AudioRecord
    source: str = "/pbx/7"
    at_s: float | None = None
    producer_time: bool = False

    @property
    def event(self) -> Event:
        return Event(
            seq=self.seq,
            event_id=f"{self.position}",
            origin=Origin(topics.AUDIO_BATCH, 3, self.position, CALL.key),
            timestamp_s=1_700_000_000.0 + (self.position if self.at_s is None else self.at_s),
            source=self.source,
            producer_time=self.producer_time,
        )


def overdue(position: int, below: int) -> Arrival:
    """Return the record that ends the wait for events numbered below `below`, the last of which has come."""
    return Arrival(position, below - 1, CallOverdue(below=below))


def in_order(events: Iterable[AudioEvent]) -> list[Arrival]:
    return [Arrival(position, position, record) for position, record in enumerate(events)]


class Published(msgspec.Struct, frozen=True):
    """A numbered output with the checkpoint that it carries. `position` is that of its event."""

    output: Output
    position: int
    state: bytes
    released: int


class Run(msgspec.Struct):
    """The outputs of a processor."""

    published: list[Published]
    others: list[Output]
    rejected: dict[int, str]

    @property
    def records(self) -> list[UtteranceRecord]:
        return [item.output.record for item in self.published]  # type: ignore[misc]

    def of(self, kind: type[msgspec.Struct]) -> list[msgspec.Struct]:
        return [record for record in self.records if isinstance(record, kind)]


async def feed(processor: CallSeparator, arrivals: Sequence[Arrival], *, state: bytes = b"", released: int = 0) -> Run:
    """Drive a processor as the call runner does: the last output of an event carries the state after it."""
    run = Run([], [], {})
    for arrival in arrivals:
        numbered: list[Output] = []
        try:
            async for output in processor.submit(arrival.record, arrival.event):
                if output.seq is None:
                    run.others.append(output)
                else:
                    assert output.topic == topics.UTTERANCES
                    numbered.append(output)
        except RejectedInput as error:
            run.rejected[arrival.position] = str(error)
            continue
        for output in numbered[:-1]:
            run.published.append(Published(output, arrival.position, state, released))
        if numbered:
            checkpoint = processor.checkpoint()
            state, released = checkpoint.state, checkpoint.released
            run.published.append(Published(numbered[-1], arrival.position, state, released))
    return run


async def separate(arrivals: Sequence[Arrival], stage: SeparateStage | None = None) -> Run:
    return await feed((stage or SeparateStage(LoudnessModel())).open(CALL, None), arrivals)


async def after_crash(
    arrivals: Sequence[Arrival], whole: Run, n_published: int, *, only_unreleased: bool, stage: SeparateStage
) -> Run:
    """Return all outputs of a run that crashes right after its `n_published`th output.

    The bus redelivers from the first unacknowledged event, possibly including acknowledged ones after it.
    """
    before = whole.published[:n_published]
    state, released = (before[-1].state, before[-1].released) if before else (b"", 0)
    done = before[-1].position if before else -1
    if n_published < len(whole.published) and whole.published[n_published].position == done:
        done -= 1
    open_ones = [
        item
        for item in arrivals
        if item.position > done or (item.seq >= released and item.position not in whole.rejected)
    ]
    floor = open_ones[0].position if open_ones else len(arrivals)
    again = open_ones if only_unreleased else [item for item in arrivals if item.position >= floor]
    run = await feed(stage.open(CALL, state or None), again, state=state, released=released)
    known = len(before)
    fresh = [item for item in run.published if item.output.seq is not None and item.output.seq >= known]
    return Run([*before, *fresh], run.others, run.rejected)


def wire(run: Run) -> list[bytes]:
    """Return the numbered outputs as bytes on the bus."""
    return [envelope.encode(record) for record in run.records]
