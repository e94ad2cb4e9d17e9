"""Joins the ordered pieces of a call into turns: the speech of one speaker until another takes over."""

from typing import Final

from schemas.calls import CallRef
from schemas.topics import Lane
from schemas.transcripts import Turn
from stages.merge.ordering import Piece

PAUSE_LIMIT_S: Final = 2.0
"""A speaker who continues after a longer pause begins a new turn."""

MAX_TURN_WORDS: Final = 1_000
"""A longer monologue continues in a new turn, so that a turn stays far below the size limit of a record."""


class TurnBuilder:
    """Builds turns; one is open at a time. `roles[channel]` is the speaker's name."""

    def __init__(self, call: CallRef, roles: list[str], lane: Lane = "live") -> None:
        self._call = call
        self._roles = roles
        self._lane = lane
        self._pieces: list[Piece] = []
        self._end_s = 0.0
        self._n_words = 0
        self._lengths: list[int] = []

    @property
    def channel(self) -> int | None:
        """The channel of the open turn; None if none is open."""
        return self._pieces[0].channel if self._pieces else None

    def add(self, piece: Piece, *, revision: int) -> Turn | None:
        """Take the next piece in order. Returns the turn that it closes, if any."""
        closed = None if self._continues(piece) else self.close(revision=revision)
        self._end_s = max(self._end_s, piece.end_s) if self._pieces else piece.end_s
        self._n_words += len(piece.words)
        self._pieces.append(piece)
        return closed

    def settle(self, next_start_s: float, *, revision: int) -> Turn | None:
        """Close the open turn if a piece of its channel that starts at `next_start_s` or later cannot continue it."""
        return self.close(revision=revision) if next_start_s - self._end_s > PAUSE_LIMIT_S else None

    def close(self, *, revision: int) -> Turn | None:
        """Close the open turn, if there is one, and return it as it will be published."""
        if not self._pieces:
            return None
        pieces, first = self._pieces, self._pieces[0]
        lengths = dict.fromkeys((piece.segment_id for piece in pieces), 0)
        for piece in pieces:
            lengths[piece.segment_id] += len(piece.words)
        self._lengths += lengths.values()
        turn = Turn(
            tenant=self._call.tenant,
            call_id=self._call.call_id,
            turn_id=str(self._call.derived_id("turn", first.segment_id, first.first_word)),
            revision=revision,
            speaker=self._roles[first.channel],
            channel=first.channel,
            start_s=first.words[0].start_s if first.words else first.start_s,
            end_s=self._end_s,
            text=" ".join(piece.text for piece in pieces if piece.text),
            words=[word for piece in pieces for word in piece.words],
            segment_ids=list(lengths),
            language=first.language,
            lane=self._lane,
        )
        self._pieces, self._end_s, self._n_words = [], 0.0, 0
        return turn

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
