"""One utterance's way through the stage, from its record to its segment.

The work begins at once, so several utterances of a call can be in the engine together.
"""

import asyncio
from collections.abc import Mapping

import msgspec
from msgspec import UNSET

from schemas.segments import ApartText, Segment, Unheard, Word
from schemas.utterances import Utterance
from stages.transcribe import guards
from stages.transcribe.agreement import CommittedText
from stages.transcribe.audio import PackedTimes, own_part, row_of, voiced_from, voiced_s
from stages.transcribe.coverage import SpanMs, coverage, to_ms
from stages.transcribe.decoding_context import UtteranceContext
from stages.transcribe.engine.protocol import LanguageChoice, Transcription
from stages.transcribe.engine.words import UNSPACED, spread_words
from stages.transcribe.hard_cuts import NO_OVERLAP, trim
from stages.transcribe.language import OTHER_VOICED_S, LanguageVote
from stages.transcribe.scheduling.call_decoder import CallDecoder
from stages.transcribe.second_hearing import Apart, Heard, hear_whole
from stages.transcribe.undecided import UndecidedAudio
from stages.transcribe.unheard import NO_TEXT_GUARDS, unheard


class _Decoded(msgspec.Struct, frozen=True):
    """An utterance's own text. `unheard`: the stretches that it does not account for, in milliseconds of the call, and
    why. `apart`: text found inside what viewers were shown, with times in the call.
    """

    transcription: Transcription
    unheard: list[tuple[SpanMs, str]] = []
    apart: list[Apart] = []


class UtteranceWork:
    """The work on one utterance, in a task of its own."""

    def __init__(
        self,
        utterance: Utterance,
        committed: CommittedText,
        decoder: CallDecoder,
        context: UtteranceContext,
        *,
        given_up: str | None = None,
        undecided: UndecidedAudio | None = None,
    ) -> None:
        """Begin to work, as soon as the values in `context` are known.

        Args:
            given_up: why the engine is not asked.
            undecided: room for the utterances that wait until their call's language is decided. Without it no answer
                waits, and one in another language than is decided later stays.
        """
        self.utterance = utterance
        self.committed = committed
        self.error: str | None = None
        """The reason why the engine could not decode the utterance; None if it could."""
        self._decoder = decoder
        self._context = context
        self._given_up = given_up
        self._undecided = undecided
        self._vote_before = self._vote = LanguageVote()
        self._task = asyncio.create_task(self._run())

    async def segment(self) -> Segment:
        """Wait for the segment. The work is cancelled if the caller is."""
        try:
            return await self._task
        finally:
            self._task.cancel()

    async def _run(self) -> Segment:
        self._vote_before = self._vote = await self._context.wait_for_vote()
        try:
            decoded = await self._decoded()
        finally:
            self._context.leave(self._vote)
        if self._undecided is not None and decoded is not None and decoded.transcription.error is None:
            decoded = await self._in_language_of_call(decoded, self._undecided)
        return self._segment(decoded)

    async def _in_language_of_call(self, decoded: _Decoded, undecided: UndecidedAudio) -> _Decoded:
        """Wait until the language is decided, if there is room to wait, and decode again if it is another one."""
        if self._vote.locked is not None or self.committed.text:
            return decoded
        with undecided.holding(len(self.utterance.pcm)) as holds:
            if not holds:
                return decoded
            vote = await self._context.decision.vote()
            if vote.language(self._decoder.default_language) == decoded.transcription.language:
                return decoded
            self._vote = vote
            again = await self._decoded(again=True)
        return decoded if again is None or again.transcription.error is not None else again

    async def _decoded(self, *, again: bool = False) -> _Decoded | None:
        """Return the utterance's text, without the words beyond hard cuts; None if there is too little speech.

        `again`: the text before a hard cut is not used, as it may be in another language.
        """
        utterance, committed = self.utterance, self.committed
        if self._given_up is not None:
            return _Decoded(Transcription.failed(self._language, self._given_up))
        if guards.too_short(voiced_s(utterance)) and not committed.text:
            return None
        language: str | LanguageChoice = self._choose_language
        if committed.text and self._vote.locked is not None:
            language = committed.language or self._vote.locked
        elif again:
            language = self._language
        elif self._vote.locked is not None and not self._may_be_in_another_language:
            language = self._vote.locked
        overlap = NO_OVERLAP if again else (await self._context.overlap.get()).at_start_of(utterance)
        from_s = overlap.audio_start_s(utterance)
        row = row_of(
            utterance,
            from_s,
            language=language,
            prefix=overlap.prefix(committed),
            hotwords=self._context.hotwords,
        )
        heard = await hear_whole(row, self._decoder.decode, own=to_ms(own_part(utterance, from_s)))
        if utterance.parts:
            return _Decoded(heard.transcription, self._in_call(heard, 0.0))
        transcription, next_overlap = trim(utterance, overlap, heard.transcription, committed=committed.text)
        self._context.next_overlap.set(next_overlap)
        apart = [Apart(one.text, [_shifted(word, from_s) for word in one.words]) for one in heard.apart]
        return _Decoded(transcription, self._in_call(heard, from_s), apart)

    def _in_call(self, heard: Heard, from_s: float) -> list[tuple[SpanMs, str]]:
        """Return the unheard stretches of a row with their times in the call."""
        if self.utterance.parts:
            times = PackedTimes(self.utterance)
            return [
                (to_ms(times.span_in_call((start / 1000, end / 1000))), reason)
                for (start, end), reason in heard.unheard
            ]
        from_ms = round(from_s * 1000)
        return [((start + from_ms, end + from_ms), reason) for (start, end), reason in heard.unheard]

    def _choose_language(self, detected: Mapping[str, float]) -> str:
        """Count the utterance in the vote. The engine may ask twice: a batch that failed is decoded row by row."""
        self._vote = self._vote_before.counting(detected, voiced_s(self.utterance))
        if self.committed.language:
            return self.committed.language
        return self._vote.spoken(detected, voiced_s(self.utterance), self._decoder.default_language)

    @property
    def _may_be_in_another_language(self) -> bool:
        return self._vote.admits_others and voiced_s(self.utterance) >= OTHER_VOICED_S

    @property
    def _language(self) -> str:
        return self._vote.language(self._decoder.default_language)

    def _segment(self, decoded: _Decoded | None) -> Segment:
        """Return the segment of a text, judged by the guards. A text that they drop is kept aside, without words."""
        utterance, call = self.utterance, self._decoder.call
        verdict = guards.Verdict("short", [])
        if decoded is None:
            transcription = Transcription.failed(self._language, "")
        else:
            self.error = decoded.transcription.error
            transcription = self._with_committed(decoded.transcription)
            verdict = guards.judge(transcription, voiced_s=voiced_s(utterance), shown=bool(self.committed.text))
        dropped = verdict.guard is not None
        times = PackedTimes(utterance)
        words = [] if dropped else times.timed(transcription.words)
        probability = sum(word.probability for word in words) / len(words) if words else 0.0
        return Segment(
            call=call,
            seq=utterance.seq,
            segment_id=str(call.derived_id("segment", utterance.channel, utterance.first_sample)),
            channel=utterance.channel,
            start_s=utterance.start_s,
            end_s=utterance.end_s,
            text="" if dropped else transcription.text,
            words=words,
            voiced=utterance.voiced,
            language=transcription.language or self._language,
            model=self._decoder.model_name,
            word_source=transcription.word_source,
            probability=round(probability, 4),
            no_speech_probability=transcription.no_speech_probability,
            guard=verdict.guard,
            dropped_text=transcription.text if dropped else "",
            flags=[*verdict.flags, *self._language_flags(transcription)],
            parts=times.in_call if utterance.parts else UNSET,
            unheard=self._unheard(decoded, verdict.guard, words) or UNSET,
            apart=[self._apart(one) for one in decoded.apart] if decoded and decoded.apart and not dropped else UNSET,
            crosstalk=utterance.crosstalk or UNSET,
        )

    def _language_flags(self, transcription: Transcription) -> list[str]:
        is_other = self._vote.locked is not None and transcription.language not in ("", self._vote.locked)
        return ["other_language"] if transcription.text and is_other else []

    def _apart(self, found: Apart) -> ApartText:
        call, utterance = self._decoder.call, self.utterance
        begin_ms = round(found.words[0].start_s * 1000)
        segment_id = str(call.derived_id("segment", utterance.channel, utterance.first_sample, "apart", begin_ms))
        return ApartText(segment_id=segment_id, text=found.text, words=found.words)

    def _unheard(self, decoded: _Decoded | None, guard: str | None, words: list[Word]) -> list[Unheard]:
        if decoded is None or (guard is not None and guard not in NO_TEXT_GUARDS):
            return []
        spans = decoded.unheard
        if decoded.transcription.error is not None:
            spans = [(span, "error") for span in coverage(self.utterance.voiced, words).unheard]
        return unheard(self.utterance, spans)

    def _with_committed(self, transcription: Transcription) -> Transcription:
        """Return the committed text alone if the engine failed to continue it: words without measured times."""
        committed, utterance = self.committed, self.utterance
        if transcription.text.startswith(committed.text):
            return transcription
        voiced = voiced_from(utterance, utterance.start_s)
        words = spread_words(committed.text, voiced, utterance.audio_s, spaced=committed.language not in UNSPACED)
        return msgspec.structs.replace(transcription, text=committed.text, words=words, language=committed.language)


def _shifted(word: Word, by_s: float) -> Word:
    return msgspec.structs.replace(word, start_s=round(word.start_s + by_s, 3), end_s=round(word.end_s + by_s, 3))
