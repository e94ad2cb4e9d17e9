"""Word times: a start and an end for every word, from what an aligner measured."""

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from schemas.segments import Word

_OPENING: Final = "\"'“¿([{-"
_CLOSING: Final = "\"'.。,，!！?？:：”)]}、"
"""Punctuation that belongs to the word after it (`_OPENING`) or before it, as in Whisper's own word timestamps."""

UNSPACED: Final = frozenset({"zh", "ja", "th", "lo", "my", "yue"})
"""Languages without spaces between words. In them each character that the tokenizer can tell apart counts as a word."""

_ROOM_S: Final = 0.01
"""A shorter word was given no room by the aligner: Whisper's frames are 0.02 s."""

Span = tuple[float, float]


class MeasuredWord(msgspec.Struct, frozen=True, kw_only=True):
    """A word with the times of an aligner, in seconds from the audio's start. `text` keeps its leading space.

    `interpolated`: the aligner did not find the word itself, only where it must be.
    """

    text: str
    start_s: float
    end_s: float
    probability: float
    interpolated: bool = False


def timed_words(
    measured: Sequence[MeasuredWord], voiced: Sequence[Span], audio_s: float, *, spaced: bool = True
) -> list[Word]:
    """Return every word with a time inside [0, audio_s], in rising order.

    Args:
        voiced: the stretches of detected speech. Words are clipped to them, so a pause before a word is no part of it.
        spaced: the language puts spaces between words.

    Words without room share that of the next word (the last ones: of the word before) in proportion to their letters.
    All words that share are marked `interpolated`.
    """
    words = list(_whole_words(measured, spaced))
    spans: list[Span | None] = []
    floor = 0.0
    for word in words:
        start, end = _clipped((max(word.start_s, floor), min(word.end_s, audio_s)), voiced)
        spans.append((start, end) if end - start >= _ROOM_S else None)
        floor = max(floor, end)
    whole = (voiced[0][0], min(voiced[-1][1], audio_s)) if voiced else (0.0, audio_s)
    timed: list[Word] = []
    for first, last, span in _groups(spans, whole):
        group = words[first:last]
        edges = _edges(span, [len(word.text.strip()) for word in group])
        timed.extend(
            Word(
                text=word.text.strip(),
                start_s=round(start, 3),
                end_s=round(end, 3),
                probability=round(min(1.0, max(0.0, word.probability)), 4),
                interpolated=word.interpolated or len(group) > 1,
            )
            for word, start, end in zip(group, edges, edges[1:], strict=False)
        )
    return timed


def spread_words(text: str, voiced: Sequence[Span], audio_s: float, *, spaced: bool) -> list[Word]:
    """Return the words of a text without measured times, spread over the speech and marked `interpolated`."""
    texts = [f" {word}" for word in text.split()] if spaced else list(text)
    unmeasured = [MeasuredWord(text=word, start_s=0.0, end_s=0.0, probability=0.0) for word in texts]
    words = timed_words(unmeasured, voiced, audio_s, spaced=spaced)
    return [msgspec.structs.replace(word, interpolated=True) for word in words]


def _whole_words(measured: Sequence[MeasuredWord], spaced: bool) -> Iterator[MeasuredWord]:
    """Yield words joined with what belongs to them.

    That is punctuation, whose time and probability do not count because nobody speaks it, and, in spaced languages,
    whatever follows without a space (`high` and `-end`, `3` and `.5`).
    """
    opening = ""
    pending: MeasuredWord | None = None
    for word in measured:
        bare = word.text.strip()
        if not bare:
            continue
        joins = word.text in _CLOSING or (spaced and not word.text.startswith(" "))
        if bare in _OPENING and word.text.startswith(" "):
            opening += word.text
        elif pending is not None and not opening and joins:
            pending = _joined(pending, word)
        else:
            if pending is not None:
                yield pending
            pending, opening = msgspec.structs.replace(word, text=opening + bare if opening else word.text), ""
    if pending is not None:
        yield msgspec.structs.replace(pending, text=pending.text + opening)


def _joined(word: MeasuredWord, more: MeasuredWord) -> MeasuredWord:
    if not any(letter.isalnum() for letter in more.text):
        return msgspec.structs.replace(word, text=word.text + more.text)
    return MeasuredWord(
        text=word.text + more.text,
        start_s=word.start_s,
        end_s=more.end_s,
        probability=min(word.probability, more.probability),
        interpolated=word.interpolated or more.interpolated,
    )


def _clipped(span: Span, voiced: Sequence[Span]) -> Span:
    """Return the part of `span` from the first to the last speech in it; `span` itself if it meets no speech."""
    start, end = span
    overlaps = [(max(start, begin), min(end, stop)) for begin, stop in voiced]
    met = [(begin, stop) for begin, stop in overlaps if stop - begin > _ROOM_S]
    return (met[0][0], met[-1][1]) if met else span


def _groups(spans: Sequence[Span | None], whole: Span) -> list[tuple[int, int, Span]]:
    """Return (first, end, span) of the words that share a span: those without room and the next one that has some."""
    groups: list[tuple[int, int, Span]] = []
    first = 0
    for index, span in enumerate(spans):
        if span is not None:
            groups.append((first, index + 1, span))
            first = index + 1
    if first < len(spans):
        if groups:
            start, _, span = groups.pop()
            groups.append((start, len(spans), span))
        else:
            groups.append((0, len(spans), whole))
    return groups


def _edges(span: Span, letters: Sequence[int]) -> list[float]:
    start, end = span
    edges, total, passed = [start], sum(letters), 0
    for count in letters:
        passed += count
        edges.append(start + (end - start) * passed / total)
    return edges
