"""The records that a call's state is published as: the numbered ones, and the ledger's entries about the whole call."""

from collections.abc import Iterator

import msgspec
from msgspec import UNSET

from schemas import topics
from schemas.calls import CallRef
from schemas.topics import Lane
from schemas.utterances import (
    CallChanged,
    CallClosed,
    CallOpened,
    CallProgress,
    Channel,
    Utterance,
    UtteranceRecord,
)
from stages.protocol import Output
from stages.separate import ledger
from stages.separate.packs import Speech
from stages.separate.state import SeparateState


class CallRecords:
    """Makes the records of one call. Each numbered one takes the state's next number."""

    def __init__(self, call: CallRef, state: SeparateState, lane: Lane) -> None:
        self._call = call
        self._state = state
        self._lane = lane

    def started(self, at: float, what: str) -> Output:
        """Return the ledger's entry of a start; `what` tells it from the call's others."""
        return ledger.entry(self._call, "started", self._description(), at=at, what=what)

    def opened(self) -> Output:
        start = self._state.start
        return self._numbered(
            CallOpened(
                call=self._call,
                seq=self._state.next_output,
                channels=[Channel(index, role) for index, role in enumerate(self._roles())],
                sample_rate_hz=start.sample_rate_hz,
                encoding=start.encoding,
                language=start.language,
                partials=start.partials,
                metadata=start.metadata,
                opened_at=self._state.opened_at,
                hotwords=start.hotwords or UNSET,
                lane=UNSET if self._lane == "live" else self._lane,
            )
        )

    def utterance(self, channel: int, speech: Speech, *, rate_hz: int) -> Output:
        """Return an utterance, and count it."""
        state = self._state
        state.utterances += 1
        state.speech_s += sum(end_s - start_s for start_s, end_s in speech.voiced)
        return self._numbered(
            Utterance(
                call=self._call,
                seq=state.next_output,
                channel=channel,
                first_sample=speech.first_sample,
                sample_rate_hz=rate_hz,
                pcm=speech.pcm,
                voiced=speech.voiced,
                cut=speech.cut,
                before=speech.before,
                after=speech.after,
                parts=speech.parts,
                crosstalk=speech.crosstalk,
            )
        )

    def progress(self, heard_to_s: list[float]) -> Output:
        return self._numbered(CallProgress(call=self._call, seq=self._state.next_output, heard_to_s=heard_to_s))

    def changed(self, from_s: float, changes: dict[str, object]) -> Output:
        seq = self._state.next_output
        return self._numbered(msgspec.structs.replace(CallChanged(call=self._call, seq=seq, from_s=from_s), **changes))

    def closed(
        self, at: float, *, reason: str, provisional: bool = False, failed: bool = False, truncated: bool = False
    ) -> Iterator[Output]:
        """Yield the ledger's entry of the end, and the end. The state is that of a call that is over."""
        state = self._state
        state.end = "provisional" if provisional else "final"
        state.revision += 1
        closed = CallClosed(
            call=self._call,
            seq=state.next_output,
            revision=state.revision,
            duration_s=state.frames / state.start.sample_rate_hz,
            speech_s=state.speech_s,
            utterances=state.utterances,
            gaps=list(state.gaps),
            reason=reason,
            provisional=provisional,
        )
        detail = {
            **self._description(),
            **{name: getattr(closed, name) for name in ("duration_s", "speech_s", "utterances", "reason")},
            "received_s": state.received_frames / state.start.sample_rate_hz,
            "gaps": [msgspec.structs.asdict(gap) for gap in closed.gaps],
            "revision": closed.revision,
            "provisional": provisional,
            "truncated": truncated,
        }
        what = f"completed/{state.revision}"
        yield ledger.entry(self._call, "failed" if failed else "completed", detail, at=at, what=what)
        yield self._numbered(closed)

    def _numbered(self, record: UtteranceRecord) -> Output:
        self._state.next_output += 1
        if not isinstance(record, CallChanged):  # it reports no progress of the channels
            self._state.output_frame = self._state.frames
        return Output(
            topic=topics.UTTERANCES,
            record=record,
            event_id=self._call.event_id(ledger.NAME, record.seq),
            seq=record.seq,
        )

    def _roles(self) -> list[str]:
        """Return the producer's roles, and a default name for each channel without one."""
        start = self._state.start
        named = start.roles[: start.channels]
        return [*named, *(f"channel-{index}" for index in range(len(named), start.channels))]

    def _description(self) -> dict[str, object]:
        """Return the properties of a call that its ledger holds from the start; the warehouse stores them."""
        start = self._state.start
        return {
            "channels": start.channels,
            "roles": self._roles(),
            "sample_rate_hz": start.sample_rate_hz,
            "encoding": start.encoding,
            "language": start.language,
            "partials": start.partials,
            "metadata": start.metadata,
        }
