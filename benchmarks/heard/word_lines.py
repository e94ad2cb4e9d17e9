"""The lines of the one-word table: prompts alone, and ten of a kind one after the other."""

from collections.abc import Iterator, Sequence
from typing import Final

from benchmarks.heard.clips import Clip
from benchmarks.heard.lines import Line, alone, paced, spaced

AT_A_TIME: Final = 10
PACE_S: Final = 1.0


def alone_lines(clips: Sequence[Clip]) -> list[Line]:
    """Return a line for each clip."""
    return [alone(clip) for clip in clips]


def one_a_second(clips: Sequence[Clip]) -> list[Line]:
    """Return lines of ten clips of one language and kind that begin a second apart."""
    return [paced(name, ten, PACE_S) for name, ten in _tens(clips)]


def a_second_apart(clips: Sequence[Clip]) -> list[Line]:
    """Return lines of ten clips of one language and kind with a second of silence between them."""
    return [spaced(name, ten, PACE_S) for name, ten in _tens(clips)]


def _tens(clips: Sequence[Clip]) -> Iterator[tuple[str, list[Clip]]]:
    groups: dict[tuple[str, str], list[Clip]] = {}
    for clip in clips:
        groups.setdefault((clip.language, clip.kind), []).append(clip)
    for (language, kind), group in groups.items():
        for first in range(0, len(group), AT_A_TIME):
            yield f"{language}/{kind}/{first // AT_A_TIME}", group[first : first + AT_A_TIME]
