"""What a summary claims and the turns that it says it rests on, and who judges whether they do."""

from collections.abc import Callable, Sequence

import msgspec

from schemas.summaries import Doubt
from schemas.transcripts import Turn


class Claim(msgspec.Struct, frozen=True):
    """A sentence and the turns that it cites, as far as they exist."""

    text: str
    turns: list[Turn]


Judge = Callable[[Sequence[Claim]], list[Doubt | None]]
"""For each claim why it is not believed, None where it is. May take seconds of CPU; called from a thread."""


def judged_by_citation(claims: Sequence[Claim]) -> list[Doubt | None]:
    """Only whether a claim cites anything of the call."""
    return [None if claim.turns else "citation" for claim in claims]
