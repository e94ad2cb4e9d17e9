"""Joins the ordered pieces of a call into turns: the speech of one speaker until another takes the floor.

Who speaks has the floor. Another speaker takes it with any piece, but for one that is said beside:

- inside the speech of the speaker who has the floor: at most `BESIDE_WORDS` words and `BESIDE_S` seconds ("sorry, which
  one was that");
- across or after its end: at most `BACKCHANNEL_WORDS` words and `BACKCHANNEL_S` seconds ("mm-hmm", "okay", "right"), if
  the sentence there is not finished and its speaker goes on with it.

Words that are said beside are a turn of their own, and the turn beside them goes on. So an answer to a finished
sentence takes the floor however short it is, and a sentence is not torn by somebody who listens.
"""

from typing import Final

from schemas.calls import CallRef
from schemas.topics import Lane
from schemas.transcripts import Turn
from stages.merge.ordering import (
    BACKCHANNEL_S,
    BACKCHANNEL_WORDS,
    BESIDE_S,
    BESIDE_WORDS,
    Piece,
    ends_sentence,
)

PAUSE_LIMIT_S: Final = 2.0
"""A speaker who continues after a longer pause begins a new turn."""

MAX_TURN_WORDS: Final = 1_000
"""A longer monologue continues in a new turn, so that a turn stays far below the size limit of a record."""


class TurnBuilder:
    """Builds turns; one has the floor at a time. `roles[channel]` is the speaker's name.

    Turns come out in the order of their starts.
    """

    def __init__(self, call: CallRef, roles: list[str], lane: Lane = "live") -> None:
        self._call = call
        self._roles = roles
        self._lane = lane
        self._floor: list[Piece] = []
        self._end_s = 0.0
        self._n_words = 0
        self._beside: list[Piece] = []
        """Pieces of others that were said beside the floor's."""
        self._waiting: list[Piece] = []
        """Pieces of others that were said beside it if its speaker goes on, and took the floor if not."""
        self._lengths: list[int] = []

    @property
    def channel(self) -> int | None:
        """The channel that has the floor; None if nobody has."""
        return self._floor[0].channel if self._floor else None

    @property
    def starts_s(self) -> list[float]:
        """The starts of the pieces that are in no turn yet."""
        return [piece.start_s for piece in (*self._floor, *self._beside, *self._waiting)]

    def add(self, piece: Piece, *, revision: int) -> list[Turn]:
        """Take the next piece in order. Returns the turns that it closes."""
        if not self._floor or self._continues(piece):
            self._beside += self._waiting
            self._waiting = []
            self._end_s = max(self._end_s, piece.end_s) if self._floor else piece.end_s
            self._n_words += len(piece.words)
            self._floor.append(piece)
            return []
        if piece.channel != self.channel and self._may_be_beside(piece):
            self._waiting.append(piece)
            return []
        return self._yield_floor(piece, revision=revision)

    def settle(self, next_start_s: float, *, revision: int) -> list[Turn]:
        """Return the turns that cannot change if the floor's next piece starts at `next_start_s` or later."""
        if not self._floor or next_start_s - self._end_s <= PAUSE_LIMIT_S:
            return []
        return self._yield_floor(revision=revision)

    def close(self, *, revision: int) -> list[Turn]:
        """Return all turns that are left, as they will be published."""
        turns: list[Turn] = []
        while self._floor:
            turns += self._yield_floor(revision=revision)
        return turns

    def take_lengths(self) -> list[int]:
        """Return, for each segment of each turn closed since the last call, how many of its words are in the turn."""
        lengths, self._lengths = self._lengths, []
        return lengths

    def _continues(self, piece: Piece) -> bool:
        return (
            piece.channel == self.channel
            and piece.start_s - self._end_s <= PAUSE_LIMIT_S
            and self._n_words + len(piece.words) <= MAX_TURN_WORDS
        )

    def _may_be_beside(self, piece: Piece) -> bool:
        if piece.end_s <= self._end_s:
            return piece.is_short(BESIDE_WORDS, BESIDE_S)
        if ends_sentence(self._floor[-1].text):
            return False
        outlasting = [one for one in self._waiting if one.end_s > self._end_s]
        n_words = sum(one.n_words for one in [*outlasting, piece])
        return piece.is_short(BACKCHANNEL_WORDS, BACKCHANNEL_S) and n_words <= BACKCHANNEL_WORDS

    def _yield_floor(self, *following: Piece, revision: int) -> list[Turn]:
        """Close the turn that has the floor, and those beside it. The pieces that wait come next, then `following`."""
        turns = [self._turn(self._floor, revision), *(self._turn([piece], revision) for piece in self._beside)]
        following = (*self._waiting, *following)
        self._floor, self._beside, self._waiting, self._end_s, self._n_words = [], [], [], 0.0, 0
        for piece in following:
            turns += self.add(piece, revision=revision)
        return turns

    def _turn(self, pieces: list[Piece], revision: int) -> Turn:
        first = pieces[0]
        lengths = dict.fromkeys((piece.segment_id for piece in pieces), 0)
        for piece in pieces:
            lengths[piece.segment_id] += len(piece.words)
        self._lengths += lengths.values()
        return Turn(
            tenant=self._call.tenant,
            call_id=self._call.call_id,
            turn_id=str(self._call.derived_id("turn", first.segment_id, first.first_word)),
            revision=revision,
            speaker=self._roles[first.channel],
            channel=first.channel,
            start_s=first.words[0].start_s if first.words else first.start_s,
            end_s=max(piece.end_s for piece in pieces),
            text=" ".join(piece.text for piece in pieces if piece.text),
            words=[word for piece in pieces for word in piece.words],
            segment_ids=list(lengths),
            language=first.language,
            lane=self._lane,
        )
