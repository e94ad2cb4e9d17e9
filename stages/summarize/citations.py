"""Short labels for the turns that a language model reads and cites.

The finest unit of a transcript with ids is the turn, so a label stands for all segments of one turn.
"""

from collections.abc import Sequence

from schemas.transcripts import Turn


class Citations:
    """The labels S1, S2, … of a call's turns, in order."""

    def __init__(self, turns: Sequence[Turn]) -> None:
        self.turns = turns
        self._turns = {f"S{number}": turn for number, turn in enumerate(turns, start=1)}
        self.lines = [
            f"[{label}] {one_line(turn.speaker)}: {one_line(turn.text)}" for label, turn in self._turns.items()
        ]
        """The call as the model reads it: one line for each turn."""
        self.speakers = sorted({turn.speaker for turn in turns})

    def cited(self, labels: Sequence[str]) -> list[Turn]:
        """Return the turns of the labels, each once, in the order of the call. Unknown labels are ignored."""
        wanted = {label.strip().strip("[]").upper() for label in labels}
        return [turn for label, turn in self._turns.items() if label in wanted]


def segment_ids(turns: Sequence[Turn]) -> list[str]:
    """Return the ids of all segments of the turns, each once."""
    return list(dict.fromkeys(segment_id for turn in turns for segment_id in turn.segment_ids))


def one_line(text: str) -> str:
    """Return the text without line breaks and brackets, with which it could forge another turn or its label."""
    return " ".join(text.translate(_NO_BRACKETS).split())


_NO_BRACKETS = str.maketrans("[]", "()")
