"""What differs between two texts, word by word: of a call heard twice, or summarized twice."""

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Literal

import msgspec
from rich.text import Text

Kind = Literal["equal", "removed", "added", "changed"]
_KINDS: dict[str, Kind] = {"equal": "equal", "delete": "removed", "insert": "added", "replace": "changed"}


class Step(msgspec.Struct, frozen=True):
    """A run of words: `old` are those of the first text, `new` those of the second."""

    kind: Kind
    old: list[str]
    new: list[str]


class Counts(msgspec.Struct, frozen=True):
    """Words of a difference. A changed run of unequal length counts its excess as added or removed."""

    equal: int = 0
    changed: int = 0
    removed: int = 0
    added: int = 0

    @property
    def share(self) -> float:
        """What differs, of all that there is on either side: 0 for equal texts, 1 for texts without a common word."""
        differing = self.changed + self.removed + self.added
        return differing / max(1, self.equal + differing)

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.equal + other.equal,
            self.changed + other.changed,
            self.removed + other.removed,
            self.added + other.added,
        )

    @property
    def sentence(self) -> str:
        return (
            f"{self.equal} words equal, {self.changed} changed, {self.removed} removed, {self.added} added: "
            f"{100 * self.share:.1f} % differ"
        )


def word_difference(old: str, new: str) -> list[Step]:
    """The runs of words in which two texts agree and differ, in order. Case and punctuation do not count."""
    before, after = old.split(), new.split()
    matcher = SequenceMatcher(None, [*map(_bare, before)], [*map(_bare, after)], autojunk=False)
    return [
        Step(_KINDS[kind], before[first:last], after[start:end])
        for kind, first, last, start, end in matcher.get_opcodes()
    ]


def counted(steps: Sequence[Step]) -> Counts:
    total = Counts()
    for step in steps:
        if step.kind == "equal":
            total += Counts(equal=len(step.old))
            continue
        changed = min(len(step.old), len(step.new))
        total += Counts(changed=changed, removed=len(step.old) - changed, added=len(step.new) - changed)
    return total


def by_lines(steps: Sequence[Step], lengths: Sequence[int]) -> list[list[Step]]:
    """The steps of each line of the first text, whose lines have so many words; what was added between two lines comes
    at the end of the first.
    """
    lines: list[list[Step]] = []
    waiting = list(steps)
    for length in lengths:
        line: list[Step] = []
        left = length
        while waiting and (left or not waiting[0].old):
            step = waiting.pop(0)
            taken = step.old[:left]
            if len(taken) == len(step.old):
                line.append(step)
            elif step.kind == "equal":
                line.append(Step("equal", taken, step.new[:left]))
                waiting.insert(0, Step("equal", step.old[left:], step.new[left:]))
            else:
                line.append(Step(step.kind, taken, step.new))
                waiting.insert(0, Step("removed", step.old[left:], []))
            left -= len(taken)
        lines.append(line)
    if lines:
        lines[-1] += waiting
    return lines


def shown(steps: Sequence[Step]) -> Text:
    """For people, coloured, and legible without colours: `[-old-]` and `{+new+}`."""
    text = Text()
    for step in steps:
        if text:
            text.append(" ")
        if step.kind == "equal":
            text.append(" ".join(step.new))
            continue
        if step.old:
            text.append(f"[-{' '.join(step.old)}-]", style="red")
        if step.new:
            text.append(f"{{+{' '.join(step.new)}+}}", style="green")
    return text


def _bare(word: str) -> str:
    return re.sub(r"[^\w]", "", word.casefold()) or word
