"""Splits a segment of several utterances into its parts, so that each can be ordered between other speakers."""

from collections.abc import Iterator
from typing import NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from schemas.segments import Segment
from stages.merge.ordering import texts_of

_ROUNDED_S = 0.001
"""Word times are rounded, the times of parts are not."""


class SegmentPart(NamedTuple):
    """A segment that holds only this part. `first_word` is the index of its first word in the whole segment."""

    segment: Segment
    first_word: int


def parts_of(segment: Segment) -> Iterator[SegmentPart]:
    """Yield the parts that have words, in order. A segment without parts or without words is yielded as it is."""
    places = segment.parts
    if isinstance(places, UnsetType) or not segment.words:
        yield SegmentPart(segment, 0)
        return
    found: dict[int, int] = {}
    place = 0
    for index, word in enumerate(segment.words):
        while place + 1 < len(places) and word.start_s >= places[place + 1][0] - _ROUNDED_S:
            place += 1
        found.setdefault(place, index)
    firsts = list(found.values())
    texts = texts_of(segment.text, segment.words, firsts)
    for place, first, last, text in zip(found, firsts, [*firsts[1:], len(segment.words)], texts, strict=True):
        start_s, end_s = places[place]
        words = segment.words[first:last]
        part = msgspec.structs.replace(segment, start_s=start_s, end_s=end_s, text=text, words=words, parts=UNSET)
        yield SegmentPart(part, first)
