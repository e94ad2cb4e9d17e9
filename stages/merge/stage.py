"""The merge stage: one call's segments in, its turns and completed transcript out, numbered 0, 1, 2, ….

Pure: the outputs depend on the inputs and their order alone.

Until a call is complete its checkpoint is empty and releases nothing. Its inputs are small: all are replayed after a
crash, and the runner drops the outputs that are on the bus already. The checkpoint of a completed call releases
everything. If the call is reopened, it remains the checkpoint until the next completion. After a provisional end (the
idle limit) it holds all that a later revision needs, after a final end only what identifies repeats.
"""

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Final

import msgspec
from msgspec import UNSET

from schemas.calls import CallRef
from schemas.segments import Segment, SegmentRecord
from schemas.status import JobState
from schemas.topics import TRANSCRIPTS
from schemas.transcripts import COMPLETED_TYPE, TURN_TYPE, ChannelUnheard, TranscriptCompleted, Turn
from schemas.utterances import CallChanged, CallClosed, CallOpened, CallProgress, Channel, Gap, is_time
from stages.errors import RejectedInput
from stages.ledger import ledger_entry
from stages.merge.attribution import Attributed, Attribution
from stages.merge.metrics import call_metrics
from stages.merge.ordering import Ordering, Piece
from stages.merge.parts import SegmentPart, parts_of
from stages.merge.records import split
from stages.merge.speakers import turns_by_speaker, turns_of_one_channel
from stages.merge.state import MergeState, pack, rounded, unpack
from stages.merge.turns import TurnBuilder
from stages.protocol import CallProcessor, Checkpoint, Event, Output

NAME: Final = "merge"

MAX_NAME_CHARACTERS: Final = 200
"""Longest value that a transcript takes over from the producer's metadata."""

MIXED: Final = "mixed"
"""The role of every channel of a call whose channels all carry the same audio."""

UNDETERMINED: Final = "und"
"""ISO 639-2 code of an undetermined language."""


class MergeStage:
    """Opens the processors of calls."""

    name = NAME
    topic = TRANSCRIPTS

    def open(self, call: CallRef, state: bytes | None) -> CallProcessor[SegmentRecord]:
        """Raises msgspec.DecodeError or zlib.error for a state that this stage did not write."""
        return MergeProcessor(call, state)


class MergeProcessor:
    """Merges one call."""

    def __init__(self, call: CallRef, state: bytes | None) -> None:
        self._call = call
        self._state, self._gaps = unpack(state) if state else (MergeState(), [])
        self._checkpoint = Checkpoint(state=state or b"", released=self._state.last_input_seq + 1)
        self._attribution = Attribution(0)
        self._ordering = Ordering(0)
        self._builder = TurnBuilder(call, [])
        if self._state.opened is not None:
            self._prepare(self._state.opened)

    @property
    def idle_position(self) -> None:
        return None

    @property
    def waiting(self) -> None:
        return None

    @property
    def finished(self) -> bool:
        return self._state.complete

    def checkpoint(self) -> Checkpoint:
        """Return the state at the last completion. Inputs since then are replayed on top of it."""
        return self._checkpoint

    async def submit(self, record: SegmentRecord, event: Event) -> AsyncIterator[Output]:
        """Raise RejectedInput for records before the call was opened or after its final end, or that do not fit it."""
        if event.seq <= self._state.last_input_seq:
            return
        self._check(record)
        self._state.last_input_seq = event.seq
        for output in self._outputs(record, event):
            yield output

    async def give_up(self, record: SegmentRecord, event: Event, *, reason: str) -> AsyncIterator[Output]:
        """Take a segment as one without words, with a gap; complete a call that cannot be merged as failed.

        Raises RejectedInput for records without which nothing said is missing.
        """
        if event.seq <= self._state.last_input_seq or isinstance(record, CallProgress | CallChanged):
            raise RejectedInput(reason)
        self._check(record)
        self._state.last_input_seq = event.seq
        if isinstance(record, Segment):
            outputs = self._silenced(record, event, reason)
        else:
            outputs = self._fail(record, event, reason)
        for output in outputs:
            yield output

    def _silenced(self, segment: Segment, event: Event, reason: str) -> Iterator[Output]:
        gap = Gap(start_s=segment.start_s, end_s=segment.end_s, events=0)
        self._gaps.append(gap)
        yield self._job("gap", {**msgspec.structs.asdict(gap), "reason": reason}, event)
        yield from self._outputs(msgspec.structs.replace(segment, text="", words=[], guard="error"), event)

    def _fail(self, record: CallOpened | CallClosed, event: Event, reason: str) -> Iterator[Output]:
        """Complete the call with its settled turns, a gap in place of the rest, and metrics without speech."""
        state = self._state
        if isinstance(record, CallOpened):
            state.opened = record
            closed = CallClosed(
                call=self._call,
                seq=record.seq,
                revision=state.revision,
                duration_s=0.0,
                speech_s=0.0,
                utterances=0,
                gaps=[],
                reason=reason,
                provisional=False,
            )
        else:
            closed = msgspec.structs.replace(record, speakers=[], speaker_source="channel", one_channel=None)
        assert state.opened is not None
        unsettled_s = [self._ordering.next_start_s(channel) for channel in range(len(state.watermarks_s))]
        unsettled_from_s = min([*unsettled_s, *self._builder.starts_s], default=0.0)
        if unsettled_from_s < closed.duration_s:
            self._gaps.append(Gap(start_s=unsettled_from_s, end_s=closed.duration_s, events=0))
        state.lengths += self._builder.take_lengths()
        state.watermarks_s = self._ordering.watermarks_s
        self._prepare(state.opened)
        state.voiced = [[] for _ in state.opened.channels]
        yield from self._complete(closed, event, failed=reason)

    def _outputs(self, record: SegmentRecord, event: Event) -> Iterator[Output]:
        state = self._state
        if isinstance(record, CallOpened):
            state.opened = record
            state.watermarks_s = [0.0] * len(record.channels)
            state.voiced = [[] for _ in record.channels]
            self._prepare(record)
            yield self._job("started", {"channels": len(record.channels)}, event)
            return
        if isinstance(record, CallClosed):
            yield from self._complete(record, event)
            return
        state.complete = False
        if isinstance(record, Segment):
            self._add(record)
        elif isinstance(record, CallChanged):
            if state.opened is not None and record.language is not UNSET:
                # No language of the producer holds for the whole call: that of most words does.
                state.opened = msgspec.structs.replace(state.opened, language=None)
            return
        else:
            for channel, heard_to_s in enumerate(record.heard_to_s):
                self._attribution.advance(channel, heard_to_s)
        self._order(self._attribution.take())
        yield from map(self._turn_output, self._turns(self._ordering.take()))

    def _prepare(self, opened: CallOpened) -> None:
        self._attribution = Attribution(len(opened.channels), self._state.watermarks_s)
        self._ordering = Ordering(len(opened.channels), self._state.watermarks_s)
        self._builder = TurnBuilder(self._call, [channel.role for channel in opened.channels], opened.lane or "live")

    def _check(self, record: SegmentRecord) -> None:
        opened = self._state.opened
        if isinstance(record, CallOpened):
            if opened is not None:
                raise RejectedInput("the call is opened a second time")
            if not record.channels:
                raise RejectedInput("the call has no channels")
            return
        if opened is None:
            raise RejectedInput("the call was not opened")
        if self._state.final:
            raise RejectedInput("the call is over")
        n_channels = len(opened.channels)
        if isinstance(record, CallProgress) and len(record.heard_to_s) != n_channels:
            raise RejectedInput(f"progress of {len(record.heard_to_s)} channels in a call of {n_channels}")
        if isinstance(record, Segment) and not 0 <= record.channel < n_channels:
            raise RejectedInput(f"a segment of channel {record.channel} in a call of {n_channels} channels")
        if not all(map(is_time, _times_s(record))):
            raise RejectedInput("a time cannot be one in a call")

    def _add(self, segment: Segment) -> None:
        state = self._state
        state.segments += 1
        state.unheard += [
            ChannelUnheard(channel=segment.channel, **msgspec.structs.asdict(one)) for one in segment.unheard or []
        ]
        if segment.guard is not None or not segment.text.strip():
            state.empty += 1
            if segment.guard is not None:
                state.guards[segment.guard] = state.guards.get(segment.guard, 0) + 1
            self._attribution.advance(segment.channel, segment.start_s)
            return
        parts = [
            SegmentPart(msgspec.structs.replace(part, words=[rounded(word) for word in part.words]), first_word)
            for part, first_word in parts_of(segment)
        ]
        self._attribution.add(segment, parts)

    def _order(self, attributed: list[Attributed]) -> None:
        """Put the words that stay into order, and count all."""
        state = self._state
        for one in attributed:
            segment = one.segment
            n_words = one.n_words - one.n_dropped
            state.echoes += one.n_dropped
            state.echo_segments += bool(one.n_dropped)
            state.words += n_words
            state.voiced[segment.channel].extend(one.voiced())
            if n_words:
                state.languages[segment.language] = state.languages.get(segment.language, 0) + n_words
            for part, first_word in one.kept():
                self._ordering.add(part, first_word)
        for channel in range(len(state.watermarks_s)):
            self._ordering.advance(channel, self._attribution.watermark_s(channel))

    def _turns(self, pieces: list[Piece]) -> Iterator[Turn]:
        """Yield the turns that `pieces` and the progress of the channels close."""
        revision, builder = self._state.revision, self._builder
        for piece in pieces:
            yield from builder.add(piece, revision=revision)
        while builder.channel is not None:
            settled = builder.settle(self._ordering.next_start_s(builder.channel), revision=revision)
            if not settled:
                return
            yield from settled

    def _turn_output(self, turn: Turn) -> Output:
        self._state.turns.append(turn)
        return self._numbered(turn, TURN_TYPE)

    def _numbered(self, record: Turn | TranscriptCompleted, event_type: str) -> Output:
        seq = self._state.next_output_seq
        self._state.next_output_seq += 1
        event_id = self._call.event_id(NAME, seq)
        return Output(topic=TRANSCRIPTS, record=record, event_id=event_id, event_type=event_type, seq=seq)

    def _complete(self, closed: CallClosed, event: Event, *, failed: str | None = None) -> Iterator[Output]:
        """Yield the call's last turns and its transcript. `failed`: why the call is not merged as a whole."""
        state, opened = self._state, self._state.opened
        assert opened is not None
        self._order(self._attribution.drain())
        last = [*self._turns(self._ordering.drain()), *self._builder.close(revision=state.revision)]
        detail = {
            "revision": closed.revision,
            "provisional": closed.provisional,
            "turns": len(state.turns) + len(last),
            "words": state.words,
            "segments": state.segments,
            "utterances": closed.utterances,
            "empty": state.empty,
            "guards": dict(state.guards),
        }
        if state.echoes:
            detail["echoes"] = {"words": state.echoes, "segments": state.echo_segments}
        turns = [*state.turns, *last]
        state.lengths += self._builder.take_lengths()
        if closed.speaker_source != "channel":
            detail["speaker_source"] = closed.speaker_source
        if closed.speakers and len(opened.channels) == 1:
            turns = turns_by_speaker(self._call, turns, state.lengths, closed.speakers, closed.speaker_source)
            detail |= {"turns": len(turns), "speakers": sorted({turn.speaker for turn in turns})}
            published = turns
        elif closed.one_channel is not None and len(opened.channels) > 1:
            turns = turns_of_one_channel(self._call, turns, state.lengths, closed)
            speakers = sorted({turn.speaker for turn in turns})
            detail |= {"turns": len(turns), "one_channel": closed.one_channel, "speakers": speakers}
            published = turns
        else:
            published = last
        if failed is None:
            yield self._job("completed", detail, event)
        else:
            yield self._job("failed", {**detail, "reason": failed}, event)
        state.turns += last
        for turn in published:
            yield self._numbered(turn, TURN_TYPE)
        state.watermarks_s = self._ordering.watermarks_s
        state.revision = closed.revision + 1
        transcript = self._transcript(closed, opened, turns)
        state.complete, state.final = True, not closed.provisional
        if state.final:
            state.turns, state.lengths, state.voiced = [], [], [[] for _ in opened.channels]
            state.unheard = []
        for record in split(transcript):
            yield self._numbered(record, COMPLETED_TYPE)
        self._checkpoint = Checkpoint(state=pack(state, self._gaps), released=state.last_input_seq + 1)

    def _transcript(self, closed: CallClosed, opened: CallOpened, spoken: list[Turn]) -> TranscriptCompleted:
        state = self._state
        turns = sorted(spoken, key=lambda turn: turn.start_s)
        n_turns = Counter(turn.channel for turn in turns)
        n_words: Counter[int] = Counter()
        for turn in turns:
            n_words[turn.channel] += len(turn.words) or len(turn.text.split())
        indexes = range(len(opened.channels))
        one_channel = closed.one_channel if len(opened.channels) > 1 else None
        channels = opened.channels
        if one_channel is not None:
            channels = [Channel(index, MIXED) for index in indexes]
        return TranscriptCompleted(
            tenant=self._call.tenant,
            call_id=self._call.call_id,
            revision=closed.revision,
            part=1,
            parts=1,
            duration_s=closed.duration_s,
            channels=channels,
            turns=turns,
            metrics=call_metrics(
                duration_s=closed.duration_s,
                channels=channels,
                voiced=state.voiced,
                turns=[n_turns[index] for index in indexes],
                words=[n_words[index] for index in indexes],
            ),
            gaps=sorted([*closed.gaps, *self._gaps], key=lambda gap: gap.start_s) if self._gaps else closed.gaps,
            language=opened.language or max(state.languages, key=state.languages.__getitem__, default=UNDETERMINED),
            utterances=closed.utterances,
            provisional=closed.provisional,
            speaker_source=closed.speaker_source,
            lane=opened.lane or "live",
            call_type=_metadata_text(opened, "call_type"),
            agent=_metadata_text(opened, "agent"),
            unheard=sorted(state.unheard, key=lambda one: (one.start_s, one.channel)),
            one_channel=one_channel,
        )

    def _job(self, status: JobState, detail: dict[str, object], event: Event) -> Output:
        event_id = self._call.event_id(NAME, status, event.seq)
        return ledger_entry(self._call, NAME, status, detail, at=event.timestamp_s, event_id=event_id)


def _metadata_text(opened: CallOpened, name: str) -> str:
    """Return a text of the producer's metadata; empty if there is none under that name."""
    text = opened.metadata.get(name)
    return text[:MAX_NAME_CHARACTERS] if isinstance(text, str) else ""


def _times_s(record: Segment | CallProgress | CallChanged | CallClosed) -> list[float]:
    if isinstance(record, CallProgress):
        return record.heard_to_s
    if isinstance(record, CallChanged):
        return [record.from_s]
    if isinstance(record, CallClosed):
        return [record.duration_s]
    apart = [word for one in record.apart or [] for word in one.words]
    words = [time_s for word in (*record.words, *apart) for time_s in (word.start_s, word.end_s)]
    spans = [*record.voiced, *(record.parts or []), *((one.start_s, one.end_s) for one in record.unheard or [])]
    return [record.start_s, record.end_s, *words, *(time_s for span in spans for time_s in span)]
