"""Drops the words that a channel only repeats, so that each is heard once and under who said it.

The separate stage says how much of an utterance is on another channel too (`schemas.utterances.Crosstalk`). Of two
channels that carry the same speech the louder one is who speaks; of equally loud ones it is the first. A word of the
other channel is dropped

- if most of its energy is the other channel's (`SURE`), and that channel has the same word at its time, or any word,
  unless it adjoins words of the channel's own: where speakers change, the time of a word may be the other's;
- if less of it is (`PERHAPS`), and that channel has the same words in the same order at their time.

A word without a counterpart stays: nothing is lost where only the copy was understood. Words that a channel says itself
at the same time have little in common with the other one, and stay.

A segment waits here until the other channel's words are known, as far as they may reach into it. So what is dropped
depends on the segments alone, not on the order in which records of different channels arrive.
"""

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from itertools import groupby
from typing import Final, NamedTuple

import msgspec
from msgspec import UNSET

from schemas.segments import Segment, Word
from schemas.utterances import Crosstalk
from stages.crosstalk import EQUAL_DB, SURE, Likeness, entries_of, likeness_of
from stages.merge.ordering import texts_of
from stages.merge.parts import SegmentPart

PERHAPS: Final = 0.15
"""From this coherence on the same words at the same time are a copy. Echoes 40 dB down measured 0.3 to 0.4."""

_LOUDER_DB: Final = 6.0
"""A channel that is louder by this much is nobody's copy."""

_BESIDE_S: Final = 0.15
"""Words at the same time overlap, or lie this close: their times are not exact."""

_AROUND_S: Final = 0.7
"""How far apart the same word may lie on two channels, besides the delay."""

_WAIT_S: Final = 1.1
"""How far beyond a word the other channel must be known: `_AROUND_S`, the longest delay and some more."""

_TOGETHER_S: Final = 0.3
"""A word this close to one that its channel says itself may be its own too: word times are not exact."""

_SAME_SHARE: Final = 0.6
_SAME_RUN: Final = 3


class Attributed(NamedTuple):
    """A segment in parts, and for each word of all parts whether it was dropped."""

    segment: Segment
    parts: Sequence[SegmentPart]
    dropped: list[bool]

    @property
    def n_words(self) -> int:
        """Number of words, the dropped ones included."""
        return len(self.dropped) or len(self.segment.text.split())

    @property
    def n_dropped(self) -> int:
        return sum(self.dropped)

    def kept(self) -> Iterator[SegmentPart]:
        """Yield the runs of words that stay, in order; the parts as they are if all do."""
        at = 0
        for part, first_word in self.parts:
            flags = self.dropped[at : at + len(part.words)]
            at += len(part.words)
            yield from _kept(part, first_word, flags) if any(flags) else [SegmentPart(part, first_word)]

    def voiced(self) -> list[tuple[float, float]]:
        """Return the stretches of speech without those of the dropped words."""
        if not any(self.dropped):
            return self.segment.voiced
        words = [word for part, _ in self.parts for word in part.words]
        runs = [list(run) for _, run in groupby(range(len(words)), key=self.dropped.__getitem__)]
        edges_s = [
            -math.inf,
            *((words[run[0] - 1].end_s + words[run[0]].start_s) / 2 for run in runs[1:]),
            math.inf,
        ]
        return [
            (max(start_s, edges_s[index]), min(end_s, edges_s[index + 1]))
            for index, run in enumerate(runs)
            if not self.dropped[run[0]]
            for start_s, end_s in self.segment.voiced
            if max(start_s, edges_s[index]) < min(end_s, edges_s[index + 1])
        ]


class _Said(NamedTuple):
    """A word with what each other channel has of it."""

    word: Word
    token: str
    alike: dict[int, Likeness]


class _Waiting(NamedTuple):
    """A segment and how far each other channel must be known before its words are attributed."""

    segment: Segment
    parts: Sequence[SegmentPart]
    said: list[_Said]
    until_s: dict[int, float]


class Attribution:
    """The segments of one call whose words are not attributed yet."""

    def __init__(self, channels: int, watermarks_s: Sequence[float] | None = None) -> None:
        self._watermarks_s = list(watermarks_s) if watermarks_s else [0.0] * channels
        self._waiting: list[deque[_Waiting]] = [deque() for _ in range(channels)]
        self._said: list[deque[_Said]] = [deque() for _ in range(channels)]
        """The words of each channel, as long as words of another one may be copies of them."""

    def add(self, segment: Segment, parts: Sequence[SegmentPart]) -> None:
        """Add a segment with text, and the parts that it is made of. A channel's segments must be added in order."""
        channel = segment.channel
        self.advance(channel, segment.start_s)
        others = {other: entries_of(segment, other) for other in range(len(self._waiting)) if other != channel}
        alike = {other: entries for other, entries in others.items() if entries}
        said = [_said(word, alike, own=channel) for part, _ in parts for word in part.words]
        until_s: dict[int, float] = {}
        for other in alike:
            ends_s = [one.word.end_s for one in said if _may_be_copy(one, channel, other)]
            if ends_s:
                until_s[other] = max(ends_s) + _WAIT_S
        self._waiting[channel].append(_Waiting(segment, parts, said, until_s))
        self._said[channel].extend(said)

    def advance(self, channel: int, to_s: float) -> None:
        """Every segment of `channel` that starts before `to_s` was added."""
        self._watermarks_s[channel] = max(self._watermarks_s[channel], to_s)

    def watermark_s(self, channel: int) -> float:
        """Every segment of `channel` that starts before this time was taken."""
        waiting = self._waiting[channel]
        return min(self._watermarks_s[channel], waiting[0].segment.start_s) if waiting else self._watermarks_s[channel]

    def take(self) -> list[Attributed]:
        """Return the segments whose words can be attributed, in the order of each channel."""
        taken = self._take(self._watermarks_s)
        self._forget()
        return taken

    def drain(self) -> list[Attributed]:
        """Return all remaining segments. Call once every channel has ended."""
        taken = self._take([math.inf] * len(self._waiting))
        for said in self._said:
            said.clear()
        return taken

    def _take(self, watermarks_s: Sequence[float]) -> list[Attributed]:
        taken: list[Attributed] = []
        for waiting in self._waiting:
            while waiting and all(watermarks_s[other] >= to_s for other, to_s in waiting[0].until_s.items()):
                segment, parts, said, until_s = waiting.popleft()
                dropped = [False] * len(said)
                for other in until_s:
                    for index in _copies(said, self._said[other], own=segment.channel, other=other):
                        dropped[index] = True
                taken.append(Attributed(segment, parts, dropped))
        return taken

    def _forget(self) -> None:
        for channel, said in enumerate(self._said):
            others = [self.watermark_s(other) for other in range(len(self._said)) if other != channel]
            floor_s = min(others, default=math.inf) - _WAIT_S
            while said and said[0].word.end_s < floor_s:
                said.popleft()


def _said(word: Word, alike: Mapping[int, list[Crosstalk]], *, own: int) -> _Said:
    found = {other: likeness_of(word, entries, own=own) for other, entries in alike.items()}
    token = "".join(letter for letter in word.text.casefold() if letter.isalnum())
    return _Said(word, token, {other: one for other, one in found.items() if one is not None})


def _may_be_copy(said: _Said, own: int, other: int) -> bool:
    """Return whether the word may be the other channel's, by the coherence and the levels."""
    alike = said.alike.get(other)
    if alike is None or alike.coherence < PERHAPS:
        return False
    return alike.level_db <= -EQUAL_DB if own < other else alike.level_db < _LOUDER_DB


def _copies(said: Sequence[_Said], others: Sequence[_Said], *, own: int, other: int) -> Iterator[int]:
    """Yield the indexes of the words that are the other channel's.

    Of a word and its copy one stays: the second channel's stays beside what may be a copy in the first.
    """
    for may, indexes in groupby(range(len(said)), key=lambda index: _may_be_copy(said[index], own, other)):
        if may:
            run = list(indexes)
            near = _near(said[run[0]], said[run[-1]], others, other)
            beyond = [said[index] for index in (run[0] - 1, run[-1] + 1) if 0 <= index < len(said)]
            yield from _copies_in(said, run, near, beyond, own=own, other=other)


def _near(first: _Said, last: _Said, others: Sequence[_Said], other: int) -> list[_Said]:
    start_s = first.word.start_s - first.alike[other].delay_s - _AROUND_S
    end_s = last.word.end_s - last.alike[other].delay_s + _AROUND_S
    return [one for one in others if one.word.end_s > start_s and one.word.start_s < end_s]


def _copies_in(
    said: Sequence[_Said], run: Sequence[int], near: Sequence[_Said], beyond: Sequence[_Said], *, own: int, other: int
) -> Iterator[int]:
    """Yield the indexes of copies in the `run`, of words `near` it. The channel's own words go on `beyond` it."""
    theirs = [one for one in near if not _may_be_copy(one, other, own)]
    contested = [one for one in near if _may_be_copy(one, other, own)]
    originals = theirs if own > other else near
    matcher = SequenceMatcher(None, [said[at].token for at in run], [one.token for one in originals], autojunk=False)
    blocks = [block for block in matcher.get_matching_blocks() if block.size]
    same = {run[block.a + at]: block.size for block in blocks for at in range(block.size)}
    mostly_same = len(same) >= _SAME_SHARE * len(run)
    for index in run:
        one = said[index]
        alike = one.alike[other]
        beside = [their for their in contested if _beside(one, alike.delay_s, their)]
        if index in same:
            twin = own > other and any(their.token == one.token for their in beside)
            if not twin and (alike.coherence >= SURE or mostly_same or same[index] >= _SAME_RUN):
                yield index
            continue
        is_own = any(_gap_s(one, word) < _TOGETHER_S for word in beyond)
        misheard = alike.coherence >= SURE or (mostly_same and alike.level_db <= -_LOUDER_DB)
        if misheard and not is_own and not beside and any(_beside(one, alike.delay_s, their) for their in theirs):
            yield index


def _gap_s(one: _Said, other: _Said) -> float:
    return max(one.word.start_s - other.word.end_s, other.word.start_s - one.word.end_s)


def _beside(one: _Said, delay_s: float, other: _Said) -> bool:
    start_s, end_s = one.word.start_s - delay_s, one.word.end_s - delay_s
    return other.word.start_s - _BESIDE_S <= end_s and start_s <= other.word.end_s + _BESIDE_S


def _kept(part: Segment, first_word: int, dropped: Sequence[bool]) -> Iterator[SegmentPart]:
    runs = [list(run) for _, run in groupby(range(len(dropped)), key=dropped.__getitem__)]
    texts = texts_of(part.text, part.words, [run[0] for run in runs])
    for run, text in zip(runs, texts, strict=True):
        if not dropped[run[0]]:
            words = part.words[run[0] : run[-1] + 1]
            kept = msgspec.structs.replace(
                part, start_s=words[0].start_s, end_s=words[-1].end_s, text=text, words=words, parts=UNSET
            )
            yield SegmentPart(kept, first_word + run[0])
