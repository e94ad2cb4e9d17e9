"""Cuts the turns of a channel with several speakers by speaker.

A word belongs to the speaker with whom its time overlaps most, else to the nearest speaker within a second. Turns that
were published during the call keep their id where they begin with the same word.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Final

import msgspec

from schemas.calls import CallRef
from schemas.segments import Word
from schemas.transcripts import Turn
from schemas.utterances import UNKNOWN_SPEAKER, CallClosed, SpeakerSource, SpeakerTurn
from stages.merge.ordering import Piece, texts_of
from stages.merge.turns import TurnBuilder

_NEAR_S: Final = 1.0


class Speaking:
    """The speakers of a call over time. For rising times each stretch is looked at about once."""

    def __init__(self, stretches: Sequence[SpeakerTurn]) -> None:
        self._stretches = sorted(stretches, key=lambda stretch: stretch.start_s)
        self._first = 0

    def speaker(self, start_s: float, end_s: float) -> str:
        """Return the speaker from `start_s` to `end_s`. `start_s` must not decrease from call to call."""
        stretches = self._stretches
        while self._first < len(stretches) and stretches[self._first].end_s < start_s - _NEAR_S:
            self._first += 1
        overlaps: dict[str, float] = {}
        nearest, nearest_s = UNKNOWN_SPEAKER, _NEAR_S
        for stretch in stretches[self._first :]:
            if stretch.start_s > end_s + _NEAR_S:
                break
            overlap_s = min(end_s, stretch.end_s) - max(start_s, stretch.start_s)
            if overlap_s > 0:
                overlaps[stretch.speaker] = overlaps.get(stretch.speaker, 0.0) + overlap_s
            elif -overlap_s < nearest_s:
                nearest, nearest_s = stretch.speaker, -overlap_s
        return max(overlaps, key=overlaps.__getitem__) if overlaps else nearest


def turns_by_speaker(
    call: CallRef,
    turns: Sequence[Turn],
    lengths: Sequence[int],
    stretches: Sequence[SpeakerTurn],
    source: SpeakerSource,
) -> list[Turn]:
    """Return the turns of one channel, cut where the speaker changes.

    Args:
        call: the call.
        turns: of one channel, in order.
        lengths: for each segment of each turn, how many of its words are in the turn. A segment with pauses may be in
            several turns.
        stretches: the speakers over time.
        source: how the speakers were told apart.
    """
    speaking = Speaking(stretches)
    names = list(dict.fromkeys([*(stretch.speaker for stretch in stretches), UNKNOWN_SPEAKER]))
    builder = TurnBuilder(call, names, turns[0].lane if turns else "live")
    cut: list[Turn] = []
    counts = iter(lengths)
    known: Counter[str] = Counter()
    for turn in turns:
        lengths_here = [next(counts) for _ in turn.segment_ids]
        pieces = _pieces(turn, lengths_here, known[turn.segment_ids[0]], speaking, names)
        for piece in pieces:
            cut += builder.add(piece, revision=turn.revision)
        cut += builder.close(revision=turn.revision)
        known.update(dict(zip(turn.segment_ids, lengths_here, strict=True)))
    return [msgspec.structs.replace(turn, channel=turns[0].channel, speaker_source=source) for turn in cut]


def turns_of_one_channel(
    call: CallRef, turns: Sequence[Turn], lengths: Sequence[int], closed: CallClosed
) -> list[Turn]:
    """Return the turns of a call whose channels all carry the same audio, by speaker as those of a mono call.

    Args:
        call: the call.
        turns: of all channels, in order. Hardly any are on another channel than `closed.one_channel`.
        lengths: as of `turns_by_speaker`. Those of turns of an earlier version are missing at the beginning: such turns
            are not cut.
        closed: says who speaks when. Without speakers all turns are of an unknown one.
    """
    counts = iter([0] * (sum(len(turn.segment_ids) for turn in turns) - len(lengths)) + list(lengths))
    source: SpeakerSource = "unknown" if closed.speaker_source == "channel" else closed.speaker_source
    by_channel: dict[int, tuple[list[Turn], list[int]]] = {}
    for turn in turns:
        of_channel = by_channel.setdefault(turn.channel, ([], []))
        of_channel[0].append(turn)
        of_channel[1].extend(next(counts) for _ in turn.segment_ids)
    found = [
        turn
        for of_channel in by_channel.values()
        for turn in turns_by_speaker(call, *of_channel, closed.speakers, source)
    ]
    return sorted(found, key=lambda turn: turn.start_s)


def _pieces(
    turn: Turn, counts: Sequence[int], before: int, speaking: Speaking, names: Sequence[str]
) -> Iterator[Piece]:
    """Yield the turn's runs of words of one segment and one speaker. A speaker's index in `names` stands for a channel.

    `counts` are the words of each segment, `before` the words of the first segment that are in earlier turns.
    """
    if 0 in counts or not turn.words:
        speaker = speaking.speaker(turn.start_s, turn.end_s)
        yield _piece(turn, turn.segment_ids[0], before, turn.words, turn.text, names.index(speaker))
        return
    speakers = [speaking.speaker(word.start_s, word.end_s) for word in turn.words]
    segment_starts = list(accumulate(counts, initial=0))
    changes = {index for index, pair in enumerate(pairwise(speakers), start=1) if pair[0] != pair[1]}
    firsts = sorted({*segment_starts[:-1], *changes})
    texts = texts_of(turn.text, turn.words, firsts)
    segment = 0
    for first, last, text in zip(firsts, [*firsts[1:], len(turn.words)], texts, strict=True):
        while segment_starts[segment + 1] <= first:
            segment += 1
        yield _piece(
            turn,
            turn.segment_ids[segment],
            first - segment_starts[segment] + (before if segment == 0 else 0),
            turn.words[first:last],
            text,
            names.index(speakers[first]),
        )


def _piece(turn: Turn, segment_id: str, first_word: int, words: list[Word], text: str, channel: int) -> Piece:
    return Piece(
        channel=channel,
        segment_id=segment_id,
        first_word=first_word,
        start_s=words[0].start_s if words else turn.start_s,
        end_s=max([word.end_s for word in words], default=turn.end_s),
        text=text,
        words=words,
        language=turn.language,
    )
