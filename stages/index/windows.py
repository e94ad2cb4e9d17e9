"""Search windows: passages of a few turns, short enough for an embedding model to read as a whole."""

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from schemas.calls import CallRef
from schemas.transcripts import Turn
from stages.text import sentences

MAX_WORDS: Final = 25
"""Most words of a window of several sentences. The embedding of a long text says little of each part: of 105 questions
the right call was among the first five for 51 % with 25 words, 26 % with 60, 19 % with 120 (`benchmarks.search`)."""

MOST_WORDS: Final = 120
"""Most words of a window of one sentence: all-MiniLM-L6-v2 reads 256 tokens, about 190 English words."""


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """Consecutive turns of a call, or a part of a long one. Times are seconds from the call's start.

    `part` is that of the transcript; 0 for a turn of a call in progress. `started_at` is the call's start in Unix time:
    the bus's time of the transcript less its duration, because a transcript is the same on every bus and holds no time
    of day. For a turn of a call in progress it is the bus's time of the turn.
    """

    window_id: str
    tenant: str
    call_id: str
    revision: int
    part: int
    agent: str
    started_at: float
    start_s: float
    end_s: float
    speakers: list[str]
    turn_ids: list[str]
    text: str

    @property
    def call(self) -> CallRef:
        return CallRef(self.tenant, self.call_id)

    @property
    def spoken_text(self) -> str:
        """The text without the speakers, which is embedded."""
        return "\n".join(line.partition(": ")[2] for line in self.text.splitlines())


def windows_of(
    turns: Sequence[Turn], *, revision: int, part: int, agent: str, started_at: float, max_words: int = MAX_WORDS
) -> list[Window]:
    """Return the windows of a completed transcript or a part of one. Each begins with the last turn of the previous."""
    return [
        _window(pieces, revision, part, agent, started_at)
        for pieces in _grouped([piece for turn in turns for piece in _pieces(turn, max_words)], max_words)
    ]


def windows_of_turn(turn: Turn, *, at_s: float) -> list[Window]:
    """Return the windows of a turn of a call in progress."""
    return [_window([piece], turn.revision, 0, "", at_s) for piece in _pieces(turn, MAX_WORDS)]


class _Piece(msgspec.Struct, frozen=True):
    """A turn, or as much of a long one as a window holds. `number` counts the pieces of the turn."""

    turn: Turn
    number: int
    text: str
    start_s: float
    end_s: float

    @property
    def n_words(self) -> int:
        return len(self.text.split())


def _pieces(turn: Turn, max_words: int) -> Iterator[_Piece]:
    """Yield the turn, or its sentences in as few pieces as `max_words` allows."""
    n_words = len(turn.text.split())
    if not n_words:
        return
    if n_words <= max_words:
        yield _Piece(turn, 0, turn.text, turn.start_s, turn.end_s)
        return
    per_word_s = (turn.end_s - turn.start_s) / n_words
    done = 0
    for number, words in enumerate(_packed(turn.text, max_words)):
        start_s = turn.start_s + done * per_word_s
        done += len(words)
        yield _Piece(turn, number, " ".join(words), start_s, turn.start_s + done * per_word_s)


def _packed(text: str, max_words: int) -> Iterator[list[str]]:
    packed: list[str] = []
    for sentence in sentences(text):
        words = sentence.split()
        if packed and len(packed) + len(words) > max_words:
            yield packed
            packed = []
        packed += words
        while len(packed) > MOST_WORDS:
            yield packed[:MOST_WORDS]
            packed = packed[MOST_WORDS:]
    if packed:
        yield packed


def _grouped(pieces: Sequence[_Piece], max_words: int) -> Iterator[list[_Piece]]:
    window: list[_Piece] = []
    for piece in pieces:
        if window and sum(each.n_words for each in window) + piece.n_words > max_words:
            yield window
            last = window[-1]
            window = [last] if len(window) > 1 and last.n_words + piece.n_words <= max_words else []
        window.append(piece)
    if window:
        yield window


def _window(pieces: Sequence[_Piece], revision: int, part: int, agent: str, started_at: float) -> Window:
    first = pieces[0]
    call = CallRef(first.turn.tenant, first.turn.call_id)
    live = "live" if part == 0 else "window"
    return Window(
        window_id=str(call.derived_id(live, revision, first.turn.turn_id, first.number)),
        tenant=call.tenant,
        call_id=call.call_id,
        revision=revision,
        part=part,
        agent=agent,
        started_at=started_at,
        start_s=round(first.start_s, 3),
        end_s=round(max(piece.end_s for piece in pieces), 3),
        speakers=list(dict.fromkeys(piece.turn.speaker for piece in pieces)),
        turn_ids=list(dict.fromkeys(piece.turn.turn_id for piece in pieces)),
        text="\n".join(f"{piece.turn.speaker}: {piece.text}" for piece in pieces),
    )
