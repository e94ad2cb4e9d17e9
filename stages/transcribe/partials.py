"""Live text of one call: interim utterances in, partials and commitments out.

That an interim comes is the sign that it is wanted: its call asked for partials, or is watched.

Committed text never changes, also not through a crash. It begins every later hypothesis and the final text because
these are decoded behind it; and it is committed only when a `Commitment` has been read back from the topic that every
replay reads (see there), so every replay decodes the final behind the same text.

One interim of a channel is worked on at a time, from its decoding until what it commits is shown. Of those that come
meanwhile the newest waits, the others are dropped.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final
from zlib import crc32

import msgspec

from schemas.calls import CallRef
from schemas.partials import FINAL_REVISION, PARTIAL_TYPE, Commitment, Partial
from schemas.segments import Segment
from schemas.topics import PARTIALS, UTTERANCES
from schemas.utterances import Channel, InterimUtterance, Utterance
from stages.protocol import Output, no_outputs
from stages.transcribe.agreement import agreed
from stages.transcribe.audio import audio_from, voiced_from
from stages.transcribe.engine.protocol import LanguageChoice, Row, Transcription
from stages.transcribe.engine.words import UNSPACED
from stages.transcribe.hard_cuts import Seam
from stages.transcribe.scheduling.scheduler import Scheduler

_MAX_NO_SPEECH: Final = 0.6
_MIN_LOGPROB: Final = -1.0

Dropped = Callable[[str], None]
"""Told of every interim that is not shown, with the reason: `newer`, `final` or `doubt`."""


class Settled(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is committed of the utterance of a channel that begins at `first_sample`, of which an interim was heard."""

    first_sample: int = -1
    text: str = ""
    language: str = ""


class PartialsState(msgspec.Struct, frozen=True, omit_defaults=True):
    """Part of a live call's checkpoint. By channel; behind a final an empty one.

    `asked`: the call's producer wants partials, so that each utterance has a last one, and not only those of which an
    interim was heard.
    """

    speakers: list[str]
    settled: dict[int, Settled] = {}
    asked: bool = True


def opening_state(channels: list[Channel], *, asked: bool) -> PartialsState:
    return PartialsState([channel.role for channel in channels], asked=asked)


class _Open:
    """An open utterance: the interim that waits, what is being done, and the hypothesis before."""

    def __init__(self, first_sample: int) -> None:
        self.first_sample = first_sample
        self.revision = 0
        self.next: InterimUtterance | None = None
        self.busy = False
        self.decoding: asyncio.Future[Transcription] | None = None
        self.committing = False
        self.over = False
        self.older: Transcription | None = None


class LivePartials:
    """The open utterances of one call. The iterators that it gives do not wait for each other's end."""

    def __init__(
        self,
        call: CallRef,
        state: PartialsState,
        scheduler: Scheduler,
        *,
        language: Callable[[InterimUtterance], str | LanguageChoice],
        hotwords: Callable[[InterimUtterance], tuple[str, ...]],
        dropped: Dropped,
        seam: Callable[[InterimUtterance], Awaitable[Seam]],
    ) -> None:
        """`language` is asked for where nothing of the interim's utterance is committed yet, `seam` for the words
        before a hard cut that the interim begins at.
        """
        self.state = state
        self._call = call
        self._scheduler = scheduler
        self._language = language
        self._hotwords = hotwords
        self._dropped = dropped
        self._seam = seam
        self._open: dict[int, _Open] = {}
        self._showing: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)

    def ask(self, asked: bool) -> None:
        """The producer wants partials from here on, or none."""
        self.state = msgspec.structs.replace(self.state, asked=asked)

    def hear(self, interim: InterimUtterance) -> AsyncIterator[Output]:
        """A newer version of an open utterance. One that is not open any more, or not newer, gives nothing."""
        if interim.first_sample < self._settled(interim.channel).first_sample:
            return no_outputs()
        utterance = self._open.get(interim.channel)
        if utterance is None or utterance.first_sample < interim.first_sample:
            self._close(interim.channel)
            utterance = self._open[interim.channel] = _Open(interim.first_sample)
            if self._settled(interim.channel).first_sample < interim.first_sample:
                self._set(interim.channel, Settled(interim.first_sample))
        if (interim.first_sample, interim.revision) <= (utterance.first_sample, utterance.revision):
            return no_outputs()
        utterance.revision = interim.revision
        if utterance.next is not None:
            self._dropped("newer")
        utterance.next = interim
        if utterance.busy:
            if utterance.decoding is not None:
                self._scheduler.withdraw_interim(utterance.decoding)
            return no_outputs()
        utterance.busy = True
        return self._work(utterance)

    def settle(self, commitment: Commitment) -> AsyncIterator[Output]:
        """A commitment as it is read: it holds if it goes on from what is committed of an utterance not yet final."""
        settled = self._settled(commitment.channel)
        goes_on = commitment.first_sample > settled.first_sample or (
            commitment.first_sample == settled.first_sample
            and commitment.committed.startswith(settled.text)
            and commitment.committed != settled.text
            and (not settled.text or commitment.language == settled.language)
        )
        if goes_on:
            settled = Settled(commitment.first_sample, commitment.committed, commitment.language)
            self._set(commitment.channel, settled)
        utterance = self._open.get(commitment.channel)
        resumed = utterance is not None and utterance.committing and utterance.first_sample == commitment.first_sample
        if utterance is not None and resumed:
            utterance.committing = False
        return self._settled_and_on(commitment if goes_on else None, utterance if resumed else None)

    def close(self, utterance: Utterance) -> Settled:
        """The utterance is final: what is committed of it, for its text to begin with. No more will be.

        It has the utterance's `first_sample` if an interim of it was heard.
        """
        self._close(utterance.channel)
        settled = self._settled(utterance.channel)
        if settled.first_sample <= utterance.first_sample:
            self._set(utterance.channel, Settled(utterance.first_sample + 1))
        return settled if settled.first_sample == utterance.first_sample else Settled()

    async def last(self, utterance: Utterance, segment: Segment) -> AsyncIterator[Output]:
        """The last partial of an utterance, behind any that is being stored."""
        async with self._showing[utterance.channel]:
            yield self._partial(
                utterance.channel,
                utterance.first_sample,
                revision=FINAL_REVISION,
                committed=segment.text,
                tail="",
                start_s=segment.start_s,
                end_s=segment.end_s,
                language=segment.language,
                final=True,
            )

    # -- one utterance -----------------------------------------------------------------------------------------------

    async def _work(self, utterance: _Open) -> AsyncIterator[Output]:
        """Until no interim waits, or text is to be committed: then `settle` goes on."""
        while (interim := utterance.next) is not None:
            utterance.next = None
            heard = await self._decode(utterance, interim)
            if heard is None:
                continue
            settled = self._settled_of(interim.channel, utterance)
            committed = settled.text
            if utterance.older is not None and utterance.older.language == heard.language:
                spaced = heard.language not in UNSPACED
                committed = agreed(settled.text, utterance.older.text, heard.text, spaced=spaced)
            if interim.certain:
                utterance.older = heard
            said = self._said(interim, committed, heard)
            if committed != settled.text:
                utterance.committing = True
                yield self._commitment(said)
                return
            async with self._showing[interim.channel]:
                if not utterance.over:
                    yield self._shown(said)
        utterance.busy = False

    async def _settled_and_on(self, commitment: Commitment | None, utterance: _Open | None) -> AsyncIterator[Output]:
        if commitment is not None:
            async with self._showing[commitment.channel]:
                if self._settled(commitment.channel).first_sample == commitment.first_sample:
                    yield self._shown(commitment)
        if utterance is not None:
            async for output in self._work(utterance):
                yield output

    async def _decode(self, utterance: _Open, interim: InterimUtterance) -> Transcription | None:
        """The hypothesis, None where it came to nothing: overtaken, failed, or no speech for sure."""
        seam = await self._seam(interim)
        if utterance.over:
            self._dropped("final")
            return None
        settled = self._settled_of(interim.channel, utterance)
        start_s = seam.heard_from_s(interim)
        row = Row(
            audio=audio_from(interim, start_s),
            voiced=voiced_from(interim, start_s),
            language=settled.language or self._language(interim),
            prefix=seam.prefix(settled.text, spaced=settled.language not in UNSPACED),
            hotwords=self._hotwords(interim),
            interim=True,
        )
        utterance.decoding = self._scheduler.submit(row, call=self._call, live=True)
        try:
            await asyncio.wait([utterance.decoding])
            if utterance.decoding.cancelled() or utterance.over:
                self._dropped("final" if utterance.over else "newer")
                return None
            heard = utterance.decoding.result()
            heard = msgspec.structs.replace(heard, text=seam.behind(heard.text))
        finally:
            utterance.decoding.cancel()
            utterance.decoding = None
        doubtful = (
            heard.error is not None
            or heard.repeats
            or not heard.text.startswith(settled.text)
            or heard.no_speech_probability >= _MAX_NO_SPEECH
            or heard.average_logprob < _MIN_LOGPROB
        )
        if doubtful:
            self._dropped("doubt")
        return None if doubtful else heard

    def _close(self, channel: int) -> None:
        utterance = self._open.pop(channel, None)
        if utterance is None:
            return
        utterance.over = True
        if utterance.decoding is not None:
            self._scheduler.withdraw_interim(utterance.decoding)
        if utterance.next is not None:
            utterance.next = None
            self._dropped("final")

    # -- what is committed -------------------------------------------------------------------------------------------

    def _settled(self, channel: int) -> Settled:
        return self.state.settled.get(channel, Settled())

    def _settled_of(self, channel: int, utterance: _Open) -> Settled:
        settled = self._settled(channel)
        return settled if settled.first_sample == utterance.first_sample else Settled()

    def _set(self, channel: int, settled: Settled) -> None:
        self.state = msgspec.structs.replace(self.state, settled={**self.state.settled, channel: settled})

    # -- outputs -----------------------------------------------------------------------------------------------------

    def _said(self, interim: InterimUtterance, committed: str, heard: Transcription) -> Commitment:
        """What an interim's text is, and how much of it is committed."""
        return Commitment(
            call=self._call,
            channel=interim.channel,
            first_sample=interim.first_sample,
            revision=interim.revision,
            committed=committed,
            tail=heard.text[len(committed) :],
            start_s=interim.start_s,
            end_s=interim.end_s,
            language=heard.language,
        )

    def _commitment(self, said: Commitment) -> Output:
        event_id = self._event_id("commitment", said.channel, said.first_sample, said.revision, said)
        return Output(topic=UTTERANCES, record=said, event_id=event_id, beside=True)

    def _shown(self, said: Commitment) -> Output:
        return self._partial(
            said.channel,
            said.first_sample,
            revision=said.revision,
            committed=said.committed,
            tail=said.tail,
            start_s=said.start_s,
            end_s=said.end_s,
            language=said.language,
        )

    def _partial(
        self,
        channel: int,
        first_sample: int,
        *,
        revision: int,
        committed: str,
        tail: str,
        start_s: float,
        end_s: float,
        language: str,
        final: bool = False,
    ) -> Output:
        speakers = self.state.speakers
        record = Partial(
            tenant=self._call.tenant,
            call_id=self._call.call_id,
            channel=channel,
            speaker=speakers[channel] if channel < len(speakers) else f"channel-{channel}",
            utterance_id=str(self._call.derived_id("segment", channel, first_sample)),
            revision=revision,
            committed=committed,
            tail=tail,
            start_s=round(start_s, 3),
            end_s=round(end_s, 3),
            language=language,
            final=final,
        )
        event_id = self._event_id("partial", channel, first_sample, revision, record)
        return Output(topic=PARTIALS, record=record, event_id=event_id, event_type=PARTIAL_TYPE, beside=True)

    def _event_id(self, kind: str, channel: int, first_sample: int, revision: int, record: Partial | Commitment) -> str:
        """With a digest of the text: a worker that goes on after a crash may hear the same audio otherwise."""
        digest = crc32(f"{record.language}\0{record.committed}\0{record.tail}".encode())
        return self._call.event_id("transcribe", kind, channel, first_sample, revision, f"{digest:08x}")
