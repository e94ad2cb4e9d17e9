"""Words said once: how often each is written, once, twice or never."""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

import msgspec

from benchmarks.heard.coverage import Written
from benchmarks.heard.lines import Line, Placed


class Count(msgspec.Struct, frozen=True, kw_only=True):
    """Clips of one sort: `doubled` came twice or more often, of `lost` nothing came."""

    clips: int = 0
    doubled: int = 0
    lost: int = 0
    doubled_texts: list[str] = []
    lost_texts: list[str] = []

    def __add__(self, other: "Count") -> "Count":
        return Count(
            clips=self.clips + other.clips,
            doubled=self.doubled + other.doubled,
            lost=self.lost + other.lost,
            doubled_texts=self.doubled_texts + other.doubled_texts,
            lost_texts=self.lost_texts + other.lost_texts,
        )

    def described(self) -> dict[str, Any]:
        return msgspec.structs.asdict(self)


def counted(line: Line, words: Sequence[Written]) -> Count:
    """Return what became of a line's clips. Each written word belongs to the clip at its time."""
    parts = by_clip(line.clips, words)
    total = Count()
    for clip, part in zip(line.clips, parts, strict=True):
        text = " ".join(part)
        twice = is_doubled(clip.text, text)
        total += Count(
            clips=1,
            doubled=twice,
            lost=not tokens(text),
            doubled_texts=[f"{clip.clip_id}: {text}"] if twice else [],
            lost_texts=[] if tokens(text) else [f"{clip.clip_id}: {clip.text}"],
        )
    return total


def by_clip(clips: Sequence[Placed], words: Sequence[Written]) -> list[list[str]]:
    """Return the written words at the time of each clip. One far from all belongs to the clip before it.

    A number or spelled word that lasts over several clips is divided into digits or letters.
    """
    found: list[list[str]] = [[] for _ in clips]
    edges = [(one.end_s + other.start_s) / 2 for one, other in pairwise(clips)]
    for text, start_s, end_s in words:
        lasts = any(start_s < edge < end_s for edge in edges)
        parts = _parts(text) if lasts else [text.strip()]
        for index, part in enumerate(parts):
            middle = start_s + (index + 0.5) / len(parts) * (end_s - start_s)
            found[sum(edge < middle for edge in edges)].append(part)
    return found


def is_doubled(said: str, written: str) -> bool:
    """Return if what was written is the same thing twice or more often, and what was said is not.

    What is written need not be right: `for, for` doubles `four`. Digits in one number count apart if a single digit
    was said: `44` doubles `four`, and `11` does not double `eleven`.
    """
    true, given = tokens(said), tokens(written)
    if len(true) == 1 and true[0] in _DIGITS:
        given = [part for one in given for part in (list(one) if one.isdigit() else [one])]
    return _times(given) > max(1, _times(true))


def tokens(text: str) -> list[str]:
    """Return the words of a text in small letters, without punctuation; letters of a spelled word apart."""
    return re.findall(r"\w+", text.casefold().replace("'", ""))


def _parts(text: str) -> list[str]:
    """Return the digits, capital letters and words of a text, or the text if it has none."""
    words = re.findall(r"\w+", text)
    return [part for word in words for part in (list(word) if word.isdigit() or word.isupper() else [word])] or [
        text.strip()
    ]


def _times(words: Sequence[str]) -> int:
    """Return how often the words repeat a part of them: 2 for `a b a b`; for `a a b`, 2, because of its `a`."""
    best = 1 if words else 0
    for size in range(1, len(words) // 2 + 1):
        for first in range(len(words) - 2 * size + 1):
            times = 1
            while words[first : first + size] == words[first + times * size : first + (times + 1) * size]:
                times += 1
            best = max(best, times)
    return best


_DIGITS: Final = frozenset(
    [
        "zero",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "oh",
        "cero",
        "uno",
        "dos",
        "tres",
        "cuatro",
        "cinco",
        "seis",
        "siete",
        "ocho",
        "nueve",
        "zéro",
        "un",
        "deux",
        "trois",
        "quatre",
        "cinq",
        "six",
        "sept",
        "huit",
        "neuf",
        "due",
        "tre",
        "quattro",
        "cinque",
        "sei",
        "sette",
        "otto",
        "nove",
        "ноль",
        "один",
        "два",
        "три",
        "четыре",
        "пять",
        "шесть",
        "семь",
        "восемь",
        "девять",
    ]
)
