"""A call with live text: its records, an engine that changes its mind, and the stage that they go through."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import numpy as np

from schemas import envelope
from schemas.partials import Commitment, Partial
from schemas.segments import Segment, Word
from schemas.utterances import CallOpened, CallProgress, Channel, InterimUtterance, Utterance
from stages.protocol import Event, Origin, Output
from stages.transcribe.engine.protocol import Row, Transcription
from stages.transcribe.engine.windows import SAMPLE_RATE_HZ
from stages.transcribe.scheduling.scheduler import Scheduler
from stages.transcribe.stage import TranscribeStage
from tests.unit.stages.transcribe.engines import FakeEngine
from tests.unit.stages.transcribe.records import CALL, closed

RATE_HZ = 8000
UTTERANCE_S = 12.0
INTERIMS = 6


class WaveringEngine(FakeEngine):
    """Writes two words a second, of which an interim's newest are wrong, and finals that differ from the interims."""

    def __init__(self, *, fails_finals: bool = False, no_speech: float = 0.1) -> None:
        super().__init__()
        self.fails_finals = fails_finals
        self.no_speech = no_speech
        self.interims: list[float] = []
        self.asked: list[object] = []

    def transcribe_batch(self, rows: Sequence[Row]) -> list[Transcription]:
        self.gate.wait(10)
        return [self._hear(row) for row in rows]

    def _hear(self, row: Row) -> Transcription:
        seconds = len(row.audio) / SAMPLE_RATE_HZ
        if row.interim:
            self.interims.append(seconds)
            self.asked.append(row.language)
        elif self.fails_finals and row.audio.any():
            raise RuntimeError("no memory left")
        count = round(seconds * 2)
        words = [f"w{index}" for index in range(count)]
        if row.interim:
            words[-2:] = [f"{word}maybe{count}" for word in words[-2:]]
        else:
            words = [word.upper() if index % 3 else word for index, word in enumerate(words)]
        text = " ".join([row.prefix, *words[len(row.prefix.split()) :]]).strip()
        said = [] if row.interim else text.split()
        return Transcription(
            text=text,
            words=[
                Word(text=word, start_s=index / 2, end_s=index / 2 + 0.4, probability=0.9)
                for index, word in enumerate(said)
            ],
            language="en",
            average_logprob=-0.2,
            no_speech_probability=0.1 if row.interim else self.no_speech,
        )


def opened(*, partials: bool = True) -> CallOpened:
    return CallOpened(
        call=CALL,
        seq=0,
        channels=[Channel(0, "agent"), Channel(1, "customer")],
        sample_rate_hz=RATE_HZ,
        encoding="pcm_s16le",
        language="en",
        partials=partials,
        metadata={},
        opened_at=1.0,
    )


def pcm(seconds: float) -> bytes:
    return np.full(int(seconds * RATE_HZ), 300, "<i2").tobytes()


def interim(channel: int, start_s: float, revision: int, *, certain: bool = True) -> InterimUtterance:
    return InterimUtterance(
        call=CALL,
        channel=channel,
        first_sample=int(start_s * RATE_HZ),
        sample_rate_hz=RATE_HZ,
        pcm=pcm(revision),
        voiced=[(start_s, start_s + revision)],
        revision=revision,
        certain=certain,
    )


def utterance(seq: int, channel: int, start_s: float, seconds: float) -> Utterance:
    return Utterance(
        call=CALL,
        seq=seq,
        channel=channel,
        first_sample=int(start_s * RATE_HZ),
        sample_rate_hz=RATE_HZ,
        pcm=pcm(seconds),
        voiced=[(start_s, start_s + seconds)],
        cut="pause",
    )


def commitment(committed: str, *, tail: str = "") -> Commitment:
    """Return a commitment of the utterance that begins after a second on the first channel."""
    return Commitment(
        call=CALL,
        channel=0,
        first_sample=8000,
        revision=1,
        committed=committed,
        tail=tail,
        start_s=1.0,
        end_s=3.0,
        language="en",
    )


def whole_call(*, partials: bool = True) -> list[envelope.StageRecord]:
    """Return two channels that speak at once, three utterances each, with progress between them."""
    records: list[envelope.StageRecord] = [opened(partials=partials)]
    seq = 1
    for number in range(3):
        start_s = number * UTTERANCE_S
        for revision in range(1, INTERIMS + 1):
            records += [interim(channel, start_s + channel, revision) for channel in (0, 1)]
            if revision % 2 == 0:
                records.append(CallProgress(call=CALL, seq=seq, heard_to_s=[start_s, start_s]))
                seq += 1
        for channel in (0, 1):
            records.append(utterance(seq, channel, start_s + channel, INTERIMS + 0.5))
            seq += 1
    return [*records, closed(seq)]


class LiveCall:
    """One call in the stage. Commitments are read back as soon as they are published."""

    def __init__(self, engine: FakeEngine) -> None:
        self.dropped: list[str] = []
        self._outputs: list[Output] = []
        self._scheduler = Scheduler(engine, workers=2)
        self._processor = TranscribeStage(self._scheduler, dropped=self.dropped.append).open(CALL, None)
        self._work: list[asyncio.Task[None]] = []
        self._numbered: asyncio.Task[None] | None = None
        """The work on the last numbered record. Outputs of numbered records come in the records' order."""

    async def publish(self, record: envelope.StageRecord) -> None:
        self._submit(record)
        await asyncio.sleep(0)

    def _submit(self, record: envelope.StageRecord) -> None:
        seq = getattr(record, "seq", None)
        place = len(self._work)
        event = Event(seq=seq or 0, event_id=str(place), origin=Origin("in", 0, place, CALL.key), timestamp_s=1.0)
        outputs = self._processor.submit(record, event)  # type: ignore[arg-type]  # other stages' records do not come
        before = None if seq is None else self._numbered
        work = asyncio.create_task(self._collect(outputs, before))
        self._work.append(work)
        if seq is not None:
            self._numbered = work

    async def _collect(self, outputs: AsyncIterator[Output], before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait([before])
        async for output in outputs:
            self._outputs.append(output)
            if isinstance(output.record, Commitment):
                self._submit(output.record)

    async def partials(self) -> list[Partial]:
        return [output.record for output in self._outputs if isinstance(output.record, Partial)]

    async def segments(self) -> list[Segment]:
        return [output.record for output in self._outputs if isinstance(output.record, Segment)]

    async def until_partials(self, count: int) -> list[Partial]:
        async with asyncio.timeout(10):
            while len(found := await self.partials()) < count:  # noqa: ASYNC110  # outputs set no event
                await asyncio.sleep(0.002)
        return found

    async def until_segments(self, count: int) -> list[Segment]:
        async with asyncio.timeout(10):
            while len(found := await self.segments()) < count:  # noqa: ASYNC110
                await asyncio.sleep(0.002)
        return found

    async def until_done(self) -> None:
        async with asyncio.timeout(10):
            while any(not work.done() for work in self._work):  # work may begin more work
                await asyncio.wait(self._work)

    async def close(self) -> None:
        for work in self._work:
            work.cancel()
        ended = await asyncio.gather(*self._work, return_exceptions=True)
        await self._scheduler.close()
        assert all(end is None or isinstance(end, asyncio.CancelledError) for end in ended), ended


@asynccontextmanager
async def call(engine: FakeEngine) -> AsyncIterator[LiveCall]:
    live = LiveCall(engine)
    try:
        yield live
    finally:
        engine.gate.set()
        await live.close()


def assert_nothing_flipped(partials: Sequence[Partial], segments: Sequence[Segment]) -> None:
    texts = {segment.segment_id: segment.text for segment in segments}
    shown: defaultdict[str, list[Partial]] = defaultdict(list)
    for partial in partials:
        shown[partial.utterance_id].append(partial)
    for utterance_id, versions in shown.items():
        newest = ""
        for partial in sorted(versions, key=lambda partial: partial.revision):
            assert partial.committed.startswith(newest)
            newest = partial.committed
        assert (versions[-1].final, newest) == (True, texts[utterance_id])
