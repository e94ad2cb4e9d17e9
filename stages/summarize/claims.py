"""The claims of a summary, and the interface of their judges."""

from collections.abc import Callable, Sequence

import msgspec

from schemas.summaries import Doubt
from schemas.transcripts import Turn


class Claim(msgspec.Struct, frozen=True):
    """A key point, an action item or a sentence of a summary.

    `whole`: it is about the whole call, and cites no turn. `segment_ids` are those of the turns that it cites, as far
    as they exist. `owner` is the speaker who is to do it, where it is an action item and one is named.
    """

    text: str
    segment_ids: Sequence[str] = ()
    owner: str | None = None
    whole: bool = False

    @property
    def can_be_judged(self) -> bool:
        """True if there are turns to hold it against."""
        return bool(self.segment_ids) or self.whole


Judge = Callable[[Sequence[Claim], Sequence[Turn], str], list[Doubt | None]]
"""Takes claims, the call's turns and its language. Returns for each claim why it is not believed; None where it is.
Called in a thread: it may take seconds of CPU."""


def judged_by_citation(claims: Sequence[Claim], _turns: Sequence[Turn], _language: str) -> list[Doubt | None]:
    """Believe every claim that cites a turn of the call, and every sentence about the whole call."""
    return [None if claim.can_be_judged else "citation" for claim in claims]
