"""Word-by-word difference of two texts: two transcripts or two summaries of a call."""

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Literal

import msgspec
from rich.text import Text

Kind = Literal["equal", "removed", "added", "changed"]
_KINDS: dict[str, Kind] = {"equal": "equal", "delete": "removed", "insert": "added", "replace": "changed"}


class WordRun(msgspec.Struct, frozen=True):
    """A run of words: `old` in the first text, `new` in the second."""

    kind: Kind
    old: list[str]
    new: list[str]


class Counts(msgspec.Struct, frozen=True):
    """Word counts of a difference. In a changed run of unequal length the excess counts as added or removed."""

    equal: int = 0
    changed: int = 0
    removed: int = 0
    added: int = 0

    @property
    def share(self) -> float:
        """Differing words over all words of both texts: 0 for equal texts, 1 for texts without a common word."""
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


def word_difference(old: str, new: str) -> list[WordRun]:
    """Return the runs of equal and differing words, in order. Case and punctuation are ignored."""
    before, after = old.split(), new.split()
    matcher = SequenceMatcher(None, [*map(_bare, before)], [*map(_bare, after)], autojunk=False)
    return [
        WordRun(_KINDS[kind], before[first:last], after[start:end])
        for kind, first, last, start, end in matcher.get_opcodes()
    ]


def counted(steps: Sequence[WordRun]) -> Counts:
    total = Counts()
    for step in steps:
        if step.kind == "equal":
            total += Counts(equal=len(step.old))
            continue
        changed = min(len(step.old), len(step.new))
        total += Counts(changed=changed, removed=len(step.old) - changed, added=len(step.new) - changed)
    return total


def by_lines(steps: Sequence[WordRun], lengths: Sequence[int]) -> list[list[WordRun]]:
    """Group the runs by the lines of the first text, given the number of words in each line.

    Words added between two lines go to the end of the earlier one.
    """
    lines: list[list[WordRun]] = []
    waiting = list(steps)
    for length in lengths:
        line: list[WordRun] = []
        left = length
        while waiting and (left or not waiting[0].old):
            step = waiting.pop(0)
            taken = step.old[:left]
            if len(taken) == len(step.old):
                line.append(step)
            elif step.kind == "equal":
                line.append(WordRun("equal", taken, step.new[:left]))
                waiting.insert(0, WordRun("equal", step.old[left:], step.new[left:]))
            else:
                line.append(WordRun(step.kind, taken, step.new))
                waiting.insert(0, WordRun("removed", step.old[left:], []))
            left -= len(taken)
        lines.append(line)
    if lines:
        lines[-1] += waiting
    return lines


def shown(steps: Sequence[WordRun]) -> Text:
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
