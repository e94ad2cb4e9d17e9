"""The transcribe stage: every utterance of a call becomes one segment with the utterance's number.

Utterances are queued as they come and published in order, so several of a call are in the engine at once; only while
the call's language is not settled each waits for the vote of the one before.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import msgspec
import numpy as np

from schemas.calls import CallRef
from schemas.segments import Segment, SegmentRecord
from schemas.status import JobState
from schemas.topics import SEGMENTS
from schemas.utterances import CallClosed, CallOpened, Utterance, UtteranceRecord
from stages.errors import RejectedInput
from stages.ledger import ledger_entry
from stages.protocol import Checkpoint, Event, Output
from stages.transcribe import guards
from stages.transcribe.engine import Audio, Row, Transcription
from stages.transcribe.language import LanguageVote, language_code
from stages.transcribe.scheduler import Scheduler
from stages.transcribe.windows import SAMPLE_RATE_HZ

_FULL_SCALE: Final = 32768.0


class CallState(msgspec.Struct, frozen=True, kw_only=True):
    """What a call's checkpoint holds. Inputs numbered below `released` are in it.

    `dropped` counts the utterances whose text each guard dropped, `failed` those that the engine could not decode,
    `aligned` those whose words were timed by alignment.
    """

    released: int = 0
    vote: LanguageVote = LanguageVote()
    utterances: int = 0
    worded: int = 0
    aligned: int = 0
    failed: int = 0
    dropped: dict[str, int] = {}
    audio_s: float = 0.0
    closed: bool = False


class TranscribeStage:
    """Makes the processors of one lane's calls; all lanes share one scheduler, which takes live work first."""

    name = "transcribe"
    topic = SEGMENTS

    def __init__(
        self, scheduler: Scheduler, *, live: bool = True, language: str | None = None, default_language: str = "en"
    ) -> None:
        """`language` is that of calls whose start names none; if it is None too, the call is decoded in
        `default_language` until its own is heard.
        """
        self._scheduler = scheduler
        self._live = live
        self._language = language
        self._default_language = default_language

    def open(self, call: CallRef, state: bytes | None) -> "TranscribeProcessor":
        restored = CallState() if state is None else msgspec.msgpack.decode(state, type=CallState)
        return TranscribeProcessor(
            call,
            restored,
            self._scheduler,
            live=self._live,
            language=self._language,
            default_language=self._default_language,
        )


class TranscribeProcessor:
    """One call. Numbered outputs repeat their input's number, so the runner can tell what is already published."""

    def __init__(
        self,
        call: CallRef,
        state: CallState,
        scheduler: Scheduler,
        *,
        live: bool,
        language: str | None,
        default_language: str,
    ) -> None:
        self._call = call
        self._state = state
        self._scheduler = scheduler
        self._live = live
        self._language = language
        self._default_language = default_language
        self._next = state.released
        self._vote: LanguageVote | asyncio.Future[LanguageVote] = state.vote
        """The vote after the last submitted input, perhaps not known yet; `_state.vote` is that of the last output."""

    def submit(self, record: UtteranceRecord, event: Event) -> AsyncIterator[Output]:
        """Queue an utterance at once, and iterate to its segment; other records are forwarded behind the segments.

        Raises RejectedInput for an utterance without a sample rate.
        """
        if record.seq < self._next:
            return _nothing()
        if isinstance(record, Utterance) and record.sample_rate_hz <= 0:
            raise RejectedInput(f"the utterance {record.seq} has a sample rate of {record.sample_rate_hz} Hz")
        self._next = record.seq + 1
        if isinstance(record, Utterance):
            before, after = self._vote, asyncio.get_running_loop().create_future()
            self._vote = after
            return self._answer(record, event, asyncio.create_task(self._transcribe(record, before, after)))
        if isinstance(record, CallOpened):
            self._vote = self._opening_vote(record)
        return self._forward(record, event)

    def checkpoint(self) -> Checkpoint:
        return Checkpoint(state=msgspec.msgpack.encode(self._state), released=self._state.released)

    @property
    def finished(self) -> bool:
        return self._state.closed and self._state.released == self._next

    def _opening_vote(self, opened: CallOpened) -> LanguageVote:
        known = self._scheduler.engine.languages
        if len(known) == 1:
            return LanguageVote(min(known))
        return LanguageVote(language_code(opened.language, known) or language_code(self._language, known))

    async def _transcribe(
        self,
        utterance: Utterance,
        before: LanguageVote | asyncio.Future[LanguageVote],
        after: asyncio.Future[LanguageVote],
    ) -> tuple[Transcription | None, LanguageVote]:
        """The text (None where there is too little speech) and the vote after it; `after` gets it when it is known."""
        vote = before if isinstance(before, LanguageVote) else await before
        voiced_s = _voiced_s(utterance)
        try:
            if guards.too_short(voiced_s):
                return None, vote
            if vote.locked is not None:
                after.set_result(vote)
                row = Row(audio=_audio(utterance), voiced=_voiced(utterance), language=vote.locked)
                return await self._scheduler.submit(row, live=self._live), vote

            start = vote

            def choose(detected: Mapping[str, float]) -> str:
                nonlocal vote
                vote = start.heard(detected, voiced_s)  # not from `vote`: a batch that failed is decoded again
                return vote.language(self._default_language)

            row = Row(audio=_audio(utterance), voiced=_voiced(utterance), language=choose)
            return await self._scheduler.submit(row, live=self._live), vote
        finally:
            if not after.done():
                after.set_result(vote)

    async def _answer(
        self, utterance: Utterance, event: Event, work: "asyncio.Task[tuple[Transcription | None, LanguageVote]]"
    ) -> AsyncIterator[Output]:
        try:
            transcription, vote = await work
        finally:
            work.cancel()
        segment = self._segment(utterance, transcription, vote)
        dropped = dict(self._state.dropped)
        if segment.guard is not None and segment.guard != "error":
            dropped[segment.guard] = dropped.get(segment.guard, 0) + 1
        state = msgspec.structs.replace(
            self._state,
            released=utterance.seq + 1,
            vote=vote,
            utterances=self._state.utterances + 1,
            worded=self._state.worded + bool(segment.words),
            aligned=self._state.aligned + (bool(segment.words) and segment.word_source == "alignment"),
            failed=self._state.failed + (segment.guard == "error"),
            dropped=dropped,
            audio_s=round(self._state.audio_s + utterance.end_s - utterance.start_s, 3),
            closed=False,
        )
        if transcription is not None and transcription.error is not None:
            detail = {
                "segment_id": segment.segment_id,
                "channel": utterance.channel,
                "start_s": utterance.start_s,
                "end_s": utterance.end_s,
                "error": transcription.error,
            }
            yield self._ledger("failed", detail, event, f"failed/{utterance.seq}")
        yield self._numbered(segment)
        self._state = state

    async def _forward(self, record: SegmentRecord, event: Event) -> AsyncIterator[Output]:
        state = msgspec.structs.replace(self._state, released=record.seq + 1, closed=isinstance(record, CallClosed))
        if isinstance(record, CallOpened):
            state = msgspec.structs.replace(state, vote=self._opening_vote(record))
            detail: dict[str, Any] = {
                "model": self._scheduler.engine.model_name,
                "language": state.vote.locked,
                "requested_language": record.language,
            }
            yield self._ledger("started", detail, event, "started")
        elif isinstance(record, CallClosed):
            detail = {
                "model": self._scheduler.engine.model_name,
                "language": state.vote.language(self._default_language),
                "utterances": state.utterances,
                "with_words": state.worded,
                "aligned": state.aligned,
                "failed": state.failed,
                "dropped": state.dropped,
                "audio_s": state.audio_s,
            }
            yield self._ledger("completed", detail, event, f"completed/{record.revision}")
        yield self._numbered(record)
        self._state = state

    def _segment(self, utterance: Utterance, transcription: Transcription | None, vote: LanguageVote) -> Segment:
        done = transcription or Transcription.failed(vote.language(self._default_language), "")
        verdict = guards.Verdict("short" if transcription is None else "error", [])
        if transcription is not None and transcription.error is None:
            verdict = guards.judge(
                voiced_s=_voiced_s(utterance),
                text=done.text,
                average_logprob=done.average_logprob,
                no_speech_probability=done.no_speech_probability,
                word_probabilities=[word.probability for word in done.words],
                repeats=done.repeats,
            )
        start_s = utterance.start_s
        words = [
            msgspec.structs.replace(
                word, start_s=round(word.start_s + start_s, 3), end_s=round(word.end_s + start_s, 3)
            )
            for word in (done.words if verdict.guard is None else [])
        ]
        probability = sum(word.probability for word in words) / len(words) if words else 0.0
        return Segment(
            call=self._call,
            seq=utterance.seq,
            segment_id=str(self._call.derived_id("segment", utterance.channel, utterance.first_sample)),
            channel=utterance.channel,
            start_s=start_s,
            end_s=utterance.end_s,
            text=done.text if verdict.guard is None else "",
            words=words,
            voiced=utterance.voiced,
            language=done.language or vote.language(self._default_language),
            model=self._scheduler.engine.model_name,
            word_source=done.word_source,
            probability=round(probability, 4),
            no_speech_probability=done.no_speech_probability,
            guard=verdict.guard,
            dropped_text="" if verdict.guard is None else done.text,
            flags=verdict.flags,
        )

    def _numbered(self, record: SegmentRecord) -> Output:
        return Output(topic=SEGMENTS, record=record, event_id=self._event_id(str(record.seq)), seq=record.seq)

    def _ledger(self, status: JobState, detail: dict[str, Any], event: Event, name: str) -> Output:
        at, event_id = event.timestamp_s, self._event_id(name)
        return ledger_entry(self._call, "transcribe", status, detail, at=at, event_id=event_id)

    def _event_id(self, name: str) -> str:
        return f"{self._call.tenant}/{self._call.call_id}/transcribe.1/{name}"


def _voiced_s(utterance: Utterance) -> float:
    return min(sum(end - start for start, end in utterance.voiced), utterance.end_s - utterance.start_s)


def _voiced(utterance: Utterance) -> list[tuple[float, float]]:
    """The stretches of speech in seconds from the utterance's start."""
    start_s = utterance.start_s
    return [(max(0.0, start - start_s), end - start_s) for start, end in utterance.voiced]


def _audio(utterance: Utterance) -> Audio:
    """float32 in [-1, 1), shape (n_samples,), 16 kHz."""
    import soxr

    whole = len(utterance.pcm) // 2
    samples = np.frombuffer(utterance.pcm, "<i2", count=whole).astype(np.float32) / np.float32(_FULL_SCALE)
    if utterance.sample_rate_hz == SAMPLE_RATE_HZ:
        return samples
    resampled: Audio = soxr.resample(samples, utterance.sample_rate_hz, SAMPLE_RATE_HZ, quality="HQ")
    return resampled


async def _nothing() -> AsyncIterator[Output]:
    return
    yield
