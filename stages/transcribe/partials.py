"""Live text of one call: interim utterances in, partials and commitments out.

An interim is decoded whenever one arrives: its call asked for partials, or somebody watches it.

Committed text never changes, not even through a crash. Every later hypothesis and the final text are decoded with it as
their prefix. It is committed only when its `Commitment` has been read back from the topic that every replay reads (see
there), so every replay decodes the final text with the same prefix.

Of each channel one interim is in progress at a time, from its decoding until its text is shown. Of the interims that
arrive meanwhile the newest waits and the others are dropped.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from typing import Final
from zlib import crc32

import msgspec

from schemas.partials import FINAL_REVISION, PARTIAL_TYPE, Commitment, Partial
from schemas.segments import Segment
from schemas.topics import PARTIALS, UTTERANCES
from schemas.utterances import Channel, InterimUtterance, Utterance
from stages.protocol import Output, no_outputs
from stages.transcribe.agreement import NOTHING_COMMITTED, CommittedText, agreed
from stages.transcribe.audio import row_of, voiced_s
from stages.transcribe.decoding_context import CallContext
from stages.transcribe.engine.protocol import Transcription
from stages.transcribe.engine.words import UNSPACED
from stages.transcribe.scheduling.call_decoder import CallDecoder

_MAX_NO_SPEECH: Final = 0.6
_MIN_LOGPROB: Final = -1.0

InterimDropped = Callable[[str], None]
"""Called for every interim that is not shown, with the reason: `newer`, `final` or `doubt`."""


class PartialsState(msgspec.Struct, frozen=True, omit_defaults=True):
    """The live text's part of a checkpoint. `speakers` are the roles of the channels.

    `committed`: by channel, of its newest utterance; after a final one an empty text that begins later.
    `asked`: the producer wants partials, so each utterance has a last one, not only those of which an interim arrived.
    """

    speakers: list[str]
    committed: dict[int, CommittedText] = msgspec.field(name="settled", default_factory=dict)
    asked: bool = True


def opening_state(channels: list[Channel], *, asked: bool) -> PartialsState:
    return PartialsState([channel.role for channel in channels], asked=asked)


class _OpenUtterance:
    """An utterance that is still being spoken."""

    def __init__(self, first_sample: int) -> None:
        self.first_sample = first_sample
        self.revision = 0
        """Of the newest interim."""
        self.waiting: InterimUtterance | None = None
        self.busy = False
        """An interim is in progress, or its commitment has not been read back yet."""
        self.decoding: asyncio.Future[Transcription] | None = None
        self.committing = False
        self.closed = False
        self.hypothesis: Transcription | None = None
        """That of the newest interim which no cut can shorten."""


class LivePartials:
    """The open utterances of one call. Its iterators do not wait for each other to end."""

    def __init__(
        self, decoder: CallDecoder, context: CallContext, state: PartialsState, *, dropped: InterimDropped
    ) -> None:
        self.state = state
        self._call = decoder.call
        self._decoder = decoder
        self._context = context
        self._dropped = dropped
        self._open: dict[int, _OpenUtterance] = {}
        self._showing: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)

    def set_asked(self, asked: bool) -> None:
        """Set whether the producer wants partials from here on."""
        self.state = msgspec.structs.replace(self.state, asked=asked)

    def submit(self, record: InterimUtterance | Commitment) -> AsyncIterator[Output]:
        return self._add(record) if isinstance(record, InterimUtterance) else self._commit(record)

    def close(self, utterance: Utterance) -> CommittedText:
        """End an open utterance, and return what is committed of it: the beginning of its final text.

        The result has the utterance's `first_sample` if an interim of it arrived.
        """
        self._discard(utterance.channel)
        committed = self._committed(utterance.channel)
        if committed.first_sample <= utterance.first_sample:
            self._set_committed(utterance.channel, CommittedText(utterance.first_sample + 1))
        return committed if committed.first_sample == utterance.first_sample else NOTHING_COMMITTED

    async def last(self, utterance: Utterance, segment: Segment) -> AsyncIterator[Output]:
        """Yield the last partial of an utterance, after any that is being published."""
        async with self._showing[utterance.channel]:
            final = Commitment(
                call=self._call,
                channel=utterance.channel,
                first_sample=utterance.first_sample,
                revision=FINAL_REVISION,
                committed=segment.text,
                tail="",
                start_s=segment.start_s,
                end_s=segment.end_s,
                language=segment.language,
            )
            yield self._partial(final, final=True)

    # -- one utterance -----------------------------------------------------------------------------------------------

    def _add(self, interim: InterimUtterance) -> AsyncIterator[Output]:
        """Take a newer version of an open utterance. One that is closed, or not newer, gives nothing."""
        if interim.first_sample < self._committed(interim.channel).first_sample:
            return no_outputs()
        utterance = self._open.get(interim.channel)
        if utterance is None or utterance.first_sample < interim.first_sample:
            self._discard(interim.channel)
            utterance = self._open[interim.channel] = _OpenUtterance(interim.first_sample)
            if self._committed(interim.channel).first_sample < interim.first_sample:
                self._set_committed(interim.channel, CommittedText(interim.first_sample))
        if (interim.first_sample, interim.revision) <= (utterance.first_sample, utterance.revision):
            return no_outputs()
        utterance.revision = interim.revision
        if utterance.waiting is not None:
            self._dropped("newer")
        utterance.waiting = interim
        if utterance.busy:
            if utterance.decoding is not None:
                self._decoder.withdraw_interim(utterance.decoding)
            return no_outputs()
        utterance.busy = True
        return self._work(utterance)

    def _commit(self, commitment: Commitment) -> AsyncIterator[Output]:
        """Take a commitment that was read back. It holds if it extends the committed text of an open utterance."""
        committed = self._committed(commitment.channel)
        extends = commitment.first_sample > committed.first_sample or (
            commitment.first_sample == committed.first_sample
            and commitment.committed.startswith(committed.text)
            and commitment.committed != committed.text
            and (not committed.text or commitment.language == committed.language)
        )
        if extends:
            committed = CommittedText(commitment.first_sample, commitment.committed, commitment.language)
            self._set_committed(commitment.channel, committed)
        utterance = self._open.get(commitment.channel)
        if utterance is not None and utterance.committing and utterance.first_sample == commitment.first_sample:
            utterance.committing = False
        else:
            utterance = None
        return self._show_and_resume(commitment if extends else None, utterance)

    async def _show_and_resume(
        self, commitment: Commitment | None, utterance: _OpenUtterance | None
    ) -> AsyncIterator[Output]:
        """Yield the partial of a commitment, then those of the interims that waited for it."""
        if commitment is not None:
            async with self._showing[commitment.channel]:
                if self._committed(commitment.channel).first_sample == commitment.first_sample:
                    yield self._partial(commitment)
        if utterance is not None:
            async for output in self._work(utterance):
                yield output

    async def _work(self, utterance: _OpenUtterance) -> AsyncIterator[Output]:
        """Decode interims until none waits, or until text is to be committed: `_commit` resumes the work then."""
        while (interim := utterance.waiting) is not None:
            utterance.waiting = None
            transcription = await self._decode(utterance, interim)
            if transcription is None:
                continue
            committed = self._committed_of(interim.channel, utterance)
            text = committed.text
            if utterance.hypothesis is not None and utterance.hypothesis.language == transcription.language:
                spaced = transcription.language not in UNSPACED
                text = agreed(text, utterance.hypothesis.text, transcription.text, spaced=spaced)
            if interim.certain:
                utterance.hypothesis = transcription
            commitment = self._commitment(interim, text, transcription)
            if text != committed.text:
                utterance.committing = True
                event_id = self._event_id("commitment", commitment)
                yield Output(topic=UTTERANCES, record=commitment, event_id=event_id, same_partition=True)
                return
            async with self._showing[interim.channel]:
                if not utterance.closed:
                    yield self._partial(commitment)
        utterance.busy = False

    async def _decode(self, utterance: _OpenUtterance, interim: InterimUtterance) -> Transcription | None:
        """Return the hypothesis; None if the interim was overtaken, the engine failed, or the text is in doubt."""
        overlap = await self._context.overlap_of(interim)
        if utterance.closed:
            self._dropped("final")
            return None
        committed = self._committed_of(interim.channel, utterance)
        settings = self._context.settings_of(interim)
        row = row_of(
            interim,
            overlap.audio_start_s(interim),
            language=committed.language or settings.vote.choice(voiced_s(interim), self._decoder.default_language),
            prefix=overlap.prefix(committed),
            hotwords=settings.hotwords,
        )
        utterance.decoding = self._decoder.decode(row)
        try:
            await asyncio.wait([utterance.decoding])
            if utterance.decoding.cancelled() or utterance.closed:
                self._dropped("final" if utterance.closed else "newer")
                return None
            transcription = utterance.decoding.result()
        finally:
            utterance.decoding.cancel()
            utterance.decoding = None
        transcription = msgspec.structs.replace(transcription, text=overlap.removed_from(transcription.text))
        doubtful = (
            transcription.error is not None
            or transcription.repeats
            or not transcription.text.startswith(committed.text)
            or transcription.no_speech_probability >= _MAX_NO_SPEECH
            or transcription.average_logprob < _MIN_LOGPROB
        )
        if doubtful:
            self._dropped("doubt")
        return None if doubtful else transcription

    def _discard(self, channel: int) -> None:
        utterance = self._open.pop(channel, None)
        if utterance is None:
            return
        utterance.closed = True
        if utterance.decoding is not None:
            self._decoder.withdraw_interim(utterance.decoding)
        if utterance.waiting is not None:
            utterance.waiting = None
            self._dropped("final")

    # -- committed text ----------------------------------------------------------------------------------------------

    def _committed(self, channel: int) -> CommittedText:
        return self.state.committed.get(channel, NOTHING_COMMITTED)

    def _committed_of(self, channel: int, utterance: _OpenUtterance) -> CommittedText:
        committed = self._committed(channel)
        return committed if committed.first_sample == utterance.first_sample else NOTHING_COMMITTED

    def _set_committed(self, channel: int, committed: CommittedText) -> None:
        self.state = msgspec.structs.replace(self.state, committed={**self.state.committed, channel: committed})

    # -- outputs -----------------------------------------------------------------------------------------------------

    def _commitment(self, interim: InterimUtterance, committed: str, transcription: Transcription) -> Commitment:
        """Return the text of an interim and how much of it is committed."""
        return Commitment(
            call=self._call,
            channel=interim.channel,
            first_sample=interim.first_sample,
            revision=interim.revision,
            committed=committed,
            tail=transcription.text[len(committed) :],
            start_s=interim.start_s,
            end_s=interim.end_s,
            language=transcription.language,
        )

    def _partial(self, text: Commitment, *, final: bool = False) -> Output:
        speakers, channel = self.state.speakers, text.channel
        record = Partial(
            tenant=self._call.tenant,
            call_id=self._call.call_id,
            channel=channel,
            speaker=speakers[channel] if channel < len(speakers) else f"channel-{channel}",
            utterance_id=str(self._call.derived_id("segment", channel, text.first_sample)),
            revision=text.revision,
            committed=text.committed,
            tail=text.tail,
            start_s=round(text.start_s, 3),
            end_s=round(text.end_s, 3),
            language=text.language,
            final=final,
        )
        event_id = self._event_id("partial", text)
        return Output(topic=PARTIALS, record=record, event_id=event_id, event_type=PARTIAL_TYPE, same_partition=True)

    def _event_id(self, kind: str, text: Commitment) -> str:
        """Return an id with a digest of the text: a worker that resumes after a crash may decode different text."""
        digest = crc32(f"{text.language}\0{text.committed}\0{text.tail}".encode())
        return self._call.event_id("transcribe", kind, text.channel, text.first_sample, text.revision, f"{digest:08x}")
