"""The separate stage: audio events of a call in, utterances of each channel out.

The path of an event: `CallSeparator.submit` puts it in order (`event_order`), decodes its bytes (`codecs`), gives each
channel its samples (`channels`: voice activity, endpointing) and publishes the utterances that they cut.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Generator, Iterator
from tempfile import SpooledTemporaryFile
from typing import BinaryIO, Final, cast

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

from schemas import topics
from schemas.audio import (
    AudioChunk,
    AudioEvent,
    AudioRecord,
    CallEnded,
    CallIdle,
    CallOverdue,
    CallStarted,
    CallUpdated,
    CallWatched,
    UnusableUpdate,
)
from schemas.calls import CallRef
from schemas.event_numbers import EPOCH_EVENTS, callseq_of, epoch_of
from schemas.topics import Lane
from schemas.utterances import (
    Gap,
)
from stages.errors import RejectedInput
from stages.protocol import Checkpoint, Event, Output, Waiting, no_outputs
from stages.separate import ledger
from stages.separate.admission import Admission, Taken
from stages.separate.channels import CallChannels, ChannelResume
from stages.separate.codecs import Samples, decode_frames, frame_bytes
from stages.separate.crosstalk import CrosstalkMeter, CrosstalkState
from stages.separate.decoder import AudioFileError, DecodedAudio, Decoder
from stages.separate.endpointing import EndpointingSettings
from stages.separate.event_order import LATE_S, EventOrder, Held, Missing
from stages.separate.files import LocalDecoder
from stages.separate.interims import interim
from stages.separate.packs import Speech
from stages.separate.proofs import Proofs, proof_of
from stages.separate.records import CallRecords
from stages.separate.speech import VoiceActivityModel
from stages.separate.state import SeparateState

PROGRESS_S: Final = 2.0
MAX_GAPS: Final = 500
"""Gaps that a call reports one by one. Further gaps are merged into the last."""

MAX_SILENCE_S: Final = 86_400
"""Silence that takes the place of missing events, at most. The gap says how many they were."""

LIGHT_BLOCKS: Final = 2
"""Up to this many runs of the voice activity model, 0.15 ms each, cost less than handing the work to a thread."""


def _spool() -> BinaryIO:
    """Open a temporary file for the bytes of a `container` call."""
    return cast(BinaryIO, SpooledTemporaryFile(max_size=256_000))


class SeparateStage:
    """Opens a separator for each call; all share the voice activity model. See `stages.protocol.CallStage`.

    In the live `lane`, calls that ask for partials or are watched get interim versions of their utterances. The default
    `endpointing` is for live calls. An event that comes `late_s` after one with a higher number may be given up. The
    default `decoder` works in this process, which a file may kill.
    """

    name = ledger.NAME
    topic = topics.UTTERANCES

    def __init__(
        self,
        model: VoiceActivityModel,
        endpointing: EndpointingSettings | None = None,
        *,
        lane: Lane = "live",
        late_s: float = LATE_S,
        decoder: Decoder | None = None,
    ) -> None:
        self.model = model
        self.lane = lane
        self.late_s = late_s
        self.endpointing = endpointing or EndpointingSettings()
        self.decoder = decoder or LocalDecoder()
        self.decoding = asyncio.Semaphore(self.decoder.at_once)
        """Held while a `container` is decoded: many that end together take no thread from other calls."""

    def open(self, call: CallRef, state: bytes | None) -> "CallSeparator":
        return CallSeparator(self, call, msgspec.msgpack.decode(state, type=SeparateState) if state else None)


class CallSeparator:
    """One call in the separate stage. See `stages.protocol.CallProcessor`."""

    def __init__(self, stage: SeparateStage, call: CallRef, state: SeparateState | None) -> None:
        self._stage = stage
        self._call = call
        self._state = state
        self._order = EventOrder()
        self._channels: CallChannels | None = None
        self._carry = b""
        self._spool: BinaryIO | None = None
        self._watched_until_s = 0.0
        self._taken = Taken()
        self._admission = Admission(self._order, self._taken)
        if state is None:
            return
        self._watched_until_s = state.watched_until_s
        self._taken = state.taken or Taken(unproven_below=state.highest_seq + 1)
        cursor = self._released
        self._order = EventOrder(
            cursor=cursor,
            fresh_from=state.next_seq,
            highest=state.highest_seq,
            missing=state.missing,
            proofs=Proofs(self._taken.proofs),
        )
        self._admission = Admission(self._order, self._taken)
        if state.channels:
            self._channels = self._open_channels()
            self._carry = next((resume.carry for resume in self._resumes if resume.seq == cursor), b"")

    @property
    def _records(self) -> CallRecords:
        assert self._state is not None
        return CallRecords(self._call, self._state, self._stage.lane)

    # -- the stage's protocol ----------------------------------------------------------------------------------------

    @property
    def next_seq(self) -> int:
        """One more than the highest event number that has arrived; the position that a `CallIdle` carries."""
        return self._order.highest + 1

    @property
    def idle_position(self) -> int:
        return self.next_seq

    @property
    def waiting(self) -> Waiting | None:
        return self._order.waiting

    @property
    def finished(self) -> bool:
        return (self._state is None or self._state.end != "open") and not self._order.has_held

    def checkpoint(self) -> Checkpoint:
        """Return an empty state until the call has started; `released` then counts the rejected events."""
        if self._state is None:
            return Checkpoint(state=b"", released=0 if self._order.has_held else self.next_seq)
        if self._spool is not None:
            return Checkpoint(state=b"", released=0)
        released = self._released
        self._taken.proofs = self._order.proofs.below(released)
        return Checkpoint(state=msgspec.msgpack.encode(self._state), released=released)

    @property
    def _released(self) -> int:
        assert self._state is not None
        if self._state.end == "final":
            return self._state.highest_seq + 1
        return min([self._state.next_seq, *(resume.seq for resume in self._resumes)])

    @property
    def _resumes(self) -> list[ChannelResume | CrosstalkState]:
        assert self._state is not None
        crosstalk = self._state.crosstalk
        return [*self._state.channels, *([] if isinstance(crosstalk, UnsetType) else [crosstalk])]

    def submit(self, record: AudioRecord, event: Event) -> AsyncIterator[Output]:
        """See `stages.protocol`. A `CallWatched` takes effect at once and has no outputs."""
        if isinstance(record, CallWatched):
            self._watched_until_s = max(self._watched_until_s, event.timestamp_s + record.seconds)
            return no_outputs()
        return self._outputs(record, event)

    def give_up(self, record: AudioRecord, event: Event, *, reason: str) -> AsyncIterator[Output]:
        """End the call as failed where its end cannot be worked on. Without another event the call has a gap."""
        is_end = isinstance(record, CallEnded | CallIdle | CallOverdue)
        if self._state is None or self._state.end == "final" or not is_end:
            raise RejectedInput(reason)
        self._order.highest = max(self._order.highest, event.seq)
        return self._fail(event, reason)

    async def _fail(self, event: Event, reason: str) -> AsyncIterator[Output]:
        """Close the call without the audio that no utterance was cut of yet."""
        state = self._state
        assert state is not None
        if state.next_output == 0:
            yield self._records.opened()
        left_from_s = 0.0 if self._channels is None else min(self._channels.heard_to_s)
        duration_s = state.frames / state.start.sample_rate_hz
        if left_from_s < duration_s or self._spool is not None:
            self._note_gap(Gap(start_s=left_from_s, end_s=duration_s, events=0))
        if self._spool is not None:
            self._spool.close()
        self._spool, self._channels, state.channels, state.crosstalk = None, None, [], UNSET
        for output in ledger.rejections(self._call, self._order.release_held(), "the call failed"):
            yield output
        for output in self._records.closed(event.timestamp_s, reason=f"failed: {reason}", failed=True):
            yield output
        self._settle(event)

    async def _outputs(self, record: AudioEvent, event: Event) -> AsyncIterator[Output]:
        work = self._work(record, event)
        if work is None:
            return
        if self._is_light(record):
            for output in work:
                yield output
            return
        loop = asyncio.get_running_loop()
        async with self._stage.decoding if self._spool is not None else contextlib.nullcontext():
            while (given := await loop.run_in_executor(None, next, work, None)) is not None:
                yield given

    # -- events ------------------------------------------------------------------------------------------------------

    def _work(self, record: AudioEvent, event: Event) -> Iterator[Output] | None:
        """Return what there is to do about an event, None if nothing. Raises RejectedInput for an unusable one."""
        if isinstance(record, CallIdle | CallOverdue):
            if event.seq > self._order.highest:  # an outsider's: nothing would ever release it
                raise RejectedInput(f"a timer has the number {callseq_of(event.seq)}, which no event has yet")
            return None if self._admission.is_known(event) else self._take_timer(record, event)
        proof = proof_of(record)
        over_from = self._state.next_seq if self._state is not None and self._state.end == "final" else None
        match self._admission.verdict(record, event, proof, over_from=over_from):
            case "take":
                return self._take(record, event, proof)
            case "other start":
                return self._take_other_start(Held(event.seq, record, event))
            case "repeat":
                return None

    def _is_light(self, record: AudioEvent) -> bool:
        """Return True if the event is too little work for a thread."""
        if self._order.has_held or not isinstance(record, AudioChunk):
            return False
        if self._channels is None or self._state is None:
            return True
        start = self._state.start
        n_frames = len(record.data) // frame_bytes(start.encoding, start.channels) + 1
        return self._channels.blocks_after(n_frames) <= LIGHT_BLOCKS

    def _take(self, record: AudioEvent, event: Event, proof: bytes) -> Iterator[Output]:
        at = event.timestamp_s
        self._order.hold(record, event, proof)
        yield from self._drain(at)
        if self._order.has_held and not self._admission.is_known(event):
            while self._order.is_full or (not event.producer_time and self._order.is_overdue(at, self._stage.late_s)):
                yield from self._stop_waiting(at)
        self._settle(event)

    def _take_timer(self, timer: CallIdle | CallOverdue, event: Event) -> Iterator[Output]:
        at = event.timestamp_s
        if isinstance(timer, CallOverdue):
            while self._order.is_missing_below(timer.below):
                yield from self._stop_waiting(at)
        elif timer.next_seq == self.next_seq:
            while self._order.has_held:
                yield from self._stop_waiting(at)
            if self._state is not None and self._state.end == "open":
                yield from self._close(at, reason="idle", provisional=self._spool is None)
        self._settle(event)

    def _take_other_start(self, held: Held) -> Iterator[Output]:
        yield from self._refuse([held], "another start with the number of the call's own, and other content")
        self._settle(held.event)

    def _refuse(self, held: list[Held], message: str) -> Iterator[Output]:
        """Refuse events that begin with a start which contradicts the call's, and what their producer sends after it.

        A numbered output carries the refusal, so that it holds after a restart.
        """
        state = self._state
        assert state is not None
        self._admission.refuse([item.event for item in held])
        self._order.pass_by(max(item.seq for item in held))
        yield from ledger.rejections(self._call, held, f"{message}: all that this producer sends is refused")
        if self._channels is not None:
            state.end = "open"
            yield self._records.progress(self._channels.heard_to_s)

    def _drain(self, at: float) -> Iterator[Output]:
        for item in self._order.ready():
            if isinstance(item, Missing):
                yield from self._fill(item, at)
            elif isinstance(item.record, CallStarted):
                yield from self._start(item)
            elif isinstance(item.record, AudioChunk):
                yield from self._take_chunk(item.record, item.event.timestamp_s)
            elif isinstance(item.record, CallUpdated | UnusableUpdate):
                yield from self._update(item)
            elif isinstance(item.record, CallEnded):
                yield from self._end(item.seq, item.record, at)

    def _stop_waiting(self, at: float) -> Iterator[Output]:
        """Declare the next hole missing. Without the call's start nothing held can be decoded: reject all of it."""
        state = self._state
        if state is None:
            yield from ledger.rejections(self._call, self._order.release_held(), "the call has no start")
            return
        chunk = self._order.next_held_chunk()
        if state.chunk_frames == 0 and chunk is not None and self._spool is None:
            state.chunk_frames = len(chunk.data) // frame_bytes(state.start.encoding, state.start.channels)
        self._order.give_up_next(state.chunk_frames, self._max_silence)
        yield from self._drain(at)

    @property
    def _max_silence(self) -> int:
        """`MAX_SILENCE_S` in frames."""
        assert self._state is not None
        return MAX_SILENCE_S * self._state.start.sample_rate_hz

    def _settle(self, event: Event) -> None:
        """Bring the state up to date after an event."""
        state = self._state
        if state is None:
            return
        self._taken.position = max(self._taken.position, event.origin.position)
        state.taken = self._taken
        state.next_seq = max(state.next_seq, self._order.cursor)
        state.highest_seq = self._order.highest
        state.watched_until_s = self._watched_until_s
        if self._channels is not None:
            self._channels.settle(self._order.cursor, self._carry)
            state.channels = self._channels.resumes
            state.crosstalk = self._channels.crosstalk
        if self._order.remembers_too_many:
            self._order.forget_missing(self._released)
        state.missing = self._order.missing

    def _start(self, held: Held) -> Iterator[Output]:
        """Open the call, or continue it where a producer that restarted counts from 0 again."""
        start, at = held.record, held.event.timestamp_s
        assert isinstance(start, CallStarted)
        if self._state is not None:
            yield from self._restart(held, start)
            return
        self._state = SeparateState(start=start, opened_at=at)
        self._order.begin(held.seq)
        self._taken.start_seq, self._taken.start_proof = held.seq, held.proof
        yield self._records.started(at, "started")
        if start.encoding == "container":
            self._spool = _spool()
            self._stage.decoder.prepare()
            return
        self._channels = self._open_channels()
        yield self._records.opened()

    def _restart(self, held: Held, start: CallStarted) -> Iterator[Output]:
        state = self._state
        assert state is not None
        if not self._order.is_fresh:
            return
        names = ("encoding", "sample_rate_hz", "channels")
        if self._spool is not None or any(getattr(start, name) != getattr(state.start, name) for name in names):
            epoch = epoch_of(held.seq)
            message = f"the start of epoch {epoch} has another format than the call, or the call is a container"
            yield from self._refuse([held, *self._order.release_held(epoch)], message)
            return
        state.end = "open"
        detail = {
            "event": callseq_of(held.seq),
            "epoch": epoch_of(held.seq),
            "from_s": state.frames / state.start.sample_rate_hz,
        }
        yield ledger.entry(self._call, "updated", detail, at=held.event.timestamp_s, what=f"updated/{held.seq}")

    def _update(self, held: Held) -> Iterator[Output]:
        """Apply an update after the utterances of the audio before it. An unusable one becomes a dead letter."""
        state, update = self._state, held.record
        assert state is not None
        if isinstance(update, UnusableUpdate):
            if self._order.is_fresh:
                yield from ledger.rejections(self._call, [held], update.error)
            return
        waiting = [] if self._channels is None else self._channels.release(held.seq)
        if not self._order.is_fresh:
            return
        if waiting:
            yield from self._sent(waiting)
        assert isinstance(update, CallUpdated)
        state.end = "open"
        changes = {name: value for name, value in msgspec.structs.asdict(update).items() if value is not UNSET}
        from_s = state.frames / state.start.sample_rate_hz
        detail = {"event": held.seq, "from_s": from_s, **changes}
        yield ledger.entry(self._call, "updated", detail, at=held.event.timestamp_s, what=f"updated/{held.seq}")
        if self._spool is not None:
            state.start = msgspec.structs.replace(state.start, **changes)
            return
        if isinstance(update.partials, bool):
            state.start = msgspec.structs.replace(state.start, partials=update.partials)
        yield self._records.changed(from_s, changes)

    def _take_chunk(self, chunk: AudioChunk, at: float) -> Iterator[Output]:
        state = self._state
        assert state is not None
        if self._spool is not None:
            self._spool.write(chunk.data)
            return
        frames, self._carry = decode_frames(state.start.encoding, state.start.channels, self._carry, chunk.data)
        if self._order.is_fresh:
            state.end = "open"
            state.chunk_frames = len(frames) or state.chunk_frames
        yield from self._take_audio(frames, at)

    def _fill(self, gap: Missing, at: float) -> Iterator[Output]:
        """Fill the place of missing events with silence, so that later audio keeps its time.

        How much is missing where a producer restarted is unknown: that gap has no length and no events. The duration of
        missing bytes of a container is unknown too: that gap has no length.
        """
        state = self._state
        assert state is not None
        self._carry = b""
        fresh = self._order.is_fresh
        if fresh:
            rate_hz = state.start.sample_rate_hz
            start_s, end_s = state.frames / rate_hz, (state.frames + gap.frames) / rate_hz
            events = 0 if gap.is_restart else gap.events
            self._note_gap(Gap(start_s=start_s, end_s=end_s, events=events))
            detail = {"start_s": start_s, "end_s": end_s, "events": events, "first_event": callseq_of(gap.first_seq)}
            if gap.is_restart or epoch_of(gap.first_seq):
                detail["epoch"] = epoch_of(gap.end_seq)
            yield ledger.entry(self._call, "gap", detail, at=at, what=f"gap/{gap.first_seq}")
        if self._channels is None:
            return
        cuts = self._channels.take_silence(self._order.cursor, gap.frames)
        if fresh:
            state.frames += gap.frames
            yield from self._sent(cuts)

    def _note_gap(self, gap: Gap) -> None:
        state = self._state
        assert state is not None
        if len(state.gaps) == MAX_GAPS:
            last = state.gaps.pop()
            events = min(last.events + gap.events, EPOCH_EVENTS - 1)
            gap = Gap(start_s=last.start_s, end_s=gap.end_s, events=events)
        state.gaps.append(gap)

    def _end(self, seq: int, ended: CallEnded, at: float) -> Iterator[Output]:
        assert self._state is not None
        missing = min(ended.events, EPOCH_EVENTS) - (callseq_of(seq) + 1)
        if missing > 0:
            frames = min(missing * self._state.chunk_frames, self._max_silence)
            yield from self._fill(Missing(seq, missing, frames), at)
        yield from self._close(at, reason=ended.reason, provisional=False)

    def _close(self, at: float, *, reason: str, provisional: bool) -> Iterator[Output]:
        state = self._state
        assert state is not None
        failed = truncated = False
        if self._spool is not None:
            with self._spool as spool:
                try:
                    truncated = yield from self._decode(self._stage.decoder.open(spool, "the call's audio"), at)
                except AudioFileError as error:
                    failed, reason = True, f"undecodable: {error.reason}"
                    if self._channels is None:
                        yield self._records.opened()
            self._spool = None
        if self._channels is not None:
            yield from self._sent(self._channels.flush() if provisional else self._channels.finish())
        if not provisional:
            left = self._order.release_held()
            yield from ledger.rejections(self._call, left, "it came after the call's end")
            self._channels, state.channels, state.crosstalk = None, [], UNSET
        yield from self._records.closed(at, reason=reason, provisional=provisional, failed=failed, truncated=truncated)

    # -- audio -------------------------------------------------------------------------------------------------------

    def _open_channels(self) -> CallChannels:
        assert self._state is not None
        start = self._state.start
        resumes = self._state.channels
        return CallChannels(
            start.sample_rate_hz,
            start.channels,
            self._stage.model,
            self._stage.endpointing,
            resumes,
            first_seq=self._taken.start_seq + 1,
            meter=self._open_meter() if start.channels > 1 else None,
        )

    def _open_meter(self) -> CrosstalkMeter:
        """Continue to compare the channels, or begin after the events that the state contains."""
        state = self._state
        assert state is not None
        rate_hz, channels = state.start.sample_rate_hz, state.start.channels
        if not isinstance(state.crosstalk, UnsetType):
            return CrosstalkMeter(rate_hz, channels, state.crosstalk)
        first_seq = max(state.next_seq, self._taken.start_seq + 1)
        return CrosstalkMeter.begin(rate_hz, channels, seq=first_seq, position=state.frames)

    def _decode(self, audio: DecodedAudio, at: float) -> Generator[Output, None, bool]:
        """Decode a container, with its own channels and rate, not the start's. Returns True if it is truncated.

        What could not be decoded is a gap. Raises AudioFileError if nothing could be.
        """
        state = self._state
        assert state is not None
        try:
            state.start = msgspec.structs.replace(
                state.start, channels=audio.channels, sample_rate_hz=audio.sample_rate_hz
            )
            self._channels = self._open_channels()
            yield self._records.started(at, "started/decoded")
            yield self._records.opened()
            for block in audio:
                yield from self._take_audio(np.frombuffer(block, "<i2").reshape(-1, audio.channels), at)
        finally:
            audio.close()
        for number, damage in enumerate(audio.damages):
            self._note_gap(Gap(start_s=damage.start_s, end_s=damage.end_s, events=0))
            detail = {"start_s": damage.start_s, "end_s": damage.end_s, "events": 0, "reason": damage.reason}
            yield ledger.entry(self._call, "gap", detail, at=at, what=f"gap/decoded/{number}")
        if audio.damages and not state.frames:
            raise AudioFileError(audio.name, audio.damages[0].reason)
        return audio.truncated

    def _take_audio(self, frames: Samples, at: float) -> Iterator[Output]:
        """Take the frames, shape (n, channels), of an event that was stored `at`. A replayed event has no outputs."""
        state = self._state
        assert state is not None
        assert self._channels is not None
        cuts = self._channels.take(self._order.cursor, frames)
        if self._order.is_fresh:
            state.frames += len(frames)
            state.received_frames += len(frames)
            yield from self._sent(cuts)
            wanted = state.start.partials or at < self._watched_until_s
            if wanted and self._stage.lane == "live" and state.start.encoding != "container":
                for channel, growth in self._channels.growths():
                    yield interim(self._call, channel, growth, self._channels.rate_hz)

    def _sent(self, cuts: list[tuple[int, Speech]]) -> Iterator[Output]:
        """Yield utterances, and a `CallProgress` if no numbered output has reported progress for `PROGRESS_S`."""
        state = self._state
        assert state is not None
        assert self._channels is not None
        for channel, speech in cuts:
            yield self._records.utterance(channel, speech, rate_hz=self._channels.rate_hz)
        if state.frames - state.output_frame >= PROGRESS_S * state.start.sample_rate_hz:
            yield self._records.progress(self._channels.heard_to_s)
