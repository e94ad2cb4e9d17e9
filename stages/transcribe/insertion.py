"""Words put into a transcription, between or in place of others."""

import re
from collections.abc import Sequence
from typing import Final

import msgspec

from schemas.segments import Word
from stages.text import word_spans
from stages.transcribe.engine.protocol import Row, Transcription
from stages.transcribe.engine.words import UNSPACED

_MOST_REPEATED: Final = 4
"""So many words at the edge of a hearing are compared with those beside the stretch."""


def replaced(transcription: Transcription, first: int, last: int, text: str, words: Sequence[Word]) -> Transcription:
    """Return the transcription with other words, and their text, in place of `words[first:last]`."""
    known = transcription.words
    spans = word_spans(transcription.text, [word.text for word in known])
    parts = [
        text_of(transcription.text, spans, known, 0, first),
        text,
        text_of(transcription.text, spans, known, last, len(known)),
    ]
    separator = "" if transcription.language in UNSPACED else " "
    return msgspec.structs.replace(
        transcription,
        text=separator.join(part for part in parts if part),
        words=_in_order(known[:first], words, known[last:]),
    )


def _in_order(before: Sequence[Word], words: Sequence[Word], after: Sequence[Word]) -> list[Word]:
    """Join words; those around are clipped where the new ones lie inside their measured time."""
    floor_s = before[-1].start_s if before else 0.0
    ceiling_s = after[0].end_s if after else words[-1].end_s
    placed = []
    for word in words:
        start_s = min(max(word.start_s, floor_s), ceiling_s)
        floor_s = max(start_s, min(word.end_s, ceiling_s))
        placed.append(msgspec.structs.replace(word, start_s=start_s, end_s=floor_s))
    joined = [*before, *placed, *after]
    if before:
        end_s = min(before[-1].end_s, placed[0].start_s)
        joined[len(before) - 1] = msgspec.structs.replace(before[-1], end_s=max(before[-1].start_s, end_s))
    if after:
        joined[-len(after)] = msgspec.structs.replace(after[0], start_s=max(after[0].start_s, placed[-1].end_s))
    return joined


def text_of(text: str, spans: list[tuple[int, int]] | None, words: Sequence[Word], begin: int, end: int) -> str:
    """Return the text of `words[begin:end]` with its punctuation. `spans`: where the words are, None if unknown."""
    if begin >= end:
        return ""
    if spans is None:
        return " ".join(word.text for word in words[begin:end])
    start = spans[begin][0] if begin else 0
    return text[start : spans[end][0] if end < len(spans) else len(text)].strip()


def fixed_words(row: Row, transcription: Transcription) -> int:
    """Return how many words are the prefix, which does not change."""
    if not row.prefix or not transcription.text.startswith(row.prefix):
        return 0
    spans = word_spans(transcription.text, [word.text for word in transcription.words])
    return len(transcription.words) if spans is None else sum(start < len(row.prefix) for start, _ in spans)


def common(before: Sequence[Word], after: Sequence[Word]) -> int:
    """Return how many words end `before` and begin `after`."""
    for count in range(min(_MOST_REPEATED, len(before), len(after)), 0, -1):
        if [bare(word) for word in before[-count:]] == [bare(word) for word in after[:count]]:
            return count
    return 0


def bare(word: Word) -> str:
    return re.sub(r"\W", "", word.text.casefold())
