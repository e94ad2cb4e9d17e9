"""Puts the segments of several channels into one order, by the time of the audio.

The segments of a channel arrive in time order, but channels do not wait for each other. `Ordering` holds a segment back
until every other channel has progressed so far that nothing can still belong before or into it. So the pieces and their
order depend on the segments alone, not on the order in which records of different channels arrive.

A segment is cut where another channel's segment starts inside it, at the first word that starts no earlier, so that a
transcript reads in the order in which speakers began. A segment that starts together with the rest of a cut one goes
before it. Segments that start together are in the order of their channels.

Backchannels do not cut: a segment of at most `BACKCHANNEL_WORDS` words and `BACKCHANNEL_S` seconds that ends before the
other speaker has ended ("mhm", "yes, right") follows the piece that it was said into. The duration limit is that of
"very short utterances" in Heldner, Edlund, Hjalmarsson and Laskowski, "Very short utterances and timing in
turn-taking", Interspeech 2011.
"""

import math
from collections import deque
from collections.abc import Sequence
from typing import Final

import msgspec

from schemas.segments import Segment, Word
from stages.text import word_spans

BACKCHANNEL_WORDS: Final = 3
BACKCHANNEL_S: Final = 1.0


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """A run of words of one segment. `first_word` is the index of the first of them in the segment.

    `continues` says that it was cut from the words before it.
    """

    channel: int
    segment_id: str
    first_word: int
    start_s: float
    end_s: float
    text: str
    words: list[Word]
    language: str
    continues: bool = False


class _Placed(msgspec.Struct, frozen=True):
    """A segment with the times that order it: word starts, which never decrease along a channel.

    `first_word` is the index of its first word in the segment of which it is a part.
    """

    segment: Segment
    starts_s: list[float]
    end_s: float
    first_word: int

    @property
    def onset_s(self) -> float:
        return self.starts_s[0]

    def is_backchannel_in(self, other: "_Placed") -> bool:
        return (
            len(self.starts_s) <= BACKCHANNEL_WORDS
            and self.end_s - self.onset_s <= BACKCHANNEL_S
            and self.end_s <= other.end_s
        )


class Ordering:
    """The segments of one call that are not in order yet. `watermarks_s` restores earlier watermarks."""

    def __init__(self, channels: int, watermarks_s: list[float] | None = None) -> None:
        self._watermarks_s = list(watermarks_s) if watermarks_s else [0.0] * channels
        self._uncut: list[deque[_Placed]] = [deque() for _ in range(channels)]
        self._ready: list[deque[Piece]] = [deque() for _ in range(channels)]
        self._cutting: list[deque[_Placed]] = [deque() for _ in range(channels)]

    @property
    def watermarks_s(self) -> list[float]:
        """Watermarks in seconds per channel: no later piece of the channel starts before its watermark."""
        return list(self._watermarks_s)

    def add(self, segment: Segment, first_word: int = 0) -> None:
        """Add a segment with text, or a part of one. A channel's segments must be added in order."""
        channel = segment.channel
        self.advance(channel, segment.start_s)
        starts_s: list[float] = []
        for start_s in [word.start_s for word in segment.words] or [segment.start_s]:
            self.advance(channel, start_s)
            starts_s.append(self._watermarks_s[channel])
        end_s = max([word.end_s for word in segment.words] or [segment.end_s])
        placed = _Placed(segment, starts_s, max(end_s, starts_s[-1]), first_word)
        self._uncut[channel].append(placed)
        self._cutting[channel].append(placed)

    def advance(self, channel: int, to_s: float) -> None:
        """Move a watermark: every segment of `channel` that starts before `to_s` was added."""
        self._watermarks_s[channel] = max(self._watermarks_s[channel], to_s)

    def take(self) -> list[Piece]:
        """Return the next pieces in order, up to the last one that can no longer change."""
        return self._take(self._watermarks_s)

    def drain(self) -> list[Piece]:
        """Return all remaining pieces in order. Call once every channel has ended."""
        pieces = self._take([math.inf] * len(self._watermarks_s))
        for cutting in self._cutting:
            cutting.clear()
        return pieces

    def next_start_s(self, channel: int) -> float:
        """Return the earliest time at which a piece of `channel` that was not taken yet can start."""
        if self._ready[channel]:
            return self._ready[channel][0].start_s
        if self._uncut[channel]:
            return self._uncut[channel][0].onset_s
        return self._watermarks_s[channel]

    def _take(self, watermarks_s: list[float]) -> list[Piece]:
        self._cut(watermarks_s)
        pieces: list[Piece] = []
        while True:
            channel = min(range(len(watermarks_s)), key=lambda index: self._sort_key(index, watermarks_s[index]))
            if not self._ready[channel]:
                break
            pieces.append(self._ready[channel].popleft())
        self._forget()
        return pieces

    def _sort_key(self, channel: int, watermark_s: float) -> tuple[float, bool, int]:
        """Return the sort key of the channel's next piece, or its lower bound if the piece is not known yet."""
        if self._ready[channel]:
            piece = self._ready[channel][0]
            return piece.start_s, piece.continues, channel
        return (self._uncut[channel][0].onset_s if self._uncut[channel] else watermark_s), False, channel

    def _cut(self, watermarks_s: list[float]) -> None:
        """Cut the segments inside which no further segment can start."""
        for channel, waiting in enumerate(self._uncut):
            others = [other for other in range(len(watermarks_s)) if other != channel]
            frontier_s = min((watermarks_s[other] for other in others), default=math.inf)
            while waiting and waiting[0].starts_s[-1] < frontier_s:
                placed = waiting.popleft()
                cuts_s = sorted(
                    inner.onset_s
                    for other in others
                    for inner in self._cutting[other]
                    if placed.onset_s < inner.onset_s <= placed.starts_s[-1] and not inner.is_backchannel_in(placed)
                )
                self._ready[channel].extend(_pieces(placed, cuts_s))

    def _forget(self) -> None:
        """Drop segments that start too early to cut any later one."""
        for channel, cutting in enumerate(self._cutting):
            floor_s = min(
                (self._uncut[other][0].onset_s if self._uncut[other] else self._watermarks_s[other])
                for other in range(len(self._cutting))
                if other != channel or len(self._cutting) == 1
            )
            while cutting and cutting[0].onset_s <= floor_s:
                cutting.popleft()


def _pieces(placed: _Placed, cuts_s: list[float]) -> list[Piece]:
    """Return the pieces before the first cut and from each cut on. Each cut is at or before the start of a word."""
    segment = placed.segment
    if not segment.words:
        return [_piece(placed, 0, 0, segment.text.strip())]
    firsts = [0]
    for cut_s in cuts_s:
        first = next(index for index, start_s in enumerate(placed.starts_s) if start_s >= cut_s)
        if first > firsts[-1]:
            firsts.append(first)
    lasts = [*firsts[1:], len(segment.words)]
    texts = texts_of(segment.text, segment.words, firsts)
    return [_piece(placed, first, last, text) for first, last, text in zip(firsts, lasts, texts, strict=True)]


def _piece(placed: _Placed, first: int, last: int, text: str) -> Piece:
    segment, start_s = placed.segment, placed.starts_s[first]
    words = segment.words[first:last]
    return Piece(
        channel=segment.channel,
        segment_id=segment.segment_id,
        first_word=placed.first_word + first,
        start_s=start_s,
        end_s=max([start_s, *(word.end_s for word in words)] if words else [placed.end_s]),
        text=text,
        words=words,
        language=segment.language,
        continues=first > 0,
    )


def texts_of(text: str, words: Sequence[Word], firsts: Sequence[int]) -> list[str]:
    """Cut the text of `words` before the words with the indexes `firsts`, the first of which is 0.

    The text's own spacing and punctuation are kept, unless a word is not found in it.
    """
    if len(firsts) == 1:
        return [text.strip()]
    spoken = [word.text.strip() for word in words]
    spans = word_spans(text, spoken)
    if spans is None:
        return [" ".join(spoken[first:end]) for first, end in zip(firsts, [*firsts[1:], len(words)], strict=True)]
    starts = [0, *(spans[first][0] for first in firsts[1:])]
    ends = [*starts[1:], len(text)]
    return [text[start:end].strip() for start, end in zip(starts, ends, strict=True)]
