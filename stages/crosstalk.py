"""What a segment's crosstalk says of its words, and whether all channels of a call carry the same audio."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec
from msgspec import UnsetType

from schemas.segments import Segment, Word
from schemas.utterances import Crosstalk

SURE: Final = 0.6
"""At this coherence most of a channel's energy is the other channel's. Two voices at once stay below it."""

EQUAL_DB: Final = 2.0
"""Copies whose levels differ by less are equally loud."""

_WORD_S: Final = 0.5
_MIN_STEP_S: Final = 0.01
_MAX_S: Final = 1e7

_REACH_S: Final = 0.3
"""The longest delay between channels (see `stages.separate.crosstalk`)."""

SHARED_S: Final = 10.0
"""A call is one channel after this much shared speech."""

_ALONE_S: Final = 2.0
_ALONE_SHARE: Final = 0.02
_STEADY_DB: Final = 3
_STEADY_SHARE: Final = 0.95


class Likeness(NamedTuple):
    """What another channel has of a stretch of audio. `level_db` is above the other, `delay_s` after it; both are those
    of the windows with something in common, 0 if there are none.
    """

    coherence: float
    level_db: float
    delay_s: float


def likeness(start_s: float, end_s: float, entries: Sequence[Crosstalk], *, own: int) -> Likeness | None:
    """Return what the channel of the `entries` has of a stretch of channel `own`. None if no window covers it."""
    covered_s = coherent_s = common_s = level_s = 0.0
    best, delay_s = 0.0, 0.0
    for entry in filter(_is_sound, entries):
        first = int((start_s - _REACH_S - entry.start_s) / entry.step_s) - 1
        last = int((end_s + _REACH_S - entry.start_s) / entry.step_s) + 1
        for index in range(max(0, first), min(last, len(entry.coherence))):
            after_s = entry.delay_ms[index] / 1000
            at_s = entry.start_s + index * entry.step_s + (after_s if entry.channel < own else 0.0)
            overlap_s = min(end_s, at_s + entry.step_s) - max(start_s, at_s)
            if overlap_s <= 0:
                continue
            coherence = abs(entry.coherence[index]) / 100
            covered_s += overlap_s
            coherent_s += coherence * overlap_s
            if coherence:
                common_s += overlap_s
                level_s += entry.level_db[index] * overlap_s
            if coherence * overlap_s > best:
                best, delay_s = coherence * overlap_s, after_s
    if not covered_s:
        return None
    return Likeness(coherent_s / covered_s, level_s / common_s if common_s else 0.0, delay_s)


def _is_sound(entry: Crosstalk) -> bool:
    """Return whether an entry can be read. None that the separate stage makes is otherwise."""
    lengths = {len(entry.coherence), len(entry.level_db), len(entry.delay_ms)}
    return abs(entry.start_s) < _MAX_S and _MIN_STEP_S <= entry.step_s < _MAX_S and len(lengths) == 1


def likeness_of(word: Word, entries: Sequence[Crosstalk], *, own: int) -> Likeness | None:
    """Return what the channel of the `entries` has of a word of channel `own`.

    A word's end is measured better than its start: the first word after a pause may seem to begin in the pause.
    """
    return likeness(max(word.start_s, word.end_s - _WORD_S), word.end_s, entries, own=own)


def entries_of(segment: Segment, channel: int) -> list[Crosstalk]:
    """Return what a segment has in common with another channel."""
    entries = [] if isinstance(segment.crosstalk, UnsetType) else segment.crosstalk
    return [entry for entry in entries if entry.channel == channel]


class SameMix(msgspec.Struct, frozen=True, array_like=True):
    """What the first channel of a call and another one had in common so far, in seconds of words.

    `shared` counts the speech that both carry, once, by the level of the first channel above the other one in whole
    decibels. `alone_s` is speech of either that the other one does not carry. Music, tones and noise have no words.
    """

    shared: dict[int, float] = {}
    alone_s: float = 0.0

    def counting(self, segment: Segment, other: int) -> "SameMix":
        """Return the sums with a segment of the first channel or of `other`."""
        own, against = segment.channel, other if segment.channel == 0 else 0
        entries = entries_of(segment, against)
        shared, alone_s = dict(self.shared), self.alone_s
        for word in segment.words:
            length_s = round(word.end_s - word.start_s, 3)
            found = likeness_of(word, entries, own=own)
            if not entries or (found is not None and found.coherence < SURE):
                alone_s += length_s
            elif found is not None and (found.level_db > 0 or (found.level_db == 0 and own == 0)):
                level_db = round(found.level_db if own == 0 else -found.level_db)
                shared[level_db] = shared.get(level_db, 0.0) + length_s
        return SameMix(shared, alone_s)

    @property
    def level_db(self) -> int | None:
        """The level at which both carry the same audio all the time; None if they do not, or for too short a time."""
        total_s = sum(self.shared.values())
        if total_s < SHARED_S or self.alone_s > max(_ALONE_S, _ALONE_SHARE * total_s):
            return None
        usual = max(sorted(self.shared), key=lambda at: self._near_s(at, 1))
        return usual if self._near_s(usual, _STEADY_DB) >= _STEADY_SHARE * total_s else None

    def _near_s(self, level_db: int, within_db: int) -> float:
        return sum(length_s for at, length_s in self.shared.items() if abs(at - level_db) <= within_db)


def counted(mixes: Sequence[SameMix], segment: Segment) -> tuple[SameMix, ...]:
    """Return the sums of all other channels with one more segment. `mixes[index]` is of the channel `index + 1`."""
    return tuple(
        mix.counting(segment, other) if segment.channel in (0, other) else mix for other, mix in enumerate(mixes, 1)
    )


def one_channel(mixes: Sequence[SameMix]) -> int | None:
    """Return the loudest channel, or the first of equally loud ones, if all carry the same audio; else None."""
    levels = [mix.level_db for mix in mixes]
    above = [level_db for level_db in levels if level_db is not None]
    if not levels or len(above) < len(levels):
        return None
    lowest = min(above)
    return 0 if lowest > -EQUAL_DB else above.index(lowest) + 1
