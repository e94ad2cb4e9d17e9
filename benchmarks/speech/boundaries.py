"""Where turns begin, against the script: the words of each leg are aligned, and the starts of turns compared.

The script's turns are its lines, in the order of their starts. Lines of one speaker that follow each other within
`PAUSE_LIMIT_S` are one turn. A line inside another ("yes", said while listening) is a turn of its own and does not end
the turn that it is said into.
"""

import re
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from typing import Any, Final, NamedTuple

import msgspec

from benchmarks.harness.offline import merged
from benchmarks.speech.corpus import Call, TruthLine
from benchmarks.speech.script import ROLES
from schemas.calls import DEFAULT_TENANT, CallRef
from schemas.segments import Segment
from schemas.transcripts import Turn
from schemas.utterances import CallClosed, CallOpened, Channel
from stages.merge.turns import PAUSE_LIMIT_S

NEAR_WORDS: Final = 1
"""A turn may begin this many words beside the script's: the words there may have been misheard."""
SHORT_WORDS: Final = 2


class Boundaries(msgspec.Struct, frozen=True):
    """Counts of turn starts within the legs: of the script, of the transcript, found in both; of the transcript's turns
    of one or two words, and of those that the script does not have.
    """

    script: int = 0
    transcript: int = 0
    both: int = 0
    short: int = 0
    needless: int = 0

    def __add__(self, other: "Boundaries") -> "Boundaries":
        return Boundaries(
            self.script + other.script,
            self.transcript + other.transcript,
            self.both + other.both,
            self.short + other.short,
            self.needless + other.needless,
        )

    def described(self) -> dict[str, Any]:
        precision, recall = self.both / max(1, self.transcript), self.both / max(1, self.script)
        f1 = 2 * precision * recall / (precision + recall) if self.both else 0.0
        return {
            "f1": round(f1, 4),
            "precision": round(precision, 4),
            "recall": round(recall, 4),
            "needless_short": round(self.needless / max(1, self.transcript), 4),
            **msgspec.structs.asdict(self),
        }


class _Spoken(NamedTuple):
    """A turn: its channel and its words, without case and punctuation."""

    channel: int
    words: list[str]


async def turns_of(call: Call, segments: Iterable[Segment]) -> list[Turn]:
    """Return the turns of a transcript, as the merge stage makes them."""
    ref = CallRef(DEFAULT_TENANT, call.name)
    roles = [Channel(index, role) for index, role in enumerate(ROLES)]
    opened = CallOpened(
        call=ref,
        seq=0,
        channels=roles,
        sample_rate_hz=8000,
        encoding="pcm_s16le",
        language="en",
        partials=False,
        metadata={},
        opened_at=0.0,
    )
    closed = CallClosed(
        call=ref,
        seq=0,
        revision=1,
        duration_s=call.duration_s,
        speech_s=0.0,
        utterances=0,
        gaps=[],
        reason="end",
        provisional=False,
    )
    outputs = await merged(ref, [opened, *segments, closed])
    return [output.record for output in outputs if isinstance(output.record, Turn)]


def boundaries(call: Call, turns: Sequence[Turn]) -> Boundaries:
    """Compare the turns of a transcript with those of the script."""
    ours = [_Spoken(turn.channel, _bare(turn.text)) for turn in turns]
    total = Boundaries()
    for channel in range(len(ROLES)):
        theirs = [turn.words for turn in script_turns(call.lines) if turn.channel == channel]
        total += _of_leg(theirs, [turn.words for turn in ours if turn.channel == channel])
    return total


def script_turns(lines: Sequence[TruthLine]) -> list[_Spoken]:
    turns: list[_Spoken] = []
    floor: TruthLine | None = None
    for line in sorted(lines, key=lambda line: line.start_s):
        words = _bare(line.text)
        if floor is not None and line.end_s <= floor.end_s:
            turns.append(_Spoken(line.channel, words))
            continue
        last = next((turn for turn in reversed(turns) if turn.channel == line.channel), None)
        if floor is not None and floor.channel == line.channel and line.start_s - floor.end_s <= PAUSE_LIMIT_S:
            assert last is not None
            last.words.extend(words)
        else:
            turns.append(_Spoken(line.channel, words))
        floor = line
    return turns


def _of_leg(theirs: Sequence[list[str]], ours: Sequence[list[str]]) -> Boundaries:
    said = [word for words in theirs for word in words]
    written = [word for words in ours for word in words]
    place: dict[int, int] = {}
    for block in SequenceMatcher(None, written, said, autojunk=False).get_matching_blocks():
        place.update({block.a + offset: block.b + offset for offset in range(block.size)})
    known = {start: len(words) for start, words in zip(_starts(theirs), theirs, strict=True)}
    free = set(known) - {0}
    both = short = needless = 0
    for start, words in zip(_starts(ours), ours, strict=True):
        at = place.get(start, -9)
        found = min((one for one in free if abs(one - at) <= NEAR_WORDS), key=lambda one: abs(one - at), default=None)
        if start and found is not None:
            free.discard(found)
            both += 1
        if len(words) <= SHORT_WORDS:
            near = [known[one] for one in known if abs(one - at) <= NEAR_WORDS]
            short += 1
            needless += not any(length <= SHORT_WORDS for length in near)
    return Boundaries(max(0, len(theirs) - 1), max(0, len(ours) - 1), both, short, needless)


def _starts(turns: Sequence[list[str]]) -> list[int]:
    starts, at = [], 0
    for words in turns:
        starts.append(at)
        at += len(words)
    return starts


def _bare(text: str) -> list[str]:
    return re.findall(r"[^\W_]+(?:'[^\W_]+)?", text.casefold())
