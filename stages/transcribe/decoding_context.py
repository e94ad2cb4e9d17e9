"""What a call's utterances are decoded with, where a producer changes it in the middle of the call.

Utterances that began before a change may come behind it, so what was in force before is kept until none of them can
come any more.
"""

from collections.abc import Sequence
from typing import Final, Protocol, TypeVar

import msgspec

from stages.transcribe.language import LanguageVote

MAX_HEARINGS: Final = 8
"""A producer that changes its mind more often while somebody speaks on has the oldest forgotten: states stay small."""


class Timed(Protocol):
    @property
    def from_s(self) -> float: ...


T = TypeVar("T", bound=Timed)


class Hearing(msgspec.Struct, frozen=True):
    """The language and the words to expect where speech begins at `from_s` or later, up to the next one's."""

    from_s: float = 0.0
    vote: LanguageVote = LanguageVote()
    hotwords: tuple[str, ...] = ()


def in_force(hearings: Sequence[T], begin_s: float) -> int:
    """Which of `hearings`, in order and at least one, is that of speech that begins then."""
    return max(0, sum(hearing.from_s <= begin_s for hearing in hearings) - 1)


def followed(hearings: Sequence[T], newest: T) -> list[T]:
    """With one more, which must not begin before the last."""
    return [*hearings, newest][-MAX_HEARINGS:]


def needed(hearings: Sequence[T], heard_to_s: Sequence[float]) -> list[T]:
    """Those in force for what is still to come, on channels that were heard so far."""
    return list(hearings[in_force(hearings, min(heard_to_s, default=0.0)) :])
