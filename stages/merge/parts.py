"""Splits a segment into parts that are ordered each for itself: the utterances of a pack, and text found apart."""

from bisect import bisect_left
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
    if segment.apart:
        yield from _around_apart(segment)
        return
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


def _around_apart(segment: Segment) -> Iterator[SegmentPart]:
    """Yield the segment's own words, and between them, in order of time, each text that was found apart."""
    words = segment.words
    starts_s = [word.start_s for word in words]
    apart = sorted(segment.apart or [], key=lambda one: one.words[0].start_s)
    places = [bisect_left(starts_s, one.words[0].start_s) for one in apart]
    firsts = sorted({0, *(place for place in places if place < len(words))})
    texts = texts_of(segment.text, words, firsts) if words else [segment.text]
    own = msgspec.structs.replace(segment, unheard=UNSET, apart=UNSET)
    made = [
        (
            first,
            1,
            msgspec.structs.replace(
                own, start_s=words[first].start_s if first else segment.start_s, text=text, words=words[first:last]
            ),
        )
        for first, last, text in zip(firsts, [*firsts[1:], len(words)], texts, strict=True)
    ]
    made += [
        (
            place,
            0,
            msgspec.structs.replace(
                own,
                segment_id=one.segment_id,
                start_s=one.words[0].start_s,
                end_s=one.words[-1].end_s,
                text=one.text,
                words=one.words,
            ),
        )
        for place, one in zip(places, apart, strict=True)
    ]
    for place, is_own, part in sorted(made, key=lambda item: item[:2]):
        yield SegmentPart(part, place if is_own else 0)
