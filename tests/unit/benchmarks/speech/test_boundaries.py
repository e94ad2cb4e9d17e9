"""Starts of turns against a script."""

import msgspec
import pytest

from benchmarks.speech.boundaries import Boundaries, boundaries, script_turns, turns_of
from benchmarks.speech.corpus import Call, TruthLine
from schemas.transcripts import Turn
from tests.unit.stages.merge.scripted import segment


def line(channel: int, start_s: float, text: str) -> TruthLine:
    return TruthLine(channel, start_s, start_s + 0.5 * len(text.split()), text, [])


LINES = [
    line(0, 0.0, "Good morning, what can I do for you?"),
    line(1, 1.0, "Yes."),
    line(1, 5.0, "My phone is broken."),
    line(0, 8.0, "I see."),
    line(0, 9.5, "Let me look."),
]
CALL = Call(name="c", file="", variant="overlap", duration_s=20.0, sha256="", lines=LINES)


def test_lines_in_a_row_are_one_turn_and_one_inside_another_ends_nothing() -> None:
    assert [(turn.channel, " ".join(turn.words)) for turn in script_turns(LINES)] == [
        (0, "good morning what can i do for you"),
        (1, "yes"),
        (1, "my phone is broken"),
        (0, "i see let me look"),
    ]


async def heard(*texts: tuple[int, float, str]) -> list[Turn]:
    return await turns_of(CALL, [segment(f"s{at}", channel, at, text) for channel, at, text in texts])


@pytest.mark.anyio
async def test_a_transcript_like_the_script_has_all_starts() -> None:
    turns = await heard(*((one.channel, one.start_s, one.text) for one in LINES))
    assert boundaries(CALL, turns) == Boundaries(script=2, transcript=2, both=2, short=1, needless=0)


def test_a_torn_turn_counts_against_the_transcript() -> None:
    whole = Turn(
        tenant="default",
        call_id="c",
        turn_id="",
        revision=1,
        speaker="",
        channel=0,
        start_s=0.0,
        end_s=1.0,
        text="",
        words=[],
        segment_ids=[],
        language="en",
    )
    texts = ["Good morning what", "can I", "do for you", "I see let me look"]
    turns = [msgspec.structs.replace(whole, text=text) for text in texts]
    found = boundaries(CALL, turns)
    assert (found.script, found.transcript, found.both, found.needless) == (2, 3, 1, 1)
