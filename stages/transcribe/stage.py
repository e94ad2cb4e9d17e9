"""The transcribe stage: every utterance of a call becomes one segment with the utterance's number.

Utterances are queued as they arrive and answered in order, so several of a call can be in the engine at once. Only
while the call's language is not known does each wait for the vote of the one before. A producer may change the language
and the hotwords during a call: see `decoding_context`.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from itertools import chain
from typing import Any

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
    is_time,
)
from stages.crosstalk import SameMix, counted, one_channel
from stages.errors import RejectedInput
from stages.ledger import ledger_entry
from stages.protocol import Checkpoint, Event, Output, no_outputs
from stages.transcribe.agreement import NOTHING_COMMITTED
from stages.transcribe.decoding_context import CallContext, DecodingSettings, PendingContext
from stages.transcribe.hard_cuts import Overlap
from stages.transcribe.language import LanguageVote
from stages.transcribe.partials import InterimDropped, LivePartials, PartialsState, opening_state
from stages.transcribe.scheduling.call_decoder import CallDecoder
from stages.transcribe.scheduling.scheduler import Scheduler
from stages.transcribe.speakers.diarization import Speakers, is_shared
from stages.transcribe.undecided import UndecidedAudio
from stages.transcribe.unheard import SpeechAccount, account
from stages.transcribe.utterance import UtteranceWork

TranscribeInput = UtteranceRecord | InterimUtterance | Commitment

TenantHotwords = Callable[[str], Sequence[str]]
"""From a tenant to the words that all of its calls are likely to hold."""


class PendingState(msgspec.Struct, frozen=True, kw_only=True):
    """The state that an input leaves when it is submitted, without the counters. All of it is known when the input is
    answered.
    """

    released: int
    context: PendingContext
    partials: PartialsState | UnsetType

    @property
    def asked(self) -> bool:
        """True if the producer wants partials."""
        return isinstance(self.partials, PartialsState) and self.partials.asked


class TranscribeState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A call's checkpoint. Inputs numbered below `released` are part of it.

    - `utterances`, `worded`, `aligned`, `failed`, `audio_s`: how many utterances were answered, have words, have words
      timed by alignment, could not be decoded; and the seconds of audio in all of them.
    - `dropped`: the utterances whose text a guard dropped, by guard.
    - `languages`: the seconds of audio whose text is in each language.
    - `vote`, `hotwords`: for speech that begins at `since_s` or later. `earlier`: the settings before.
    - `shared_from`: the position of the call's first record, if a channel may hold several speakers.
    - `mixes`: what each channel but the first has in common with the first.
    - `overlaps`: by channel, if its last utterance ended at a hard cut.
    - `channels`: their number; 0 in a state from before it was kept. `speech`: see `stages.transcribe.unheard`.
    """

    released: int = 0
    vote: LanguageVote = LanguageVote()
    utterances: int = 0
    worded: int = 0
    aligned: int = 0
    failed: int = 0
    dropped: dict[str, int] = {}
    audio_s: float = 0.0
    languages: dict[str, float] = {}
    closed: bool = False
    partials: PartialsState | UnsetType = UNSET
    shared_from: int | None = None
    hotwords: tuple[str, ...] = ()
    since_s: float = 0.0
    earlier: tuple[DecodingSettings, ...] = ()
    overlaps: dict[int, Overlap] = msgspec.field(name="seams", default_factory=dict)
    channels: int = 0
    speech: SpeechAccount = SpeechAccount()
    mixes: tuple[SameMix, ...] = ()

    @property
    def settings(self) -> list[DecodingSettings]:
        """All decoding settings, in order."""
        return [*self.earlier, DecodingSettings(self.since_s, self.vote, self.hotwords)]

    def after(self, pending: PendingState, *, closed: bool = False) -> "TranscribeState":
        """Return the state after an answered input."""
        *earlier, newest = pending.context.settings()
        return msgspec.structs.replace(
            self,
            released=pending.released,
            closed=closed,
            partials=pending.partials,
            vote=newest.vote,
            hotwords=newest.hotwords,
            since_s=newest.from_s,
            earlier=tuple(earlier),
            overlaps=pending.context.overlaps(),
        )

    def counting(self, segment: Segment, audio_s: float) -> "TranscribeState":
        """Return the state with one more segment in its counters. `audio_s`: the duration of its utterance's audio."""
        dropped = dict(self.dropped)
        if segment.guard is not None and segment.guard != "error":
            dropped[segment.guard] = dropped.get(segment.guard, 0) + 1
        languages = dict(self.languages)
        if segment.words:
            languages[segment.language] = round(languages.get(segment.language, 0.0) + audio_s, 3)
        return msgspec.structs.replace(
            self,
            languages=languages,
            utterances=self.utterances + 1,
            worded=self.worded + bool(segment.words),
            aligned=self.aligned + (bool(segment.words) and segment.word_source == "alignment"),
            failed=self.failed + (segment.guard == "error"),
            dropped=dropped,
            audio_s=round(self.audio_s + audio_s, 3),
            speech=self.speech + account(segment),
            mixes=counted(self.mixes, segment),
        )


class TranscribeStage:
    """Makes the processors of one lane's calls. All lanes share one scheduler, which takes live work first."""

    name = "transcribe"
    topic = SEGMENTS

    def __init__(
        self,
        scheduler: Scheduler,
        *,
        live: bool = True,
        partials: bool = True,
        language: str | None = None,
        default_language: str = "en",
        hotwords: TenantHotwords = lambda _tenant: (),
        dropped: InterimDropped = lambda _reason: None,
        speakers: Speakers | None = None,
    ) -> None:
        """Args:
        live: the calls go before those of other lanes.
        partials: interims of live calls become partials.
        language: for calls whose start names none. If it is None too, the language is detected.
        default_language: for audio that is decoded before the call's language is known.
        hotwords: those of a tenant, which come after those of the call.
        dropped: called for each interim that no partial is made of.
        speakers: tells the speakers of a shared channel apart. Without it each channel counts as one speaker.
        """
        self.scheduler = scheduler
        self.live = live
        self.partials = live and partials
        self.language = language
        self.default_language = default_language
        self.hotwords = hotwords
        self.dropped = dropped
        self.speakers = speakers
        self.undecided = None if live else UndecidedAudio()

    def open(self, call: CallRef, state: bytes | None) -> "TranscribeProcessor":
        restored = TranscribeState() if state is None else msgspec.msgpack.decode(state, type=TranscribeState)
        return TranscribeProcessor(call, restored, self)


class TranscribeProcessor:
    """One call. Numbered outputs repeat their input's number, so the runner can tell what is already published.

    Inputs change `_context` and `_partials` when they are submitted, and `_state` when they are answered.
    """

    def __init__(self, call: CallRef, state: TranscribeState, stage: TranscribeStage) -> None:
        self._call = call
        self._state = state
        self._stage = stage
        self._next = state.released
        self._decoder = CallDecoder(
            call=call, scheduler=stage.scheduler, live=stage.live, default_language=stage.default_language
        )
        self._context = CallContext(
            state.settings,
            state.overlaps,
            languages=stage.scheduler.engine.languages,
            language=stage.language,
            hotwords=stage.hotwords(call.tenant),
        )
        self._partials: LivePartials | None = None
        if stage.partials and not isinstance(state.partials, UnsetType):
            self._partials = self._live_partials(state.partials)
        elif stage.partials and state.released:  # a state from before live calls that want no partials had this field
            self._partials = self._live_partials(PartialsState([], asked=False))

    def submit(self, record: TranscribeInput, event: Event) -> AsyncIterator[Output]:
        """Queue an utterance at once, and iterate to its segment. Other records are forwarded after the segments.

        Records without a number give partials; only calls whose partials are wanted have them. Raises RejectedInput
        for an utterance without a sample rate, or with times that cannot be.
        """
        if isinstance(record, InterimUtterance | Commitment):
            if isinstance(record, InterimUtterance):
                _check(record)
            return no_outputs() if self._partials is None else self._partials.submit(record)
        if record.seq < self._next:
            return no_outputs()
        if isinstance(record, Utterance):
            return self._submit_utterance(record, event)
        self._next = record.seq + 1
        if isinstance(record, CallOpened):
            self._context.open(record)
            if self._stage.partials:
                self._partials = self._live_partials(opening_state(record.channels, asked=record.partials))
        elif isinstance(record, CallChanged):
            self._context.change(record)
            if self._partials is not None and isinstance(record.partials, bool):
                self._partials.set_asked(record.partials)
        elif isinstance(record, CallProgress):
            self._context.forget(record)
        else:
            self._context.end()
        return self._forward(record, event, self._pending_state(), speakers=self._stage.speakers)

    def give_up(self, record: TranscribeInput, event: Event, *, reason: str) -> AsyncIterator[Output]:
        """Give an utterance an empty segment, and a call's end no speakers. Raises RejectedInput for the rest."""
        if isinstance(record, Utterance) and record.seq >= self._next:
            return self._submit_utterance(record, event, given_up=reason)
        if isinstance(record, CallClosed) and record.seq >= self._next:
            self._next = record.seq + 1
            self._context.end()
            return self._forward(record, event, self._pending_state(), speakers=None)
        raise RejectedInput(reason)

    def checkpoint(self) -> Checkpoint:
        return Checkpoint(state=msgspec.msgpack.encode(self._state), released=self._state.released)

    @property
    def idle_position(self) -> None:
        return None

    @property
    def waiting(self) -> None:
        return None

    @property
    def finished(self) -> bool:
        return self._state.closed and self._state.released == self._next

    def _live_partials(self, state: PartialsState) -> LivePartials:
        return LivePartials(self._decoder, self._context, state, dropped=self._stage.dropped)

    def _pending_state(self) -> PendingState:
        """Return the state as of the last submitted input."""
        return PendingState(
            released=self._next,
            context=self._context.snapshot(),
            partials=UNSET if self._partials is None else self._partials.state,
        )

    def _submit_utterance(
        self, utterance: Utterance, event: Event, *, given_up: str | None = None
    ) -> AsyncIterator[Output]:
        _check(utterance)
        self._next = utterance.seq + 1
        committed = NOTHING_COMMITTED if self._partials is None else self._partials.close(utterance)
        context = self._context.take(utterance)
        work = UtteranceWork(
            utterance, committed, self._decoder, context, given_up=given_up, undecided=self._stage.undecided
        )
        return self._answer(work, event, self._pending_state())

    async def _answer(self, work: UtteranceWork, event: Event, pending: PendingState) -> AsyncIterator[Output]:
        segment = await work.segment()
        state = self._state.counting(segment, work.utterance.audio_s).after(pending)
        if work.error is not None:
            detail = {
                "segment_id": segment.segment_id,
                "channel": segment.channel,
                "start_s": segment.start_s,
                "end_s": segment.end_s,
                "error": work.error,
            }
            yield self._ledger("failed", detail, event, f"failed/{segment.seq}")
        # An interim arrived, so somebody may be watching.
        shown = work.committed.first_sample == work.utterance.first_sample
        if self._partials is not None and (shown or pending.asked):
            async for partial in self._partials.last(work.utterance, segment):
                yield partial
        yield self._numbered(segment)
        self._state = state

    async def _forward(
        self, record: SegmentRecord, event: Event, pending: PendingState, *, speakers: Speakers | None
    ) -> AsyncIterator[Output]:
        state = self._state.after(pending, closed=isinstance(record, CallClosed))
        if isinstance(record, CallOpened):
            n_others = len(record.channels) - 1
            shared_from = event.origin.position if n_others > 0 or is_shared(record.channels) else None
            state = msgspec.structs.replace(
                state, shared_from=shared_from, channels=n_others + 1, mixes=(SameMix(),) * n_others
            )
            detail: dict[str, Any] = {
                "model": self._decoder.model_name,
                "language": state.vote.locked,
                "requested_language": record.language,
            }
            if state.hotwords:
                detail["hotwords"] = list(state.hotwords)
            yield self._ledger("started", detail, event, "started")
        elif isinstance(record, CallChanged):
            detail = {
                "from_s": record.from_s,
                "language": state.vote.locked,
                "hotwords": list(state.hotwords),
                "partials": pending.asked,
            }
            yield self._ledger("updated", detail, event, f"updated/{record.seq}")
        elif isinstance(record, CallClosed):
            detail = {
                "model": self._decoder.model_name,
                "language": state.vote.language(self._decoder.default_language),
                "languages": state.languages,
                "utterances": state.utterances,
                "with_words": state.worded,
                "aligned": state.aligned,
                "failed": state.failed,
                "dropped": state.dropped,
                "audio_s": state.audio_s,
            }
            if state.vote.share is not UNSET:
                detail["language_share"] = state.vote.share
            if state.channels:
                detail["seconds"] = state.speech.described(received_ms=round(record.duration_s * 1000) * state.channels)
            if state.mixes:
                record = msgspec.structs.replace(record, one_channel=one_channel(state.mixes))
            shared = record.one_channel if state.mixes else 0
            if speakers is not None and state.shared_from is not None and shared is not None:
                opened = msgspec.structs.replace(event.origin, position=state.shared_from)
                record, detail["speakers"] = await speakers.add_to(record, opened, shared)
            yield self._ledger("completed", detail, event, f"completed/{record.revision}")
        yield self._numbered(record)
        self._state = state

    def _numbered(self, record: SegmentRecord) -> Output:
        event_id = self._call.event_id("transcribe", record.seq)
        return Output(topic=SEGMENTS, record=record, event_id=event_id, seq=record.seq)

    def _ledger(self, status: JobState, detail: dict[str, Any], event: Event, name: str) -> Output:
        at, event_id = event.timestamp_s, self._call.event_id("transcribe", name)
        return ledger_entry(self._call, "transcribe", status, detail, at=at, event_id=event_id)


def _check(utterance: Utterance | InterimUtterance) -> None:
    if utterance.sample_rate_hz <= 0:
        raise RejectedInput(f"an utterance has a sample rate of {utterance.sample_rate_hz} Hz")
    if not all(map(is_time, (utterance.start_s, utterance.end_s, *chain.from_iterable(utterance.voiced)))):
        raise RejectedInput("a time of an utterance cannot be one in a call")
