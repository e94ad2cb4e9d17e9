"""What a summary claims and the turns that it says it rests on, and who judges whether they do."""

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from schemas.summaries import Doubt
from schemas.transcripts import Turn
from stages.summarize.check import support
from stages.summarize.citations import segment_ids


class Claim(msgspec.Struct, frozen=True):
    """A sentence and the turns that it cites, as far as they exist; who is to do it, where it is an action."""

    text: str
    turns: list[Turn]
    owner: str | None = None


Judge = Callable[[Sequence[Claim], Sequence[Turn], str], list[Doubt | None]]
"""From claims, the call's turns and its language to why each claim is not believed, None where it is. May take seconds
of CPU; called from a thread."""


def judged_by_citation(claims: Sequence[Claim], _turns: Sequence[Turn], _language: str) -> list[Doubt | None]:
    """Only whether a claim cites anything of the call."""
    return [None if claim.turns else "citation" for claim in claims]


_DOUBTS: Final[dict[support.Reason, Doubt]] = {
    "number": "number",
    "name": "name",
    "speaker": "speaker",
    "negation": "negation",
    "unlike": "unlike",
    "nothing cited": "citation",
}


def judged_by_support(check: Callable[[], support.SupportCheck]) -> Judge:
    """Whether what a claim cites says so too. `check` makes the check when it is first needed."""

    def judge(claims: Sequence[Claim], turns: Sequence[Turn], language: str) -> list[Doubt | None]:
        cited = [claim for claim in claims if claim.turns]
        found = check().judge(
            [support.Claim(claim.text, segment_ids(claim.turns)) for claim in cited], turns, language=language
        )
        doubts = map(_doubt, found)
        return [next(doubts) if claim.turns else "citation" for claim in claims]

    return judge


def _doubt(found: support.Support) -> Doubt | None:
    return None if found.supported or found.reason is None else _DOUBTS[found.reason]
