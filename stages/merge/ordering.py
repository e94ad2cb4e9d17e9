"""Puts what was said on several channels into one order, by the audio's own time.

A channel's segments arrive in time order, but channels do not wait for each other. `Ordering` holds a segment back
until every other channel has been heard far enough that nothing can still belong before or into it. So the pieces
and their order depend on the segments alone, not on which channel's record came first.

A segment is cut where another channel's segment starts inside it, at the first word that starts no earlier, so that
a transcript reads in the order of who began to speak when. Who begins together with the rest of a cut segment goes
before it; speakers who begin together are in the order of their channels.

Backchannels do not cut: a segment of at most `BACKCHANNEL_WORDS` words and `BACKCHANNEL_S` seconds that ends before
the other speaker has ended ("mhm", "yes, right") stays behind the piece that it was said into. The duration limit is
that of "very short utterances" in Heldner, Edlund, Hjalmarsson and Laskowski, "Very short utterances and timing in
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
    """A run of words of one segment. `first_word` is the index in the segment of the first of them.

    `continues`: it was cut from the words before it.
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
    """A segment with the times by which it is ordered: word starts that never decrease along the channel.

    `first_word` is the index of its first word in the segment that it is a part of.
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
    """The segments of one call that are not in order yet. `heard_s` are earlier watermarks, in seconds per channel."""

    def __init__(self, channels: int, heard_s: list[float] | None = None) -> None:
        self._heard_s = list(heard_s) if heard_s else [0.0] * channels
        self._uncut: list[deque[_Placed]] = [deque() for _ in range(channels)]
        self._ready: list[deque[Piece]] = [deque() for _ in range(channels)]
        self._begun: list[deque[_Placed]] = [deque() for _ in range(channels)]

    @property
    def heard_s(self) -> list[float]:
        """Per channel: no later piece of it starts before this time."""
        return list(self._heard_s)

    def add(self, segment: Segment, first_word: int = 0) -> None:
        """A segment with text, or a part of one. Those of a channel must be added in the channel's order."""
        channel = segment.channel
        self.heard(channel, segment.start_s)
        starts_s: list[float] = []
        for start_s in [word.start_s for word in segment.words] or [segment.start_s]:
            self.heard(channel, start_s)
            starts_s.append(self._heard_s[channel])
        end_s = max([word.end_s for word in segment.words] or [segment.end_s])
        placed = _Placed(segment, starts_s, max(end_s, starts_s[-1]), first_word)
        self._uncut[channel].append(placed)
        self._begun[channel].append(placed)

    def heard(self, channel: int, to_s: float) -> None:
        """Every segment of `channel` that starts before `to_s` has been added."""
        self._heard_s[channel] = max(self._heard_s[channel], to_s)

    def take(self) -> list[Piece]:
        """The next pieces in order, as far as they can no longer change."""
        return self._take(self._heard_s)

    def drain(self) -> list[Piece]:
        """All remaining pieces in order: every channel has ended."""
        pieces = self._take([math.inf] * len(self._heard_s))
        for begun in self._begun:
            begun.clear()
        return pieces

    def next_start_s(self, channel: int) -> float:
        """No piece of `channel` that is still to be taken starts before this time."""
        if self._ready[channel]:
            return self._ready[channel][0].start_s
        if self._uncut[channel]:
            return self._uncut[channel][0].onset_s
        return self._heard_s[channel]

    def _take(self, heard_s: list[float]) -> list[Piece]:
        self._cut(heard_s)
        pieces: list[Piece] = []
        while True:
            channel = min(range(len(heard_s)), key=lambda index: self._place(index, heard_s[index]))
            if not self._ready[channel]:
                break
            pieces.append(self._ready[channel].popleft())
        self._forget()
        return pieces

    def _place(self, channel: int, heard_s: float) -> tuple[float, bool, int]:
        """By what the channel's next piece is ordered; where it is not known yet, the least that it can be."""
        if self._ready[channel]:
            piece = self._ready[channel][0]
            return piece.start_s, piece.continues, channel
        return (self._uncut[channel][0].onset_s if self._uncut[channel] else heard_s), False, channel

    def _cut(self, heard_s: list[float]) -> None:
        """Cut the segments into which nothing more can start."""
        for channel, waiting in enumerate(self._uncut):
            others = [other for other in range(len(heard_s)) if other != channel]
            frontier_s = min((heard_s[other] for other in others), default=math.inf)
            while waiting and waiting[0].starts_s[-1] < frontier_s:
                placed = waiting.popleft()
                cuts_s = sorted(
                    inner.onset_s
                    for other in others
                    for inner in self._begun[other]
                    if placed.onset_s < inner.onset_s <= placed.starts_s[-1] and not inner.is_backchannel_in(placed)
                )
                self._ready[channel].extend(_pieces(placed, cuts_s))

    def _forget(self) -> None:
        """Drop segments that start too early to cut anything that is still to come."""
        for channel, begun in enumerate(self._begun):
            floor_s = min(
                (self._uncut[other][0].onset_s if self._uncut[other] else self._heard_s[other])
                for other in range(len(self._begun))
                if other != channel or len(self._begun) == 1
            )
            while begun and begun[0].onset_s <= floor_s:
                begun.popleft()


def _pieces(placed: _Placed, cuts_s: list[float]) -> list[Piece]:
    """The segment's pieces: before the first cut, and from each cut on. A cut is at or before some word's start."""
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
    """The text of `words` cut before those in `firsts`, the first 0, so that its own spacing and punctuation stay."""
    if len(firsts) == 1:
        return [text.strip()]
    spoken = [word.text.strip() for word in words]
    spans = word_spans(text, spoken)
    if spans is None:
        return [" ".join(spoken[first:end]) for first, end in zip(firsts, [*firsts[1:], len(words)], strict=True)]
    starts = [0, *(spans[first][0] for first in firsts[1:])]
    ends = [*starts[1:], len(text)]
    return [text[start:end].strip() for start, end in zip(starts, ends, strict=True)]
