"""Puts the segments of several channels into one order, by the time of the audio.

The segments of a channel arrive in time order, but channels do not wait for each other. `Ordering` holds a segment back
until every other channel has progressed so far that nothing can still belong before or into it. So the pieces and their
order depend on the segments alone, not on the order in which records of different channels arrive.

A segment is cut where another channel's segment starts inside it: at the end of the clause in which that happens, so a
transcript reads in the order in which speakers began and no clause is torn. A clause ends with a sentence or before a
pause of `CLAUSE_PAUSE_S`. A segment that starts together with the rest of a cut one goes before it. Segments that start
together are in the order of their channels.

A segment that is shorter than a clause does not cut the one that it lies in: it follows the piece that it was said
into. The limit of a backchannel's duration is that of "very short utterances" in Heldner, Edlund, Hjalmarsson and
Laskowski, "Very short utterances and timing in turn-taking", Interspeech 2011.
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
BESIDE_WORDS: Final = 5
BESIDE_S: Final = 2.0
"""Less than a clause: words that are said inside another's speech do not take the floor up to these limits."""
CLAUSE_PAUSE_S: Final = 0.5

_SENTENCE_ENDS: Final = ".?!…。？！।؟"
_CLOSING: Final = "\"'”’»)]」』"


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

    @property
    def n_words(self) -> int:
        return len(self.words) or len(self.text.split())

    def is_short(self, most_words: int, most_s: float) -> bool:
        return self.n_words <= most_words and self.end_s - self.start_s <= most_s


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

    def is_beside(self, other: "_Placed") -> bool:
        """Return True if it is said inside `other` and too short to interrupt it."""
        return (
            len(self.starts_s) <= BESIDE_WORDS and self.end_s - self.onset_s <= BESIDE_S and self.end_s <= other.end_s
        )

    def clause_after(self, time_s: float) -> int | None:
        """Return the index of the first word of the clause after that in which `time_s` lies; None if it is the last.

        A time before the start of a clause's first word belongs to the clause before.
        """
        words = self.segment.words
        for index in range(1, len(words)):
            if self.starts_s[index] < time_s:
                continue
            pause_s = words[index].start_s - words[index - 1].end_s
            if pause_s >= CLAUSE_PAUSE_S or ends_sentence(words[index - 1].text):
                return index
        return None


def ends_sentence(text: str) -> bool:
    return text.rstrip(_CLOSING + " ")[-1:] in tuple(_SENTENCE_ENDS)


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
                inners = [
                    inner
                    for other in others
                    for inner in self._cutting[other]
                    if placed.onset_s < inner.onset_s <= placed.starts_s[-1] and not inner.is_beside(placed)
                ]
                cuts = {cut for inner in inners if (cut := placed.clause_after(inner.onset_s)) is not None}
                self._ready[channel].extend(_pieces(placed, sorted(cuts)))

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


def _pieces(placed: _Placed, cuts: Sequence[int]) -> list[Piece]:
    """Return the pieces before the first cut and from each cut on. `cuts`: indexes of words, rising, above 0."""
    segment = placed.segment
    if not segment.words:
        return [_piece(placed, 0, 0, segment.text.strip())]
    firsts = [0, *cuts]
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
