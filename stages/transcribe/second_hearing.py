"""A second hearing of the speech in a row that its first text does not account for.

The decoder may leave speech out and continue as if nothing had been said: the end of a row (seen with Whisper base in
speech without pauses: text for the first 1 to 5 s of 10 to 14 s, with a good probability), the first utterance of a
pack, a spelled name in its middle. `coverage` shows where. Each such stretch is cut out and decoded as a row of its
own, in the full window; if that gives nothing, together with the words around it, of which the decoder is told those
before. What it then writes is put between the words before and after it.

All depends on the row alone, so a replay hears the same.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec

from schemas.segments import Word
from stages.text import word_spans
from stages.transcribe import guards
from stages.transcribe.coverage import (
    MIN_UNHEARD_MS,
    REACH_MS,
    SpanMs,
    clipped,
    coverage,
    is_stretched,
    length_ms,
    longest_ms,
    stretches,
    to_ms,
    without,
)
from stages.transcribe.engine.protocol import Row, Transcription
from stages.transcribe.engine.windows import SAMPLE_RATE_HZ
from stages.transcribe.insertion import bare, common, fixed_words, replaced, text_of

MAX_ROWS: Final = 4
"""The most rows that are decoded for one row: each costs up to a window of 30 s."""

_PAD_MS: Final = 200
"""Silence before and after a stretch that is cut out. Between two stretches each takes half at most."""
_CONTEXT_MS: Final = 2_500
"""How much speech before a stretch the decoder is told in the second attempt, at most; in whole words."""
_JOINED_MS: Final = 1_500
"""Stretches with no word between them and no longer pause are heard as one: letters of a name are spoken apart."""
_MOST_JOINED_MS: Final = 14_000
_CONTEXT_FROM_MS: Final = 2_000
"""A shorter stretch is tried once: on a real call the words around it gave none that could be believed."""
_MIN_LOGPROB: Final = -0.65
_MAX_NO_SPEECH: Final = 0.5
"""Doubts that keep out words which the first hearing did not find. On a real call spelled letters came at -0.43 and
-0.44, "That's my line." for such letters at -0.77, "I'm sorry." for a name at -0.90, "Thank you." for a breath at -0.66
with a no-speech probability of 0.68."""
_REST_MS: Final = 1_000
"""What a hearing leaves of its stretch, as the first one did, is heard again if it is at least so long."""
_MEASURED_MS: Final = 20

Decode = Callable[[Row], Awaitable[Transcription]]


class Apart(msgspec.Struct, frozen=True):
    """Words found inside the prefix of a row, and their text."""

    text: str
    words: list[Word]


class Heard(msgspec.Struct, frozen=True):
    """The text of a row. `unheard`: the stretches that no word accounts for, in milliseconds from the row's start, and
    why (see `schemas.segments.Unheard`). `apart`: what was found inside its prefix, which does not change. `rows`: how
    many rows were decoded for a second hearing.
    """

    transcription: Transcription
    unheard: list[tuple[SpanMs, str]] = []
    apart: list[Apart] = []
    rows: int = 0


class _Region(msgspec.Struct, frozen=True):
    """A stretch to hear again. What is found replaces `words[first:last]`: none, or a word measured over it."""

    span: SpanMs
    first: int
    last: int


async def hear_whole(row: Row, decode: Decode, *, own: SpanMs | None = None) -> Heard:
    """Decode a row, and once more what its text does not account for.

    `own`: the part of the row that counts; the text of what lies outside belongs to a neighbour.
    """
    transcription = await decode(row)
    own = own or (0, _audio_ms(row))
    guard = guards.judge(transcription, voiced_s=_voiced_s(row, own)).guard
    if guard is not None and guard != "no_words":
        return Heard(transcription, [(span, guard) for span in _left_of(row, transcription.words, own)])
    silent: list[tuple[SpanMs, str]] = []
    apart: list[Apart] = []
    laid: Sequence[Word] = transcription.words
    rows = 0
    while (region := _next_region(row, transcription, laid, own, [span for span, _ in silent])) is not None:
        known = region.first < fixed_words(row, transcription)
        twice = not known and length_ms([region.span]) >= _CONTEXT_FROM_MS
        reason = ""
        for attempt in (_alone, _with_context)[: 2 if twice else 1]:
            if rows == MAX_ROWS:
                reason = reason or "limit"
                break
            rows += 1
            hearing = attempt(row, transcription, region)
            found = hearing.found(await decode(hearing.row))
            if isinstance(found, str):
                reason = found if reason in ("", "no_words") else reason
                continue
            if known:
                apart.append(found.apart())
            else:
                transcription = found.placed()
            laid = sorted([*transcription.words, *(word for one in apart for word in one.words)], key=_start_s)
            left = clipped(_left_of(row, laid, own), region.span)
            silent += [(span, "no_words") for span in left if span[1] - span[0] < _REST_MS]
            reason = ""
            break
        if reason:
            silent.append((region.span, reason))
    unheard = [(span, _reason(span, silent)) for span in _left_of(row, laid, own)]
    return Heard(transcription, unheard, apart, rows)


def _left_of(row: Row, words: Sequence[Word], own: SpanMs) -> list[SpanMs]:
    left = clipped(coverage(row.voiced, words).unheard, own)
    return [span for span in left if span[1] - span[0] >= MIN_UNHEARD_MS]


def _reason(span: SpanMs, tried: Sequence[tuple[SpanMs, str]]) -> str:
    """Return the reason of the attempt that has the most of the stretch in it."""
    shared: dict[str, int] = {}
    for one, reason in tried:
        shared[reason] = shared.get(reason, 0) + length_ms(clipped([one], span))
    return max(shared, key=shared.__getitem__, default="no_words")


class _Hearing(msgspec.Struct, frozen=True):
    """A row cut out of another one for a region of it. `from_ms`: where it begins in the whole row."""

    whole: Row
    text: Transcription
    region: _Region
    from_ms: int
    row: Row

    def found(self, heard: Transcription) -> "_Found | str":
        """Return the words that were heard in the region; if there are none, the reason."""
        if heard.error is not None:
            return "error"
        if not heard.words:
            return "no_words"
        verdict = guards.judge(heard, voiced_s=_voiced_s(self.whole, self.region.span))
        if verdict.guard is not None or "repeat" in verdict.flags:
            return verdict.guard or "repeat"
        if heard.no_speech_probability > _MAX_NO_SPEECH:
            return "no_speech"
        if heard.average_logprob < _MIN_LOGPROB:
            return "low_probability"
        words = [_shifted(word, self.from_ms) for word in heard.words]
        kept = [index for index, word in enumerate(words) if _middle_in(word, self.region.span)]
        if not kept:
            return "no_words"
        if 3 * sum(is_stretched(words[index]) for index in kept) >= len(kept):
            return "no_words"  # the decoder did not find the words where they should be
        return _Found(self, heard, words, kept[0], kept[-1] + 1).without_repeats() or "no_words"


class _Found(msgspec.Struct, frozen=True):
    """Words `begin` to `end` of a hearing, with their times in the whole row, for the region they were heard in.

    `first`, `last`: the known words that they replace.
    """

    hearing: _Hearing
    heard: Transcription
    words: list[Word]
    begin: int
    end: int
    first: int = -1
    last: int = -1

    def without_repeats(self) -> "_Found | None":
        """Return the words without those that are known from beside the region; None if none are left."""
        whole, region = self.hearing.text, self.hearing.region
        known, fixed = whole.words, fixed_words(self.hearing.whole, whole)
        begin, end, first, last = self.begin, self.end, region.first, region.last
        if first < fixed:
            first = last
        elif first < last and all(bare(word) != bare(known[first]) for word in self.words[begin:end]):
            # The word measured over the region was not heard there again, so it stays: at the end of its time if that
            # is beyond the region, else at the beginning.
            if to_ms((0.0, known[first].end_s))[1] - region.span[1] <= _MEASURED_MS:
                from_ms = to_ms((known[first].start_s, 0.0))[0] + longest_ms(known[first].text)
                first = last
                while begin < end and _middle_ms(self.words[begin]) < from_ms:
                    begin += 1
            else:
                last = first
        repeated = common(known[:first], self.words[begin:end])
        if repeated:
            elsewhere = _is_elsewhere(self.hearing, first - repeated, first)
            if elsewhere and first - repeated >= fixed:
                first -= repeated
            elif elsewhere or not _after_a_pause(self.hearing.whole, region.span):
                begin += repeated
        repeated = common(self.words[begin:end], known[last:])
        if repeated:
            elsewhere = _is_elsewhere(self.hearing, last, last + repeated)
            if elsewhere and last >= fixed:
                last += repeated
            elif elsewhere or not _before_a_pause(self.hearing.whole, region.span):
                end -= repeated
        if begin >= end:
            return None
        return msgspec.structs.replace(self, begin=begin, end=end, first=first, last=last)

    def placed(self) -> Transcription:
        """Return the whole text with the words in the region."""
        whole, heard = self.hearing.text, self.heard
        found = replaced(whole, self.first, self.last, self._text(), self.words[self.begin : self.end])
        n_new = self.end - self.begin
        n_known = len(found.words) - n_new
        logprob = (whole.average_logprob * n_known + heard.average_logprob * n_new) / (n_known + n_new)
        no_speech = whole.no_speech_probability if n_known else heard.no_speech_probability
        return msgspec.structs.replace(found, average_logprob=round(logprob, 4), no_speech_probability=no_speech)

    def apart(self) -> Apart:
        return Apart(self._text(), self.words[self.begin : self.end])

    def _text(self) -> str:
        spans = word_spans(self.heard.text, [word.text for word in self.heard.words])
        return text_of(self.heard.text, spans, self.words, self.begin, self.end)


def _is_elsewhere(hearing: _Hearing, first: int, last: int) -> bool:
    """Return whether the speech outside the region is accounted for without the words: they were said in the region."""
    known, region = hearing.text.words, hearing.region
    rest = without(stretches(hearing.whole.voiced), [region.span])
    voiced = [(start / 1000, end / 1000) for start, end in rest]
    before = length_ms(coverage(voiced, known).unheard)
    return length_ms(coverage(voiced, [*known[:first], *known[last:]]).unheard) == before


def _next_region(
    row: Row, transcription: Transcription, laid: Sequence[Word], own: SpanMs, tried: list[SpanMs]
) -> _Region | None:
    """Return the longest stretch that no word accounts for, the first of equals. Neighbours are joined."""
    words = transcription.words
    found = without(_left_of(row, laid, own), tried)
    found = [span for span in found if span[1] - span[0] >= MIN_UNHEARD_MS]
    if not found:
        return None
    starts = [to_ms((word.start_s, 0.0))[0] for word in words]
    span = max(_joined(found, starts), key=lambda one: (one[1] - one[0], -one[0]))
    at = sum(start < span[0] for start in starts)
    if at and is_stretched(words[at - 1]) and to_ms((0.0, words[at - 1].end_s))[1] > span[0]:
        return _Region((to_ms((words[at - 1].start_s, 0.0))[0], span[1]), at - 1, at)
    return _Region(span, at, at)


def _joined(spans: Sequence[SpanMs], starts: Sequence[int]) -> list[SpanMs]:
    """Join stretches between which no word starts, up to what fits into a row."""
    joined = list(spans[:1])
    for start, end in spans[1:]:
        first, last = joined[-1]
        near = start - last <= _JOINED_MS and end - first <= _MOST_JOINED_MS
        if near and not any(last <= word < start for word in starts):
            joined[-1] = (first, end)
        else:
            joined.append((start, end))
    return joined


def _alone(row: Row, transcription: Transcription, region: _Region) -> _Hearing:
    """Cut the region out, from pause to pause or from word to word."""
    start, end = region.span
    pauses = without([(0, _audio_ms(row))], stretches(row.voiced))
    before = next((span for span in pauses if span[1] == start), None)
    after = next((span for span in pauses if span[0] == end), None)
    start -= min(_PAD_MS, (before[1] - before[0]) // 2) if before else REACH_MS if region.first == region.last else 0
    end += min(_PAD_MS, (after[1] - after[0]) // 2) if after else REACH_MS
    return _cut(row, transcription, region, (start, end), prefix="")


def _with_context(row: Row, transcription: Transcription, region: _Region) -> _Hearing:
    """Cut the region out with the words before it, which are the beginning of the text, and some speech after it."""
    words, first = transcription.words, region.first
    begin = first
    while begin and region.span[0] - to_ms((words[begin - 1].start_s, 0.0))[0] <= _CONTEXT_MS:
        begin -= 1
    spans = word_spans(transcription.text, [word.text for word in words])
    prefix = text_of(transcription.text, spans, words, begin, first) if begin < first else ""
    start = to_ms((words[begin].start_s, 0.0))[0] if begin < first else region.span[0] - _CONTEXT_MS
    end = region.span[1]
    for word in words[region.last :]:
        word_end = to_ms((0.0, word.end_s))[1]
        if word_end - region.span[1] > _CONTEXT_MS:
            break
        end = word_end
    return _cut(row, transcription, region, (start, max(end, region.span[1] + _PAD_MS)), prefix=prefix)


def _cut(row: Row, transcription: Transcription, region: _Region, span: SpanMs, *, prefix: str) -> _Hearing:
    start, end = max(0, span[0]), min(_audio_ms(row), span[1])
    first, last = (round(at / 1000 * SAMPLE_RATE_HZ) for at in (start, end))
    voiced = [((a - start) / 1000, (b - start) / 1000) for a, b in clipped(stretches(row.voiced), (start, end))]
    cut = msgspec.structs.replace(
        row,
        audio=row.audio[first:last],
        voiced=voiced,
        language=transcription.language,
        prefix=prefix,
        full_window=True,
    )
    return _Hearing(row, transcription, region, start, cut)


def _after_a_pause(row: Row, span: SpanMs) -> bool:
    return any(start == span[0] for start, _ in stretches(row.voiced))


def _before_a_pause(row: Row, span: SpanMs) -> bool:
    return any(end == span[1] for _, end in stretches(row.voiced))


def _start_s(word: Word) -> float:
    return word.start_s


def _middle_ms(word: Word) -> int:
    return round((word.start_s + word.end_s) * 500)


def _middle_in(word: Word, span: SpanMs) -> bool:
    return span[0] - REACH_MS < _middle_ms(word) < span[1] + REACH_MS


def _shifted(word: Word, by_ms: int) -> Word:
    by_s = by_ms / 1000
    return msgspec.structs.replace(word, start_s=round(word.start_s + by_s, 3), end_s=round(word.end_s + by_s, 3))


def _voiced_s(row: Row, span: SpanMs) -> float:
    return length_ms(clipped(stretches(row.voiced), span)) / 1000


def _audio_ms(row: Row) -> int:
    return round(len(row.audio) / SAMPLE_RATE_HZ * 1000)
