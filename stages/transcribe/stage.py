"""The transcribe stage: every utterance of a call becomes one segment with the utterance's number.

Utterances are queued as they come and published in order, so several of a call are in the engine at once; only while
the call's language is not settled each waits for the vote of the one before. A producer may change the language and the
hotwords in the middle of a call: see `hearing`.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from schemas.calls import CallRef
from schemas.partials import Commitment
from schemas.segments import Segment, SegmentRecord
from schemas.status import JobState
from schemas.topics import SEGMENTS
from schemas.utterances import (
    CallChanged,
    CallClosed,
    CallOpened,
    CallProgress,
    InterimUtterance,
    Utterance,
    UtteranceRecord,
)
from stages.errors import RejectedInput
from stages.ledger import ledger_entry
from stages.protocol import Checkpoint, Event, Output, no_outputs
from stages.transcribe import guards
from stages.transcribe.audio import audio_from, begin_s, voiced, voiced_from, voiced_s
from stages.transcribe.decoding_context import Hearing, followed, in_force, needed
from stages.transcribe.engine.protocol import LanguageChoice, Row, Transcription
from stages.transcribe.engine.words import UNSPACED, MeasuredWord, timed_words
from stages.transcribe.hard_cuts import NO_SEAM, Seam, divided
from stages.transcribe.language import LanguageVote, language_code
from stages.transcribe.missed_speech import MAX_RESTS, joined, rest_of
from stages.transcribe.packed_times import Places
from stages.transcribe.partials import Dropped, LivePartials, PartialsState, Settled, opening_state
from stages.transcribe.scheduling.scheduler import Scheduler
from stages.transcribe.speakers.diarization import Speakers, is_shared

TranscribeInput = UtteranceRecord | InterimUtterance | Commitment
_NOTHING_SETTLED: Final = Settled()


Hotwords = Callable[[str], Sequence[str]]
"""From a tenant to the words that all of its calls are likely to hold."""


class CallState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a call's checkpoint holds. Inputs numbered below `released` are in it.

    `dropped` counts the utterances whose text each guard dropped, `failed` those that the engine could not decode,
    `aligned` those whose words were timed by alignment. `vote` and `hotwords` are for speech that begins at `since_s`
    or later, `earlier` what was in force before.
    `shared_from` is the position of the call's first record where its channel may hold several speakers. `seams` are
    by channel, where its last utterance ended at a hard cut.
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
    partials: PartialsState | UnsetType = UNSET
    shared_from: int | None = None
    hotwords: tuple[str, ...] = ()
    since_s: float = 0.0
    earlier: tuple[Hearing, ...] = ()
    seams: dict[int, Seam] = {}

    @property
    def hearings(self) -> list[Hearing]:
        """In order; the last is the newest."""
        return [*self.earlier, Hearing(self.since_s, self.vote, self.hotwords)]

    def heard(self, hearings: Sequence[Hearing]) -> "CallState":
        """The state with other `hearings`."""
        *earlier, newest = hearings
        return msgspec.structs.replace(
            self, vote=newest.vote, hotwords=newest.hotwords, since_s=newest.from_s, earlier=tuple(earlier)
        )


class _Submitted:
    """A `Hearing` after the last submitted input: its vote is perhaps not known yet."""

    def __init__(self, from_s: float, vote: LanguageVote | asyncio.Future[LanguageVote], hotwords: tuple[str, ...]):
        self.from_s = from_s
        self.vote = vote
        self.hotwords = hotwords


class TranscribeStage:
    """Makes the processors of one lane's calls; all lanes share one scheduler, which takes live work first."""

    name = "transcribe"
    topic = SEGMENTS

    def __init__(
        self,
        scheduler: Scheduler,
        *,
        live: bool = True,
        language: str | None = None,
        default_language: str = "en",
        hotwords: Hotwords = lambda _tenant: (),
        dropped: Dropped = lambda _reason: None,
        speakers: Speakers | None = None,
    ) -> None:
        """`language` is that of calls whose start names none; if it is None too, the call is decoded in
        `default_language` until its own is heard. `hotwords` gives a tenant's, which come behind those of the call.
        Interims of live calls become partials; `dropped` counts those that none was made of. Without `speakers` a
        channel is taken for a speaker.
        """
        self._scheduler = scheduler
        self._live = live
        self._language = language
        self._default_language = default_language
        self._hotwords = hotwords
        self._dropped = dropped
        self._speakers = speakers

    def open(self, call: CallRef, state: bytes | None) -> "TranscribeProcessor":
        restored = CallState() if state is None else msgspec.msgpack.decode(state, type=CallState)
        return TranscribeProcessor(
            call,
            restored,
            self._scheduler,
            live=self._live,
            language=self._language,
            default_language=self._default_language,
            hotwords=self._hotwords,
            dropped=self._dropped,
            speakers=self._speakers,
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
        hotwords: Hotwords,
        dropped: Dropped,
        speakers: Speakers | None,
    ) -> None:
        self._call = call
        self._state = state
        self._scheduler = scheduler
        self._live = live
        self._language = language
        self._default_language = default_language
        self._tenant_hotwords = hotwords
        self._dropped = dropped
        self._speakers = speakers
        self._hearings = [_Submitted(known.from_s, known.vote, known.hotwords) for known in state.hearings]
        self._partials: LivePartials | None = None
        if not isinstance(state.partials, UnsetType):
            self._partials = self._live_partials(state.partials)
        elif live and state.released:  # opened before calls that do not ask had this in their state
            self._partials = self._live_partials(PartialsState([], asked=False))
        self._next = state.released
        self._seams: dict[int, asyncio.Future[Seam] | Seam] = dict(state.seams)

    def submit(self, record: TranscribeInput, event: Event) -> AsyncIterator[Output]:
        """Queue an utterance at once, and iterate to its segment; other records are forwarded behind the segments.

        Records without a number, which only calls have whose partials are wanted, give partials. Raises RejectedInput
        for an utterance without a sample rate.
        """
        if isinstance(record, InterimUtterance | Commitment):
            if self._partials is None:
                return no_outputs()
            return (
                self._partials.hear(record) if isinstance(record, InterimUtterance) else self._partials.settle(record)
            )
        if record.seq < self._next:
            return no_outputs()
        if isinstance(record, Utterance) and record.sample_rate_hz <= 0:
            raise RejectedInput(f"the utterance {record.seq} has a sample rate of {record.sample_rate_hz} Hz")
        self._next = record.seq + 1
        if isinstance(record, Utterance):
            hearing = self._hearing_of(record)
            known, after = hearing.vote, asyncio.get_running_loop().create_future()
            hearing.vote = after
            settled = _NOTHING_SETTLED if self._partials is None else self._partials.close(record)
            seam = self._seams.pop(record.channel, NO_SEAM)
            seam_behind: asyncio.Future[Seam] = asyncio.get_running_loop().create_future()
            if record.behind:
                self._seams[record.channel] = seam_behind
            heard = self._transcribe(record, settled, hearing.hotwords, known, after, seam, seam_behind)
            work = asyncio.create_task(heard)
            return self._answer(record, event, work, settled, self._partials_state)
        if isinstance(record, CallOpened):
            self._hearings = [_Submitted(0.0, self._named_vote(record.language), self._named_hotwords(record.hotwords))]
            if self._live:
                self._partials = self._live_partials(opening_state(record.channels, asked=record.partials))
        elif isinstance(record, CallChanged):
            before, (vote, hotwords) = self._hearings[-1], self._changes(record)
            newest = _Submitted(record.from_s, vote or before.vote, before.hotwords if hotwords is None else hotwords)
            self._hearings = followed(self._hearings, newest)
            if self._partials is not None and isinstance(record.partials, bool):
                self._partials.ask(record.partials)
        elif isinstance(record, CallProgress):
            self._hearings = needed(self._hearings, record.heard_to_s)
        return self._forward(record, event, self._partials_state)

    def checkpoint(self) -> Checkpoint:
        return Checkpoint(state=msgspec.msgpack.encode(self._state), released=self._state.released)

    @property
    def idle_position(self) -> None:
        return None

    @property
    def finished(self) -> bool:
        return self._state.closed and self._state.released == self._next

    @property
    def _partials_state(self) -> PartialsState | UnsetType:
        """As of the last submitted input: what the checkpoint behind it has to hold."""
        return UNSET if self._partials is None else self._partials.state

    def _live_partials(self, state: PartialsState) -> LivePartials:
        return LivePartials(
            self._call,
            state,
            self._scheduler,
            language=self._interim_language,
            hotwords=lambda interim: self._hearing_of(interim).hotwords,
            dropped=self._dropped,
            seam=self._seam_before,
        )

    def _hearing_of(self, utterance: Utterance | InterimUtterance) -> _Submitted:
        return self._hearings[in_force(self._hearings, begin_s(utterance))]

    async def _seam_before(self, interim: InterimUtterance) -> Seam:
        return (await _known(self._seams.get(interim.channel, NO_SEAM))).before(interim)

    def _interim_language(self, interim: InterimUtterance) -> str | LanguageChoice:
        """The call's language as far as it is known; an interim has no vote in it."""
        vote = self._hearing_of(interim).vote
        if isinstance(vote, LanguageVote):
            known = vote
        else:
            known = vote.result() if vote.done() and not vote.cancelled() else LanguageVote()
        speech_s = voiced_s(interim)
        return known.locked or (lambda detected: known.heard(detected, speech_s).language(self._default_language))

    def _named_vote(self, language: str | None) -> LanguageVote:
        """Settled where the producer, or else the deployment, names a language that the model knows."""
        known = self._scheduler.engine.languages
        if len(known) == 1:
            return LanguageVote(min(known))
        return LanguageVote(language_code(language, known) or language_code(self._language, known))

    def _named_hotwords(self, named: list[str] | UnsetType) -> tuple[str, ...]:
        own = [] if isinstance(named, UnsetType) else named
        words = (word.strip() for word in (*own, *self._tenant_hotwords(self._call.tenant)))
        return tuple(dict.fromkeys(word for word in words if word))

    def _changes(self, changed: CallChanged) -> tuple[LanguageVote | None, tuple[str, ...] | None]:
        """The vote and the hotwords from then on; None for what stays."""
        language, hotwords = changed.language, changed.hotwords
        return (
            None if isinstance(language, UnsetType) else self._named_vote(language),
            None if isinstance(hotwords, UnsetType) else self._named_hotwords(hotwords),
        )

    async def _transcribe(
        self,
        utterance: Utterance,
        settled: Settled,
        hotwords: tuple[str, ...],
        before: LanguageVote | asyncio.Future[LanguageVote],
        after: asyncio.Future[LanguageVote],
        seam_before: Seam | asyncio.Future[Seam],
        seam_behind: asyncio.Future[Seam],
    ) -> tuple[Transcription | None, LanguageVote, Seam]:
        """The text (None where there is too little speech), the vote after it and the seam behind it; `after` and
        `seam_behind` get these when they are known.
        """
        vote = before if isinstance(before, LanguageVote) else await before
        behind = NO_SEAM
        speech_s = voiced_s(utterance)
        try:
            if guards.too_short(speech_s) and not settled.text:
                return None, vote, behind
            start = vote

            def choose(detected: Mapping[str, float]) -> str:
                nonlocal vote
                vote = start.heard(detected, speech_s)  # not from `vote`: a batch that failed is decoded again
                return settled.language or vote.language(self._default_language)

            language: str | LanguageChoice = choose
            if vote.locked is not None:
                after.set_result(vote)
                language = settled.language or vote.locked
            seam = (await _known(seam_before)).before(utterance)
            row = self._row(utterance, language, settled, hotwords, seam)
            heard = await self._whole(row)
            if utterance.parts:
                return heard, vote, behind
            own, behind = divided(utterance, seam, heard, committed=settled.text)
            return own, vote, behind
        finally:
            if not after.done():
                after.set_result(vote)
            if not seam_behind.done():
                seam_behind.set_result(behind)

    async def _whole(self, row: Row) -> Transcription:
        """The text of a row, the speech included that the decoder at first left out."""
        heard = await self._queued(row)
        for _ in range(MAX_RESTS):
            rest = rest_of(row, heard)
            more = None if rest is None else joined(heard, rest, await self._queued(rest))
            if more is None:
                break
            heard = more
        return heard

    def _queued(self, row: Row) -> asyncio.Future[Transcription]:
        return self._scheduler.submit(row, call=self._call, live=self._live)

    def _row(
        self,
        utterance: Utterance,
        language: str | LanguageChoice,
        settled: Settled,
        hotwords: tuple[str, ...],
        seam: Seam,
    ) -> Row:
        start_s = seam.heard_from_s(utterance)
        return Row(
            audio=audio_from(utterance, start_s),
            voiced=voiced_from(utterance, start_s),
            language=language,
            prefix=seam.prefix(settled.text, spaced=settled.language not in UNSPACED),
            hotwords=hotwords,
        )

    async def _answer(
        self,
        utterance: Utterance,
        event: Event,
        work: "asyncio.Task[tuple[Transcription | None, LanguageVote, Seam]]",
        settled: Settled,
        partials: PartialsState | UnsetType,
    ) -> AsyncIterator[Output]:
        try:
            transcription, vote, seam = await work
        finally:
            work.cancel()
        segment = self._segment(utterance, transcription, vote, settled)
        dropped = dict(self._state.dropped)
        if segment.guard is not None and segment.guard != "error":
            dropped[segment.guard] = dropped.get(segment.guard, 0) + 1
        hearings = self._state.hearings
        index = in_force(hearings, begin_s(utterance))
        hearings[index] = msgspec.structs.replace(hearings[index], vote=vote)
        state = msgspec.structs.replace(
            self._state.heard(hearings),
            released=utterance.seq + 1,
            utterances=self._state.utterances + 1,
            worded=self._state.worded + bool(segment.words),
            aligned=self._state.aligned + (bool(segment.words) and segment.word_source == "alignment"),
            failed=self._state.failed + (segment.guard == "error"),
            dropped=dropped,
            audio_s=round(self._state.audio_s + utterance.audio_s, 3),
            closed=False,
            partials=partials,
            seams=_with(self._state.seams, utterance.channel, seam),
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
        asked = isinstance(partials, PartialsState) and partials.asked
        if self._partials is not None and (asked or settled.first_sample == utterance.first_sample):
            async for partial in self._partials.last(utterance, segment):
                yield partial
        yield self._numbered(segment)
        self._state = state

    async def _forward(
        self, record: SegmentRecord, event: Event, partials: PartialsState | UnsetType
    ) -> AsyncIterator[Output]:
        state = msgspec.structs.replace(
            self._state, released=record.seq + 1, closed=isinstance(record, CallClosed), partials=partials
        )
        if isinstance(record, CallOpened):
            shared_from = event.origin.position if is_shared(record.channels) else None
            state = msgspec.structs.replace(
                state,
                vote=self._named_vote(record.language),
                shared_from=shared_from,
                hotwords=self._named_hotwords(record.hotwords),
            )
            detail: dict[str, Any] = {
                "model": self._scheduler.engine.model_name,
                "language": state.vote.locked,
                "requested_language": record.language,
            }
            if state.hotwords:
                detail["hotwords"] = list(state.hotwords)
            yield self._ledger("started", detail, event, "started")
        elif isinstance(record, CallProgress):
            state = state.heard(needed(state.hearings, record.heard_to_s))
        elif isinstance(record, CallChanged):
            vote, hotwords = self._changes(record)
            newest = Hearing(record.from_s, vote or state.vote, state.hotwords if hotwords is None else hotwords)
            state = state.heard(followed(state.hearings, newest))
            detail = {
                "from_s": record.from_s,
                "language": state.vote.locked,
                "hotwords": list(state.hotwords),
                "partials": isinstance(partials, PartialsState) and partials.asked,
            }
            yield self._ledger("updated", detail, event, f"updated/{record.seq}")
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
            if self._speakers is not None and state.shared_from is not None:
                opened = msgspec.structs.replace(event.origin, position=state.shared_from)
                record, detail["speakers"] = await self._speakers.found(record, opened)
            yield self._ledger("completed", detail, event, f"completed/{record.revision}")
        yield self._numbered(record)
        self._state = state

    def _segment(
        self, utterance: Utterance, transcription: Transcription | None, vote: LanguageVote, settled: Settled
    ) -> Segment:
        done = transcription or Transcription.failed(vote.language(self._default_language), "")
        if not done.text.startswith(settled.text):
            done = _from_settled(utterance, settled, done)
        verdict = guards.Verdict("short", [])
        if transcription is not None:
            verdict = guards.judge(done, voiced_s=voiced_s(utterance), shown=bool(settled.text))
        places = Places(utterance)
        words = places.timed(done.words) if verdict.guard is None else []
        probability = sum(word.probability for word in words) / len(words) if words else 0.0
        return Segment(
            call=self._call,
            seq=utterance.seq,
            segment_id=str(self._call.derived_id("segment", utterance.channel, utterance.first_sample)),
            channel=utterance.channel,
            start_s=utterance.start_s,
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
            parts=places.in_call if utterance.parts else UNSET,
        )

    def _numbered(self, record: SegmentRecord) -> Output:
        return Output(topic=SEGMENTS, record=record, event_id=self._event_id(str(record.seq)), seq=record.seq)

    def _ledger(self, status: JobState, detail: dict[str, Any], event: Event, name: str) -> Output:
        at, event_id = event.timestamp_s, self._event_id(name)
        return ledger_entry(self._call, "transcribe", status, detail, at=at, event_id=event_id)

    def _event_id(self, name: str) -> str:
        return self._call.event_id("transcribe", name)


def _from_settled(utterance: Utterance, settled: Settled, done: Transcription) -> Transcription:
    """What was committed, where the engine failed: words without measured times and probabilities."""
    spaced = settled.language not in UNSPACED
    texts = [f" {text}" for text in settled.text.split()] if spaced else list(settled.text)
    measured = [MeasuredWord(text=text, start_s=0.0, end_s=0.0, probability=0.0) for text in texts]
    words = timed_words(measured, voiced(utterance), utterance.audio_s, spaced=spaced)
    words = [msgspec.structs.replace(word, interpolated=True) for word in words]
    return msgspec.structs.replace(done, text=settled.text, words=words, language=settled.language)


async def _known(seam: Seam | asyncio.Future[Seam]) -> Seam:
    """Who waits may be cancelled; the seam is not."""
    return seam if isinstance(seam, Seam) else await asyncio.shield(seam)


def _with(seams: dict[int, Seam], channel: int, seam: Seam) -> dict[int, Seam]:
    others = {other: kept for other, kept in seams.items() if other != channel}
    return others if seam == NO_SEAM else {**others, channel: seam}
