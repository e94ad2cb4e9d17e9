"""Short labels for the turns that a language model reads, and the check that what it cites exists.

The transcript's finest unit with ids is the turn, so a label stands for all segments of one turn.
"""

from collections.abc import Sequence

from schemas.summaries import KeyPoint
from schemas.transcripts import Turn


class Citations:
    """The labels S1, S2, … of a call's turns, in order."""

    def __init__(self, turns: Sequence[Turn]) -> None:
        self._turns = {f"S{number}": turn for number, turn in enumerate(turns, start=1)}

    def transcript(self) -> str:
        """The call as the model reads it: one line per turn."""
        return "\n".join(f"[{label}] {turn.speaker}: {turn.text}" for label, turn in self._turns.items())

    def resolve(self, labels: Sequence[str]) -> list[str]:
        """The segment ids of the labels that exist, each once, in the order of the call."""
        cited = {label.strip().strip("[]").upper() for label in labels}
        ids = [segment_id for label, turn in self._turns.items() if label in cited for segment_id in turn.segment_ids]
        return list(dict.fromkeys(ids))

    def checked(self, points: Sequence[tuple[str, Sequence[str]]]) -> tuple[list[KeyPoint], int]:
        """The (text, labels) points that cite something that exists, and how many were dropped because they do not."""
        kept = [
            KeyPoint(text=text.strip(), segment_ids=segment_ids)
            for text, labels in points
            if text.strip() and (segment_ids := self.resolve(labels))
        ]
        return kept, len(points) - len(kept)
