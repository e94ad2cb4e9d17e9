"""A script as the turns of a transcript, without a voice."""

from typing import Final

from benchmarks.speech.script import ROLES, ScriptLine
from schemas.calls import CallRef
from schemas.transcripts import Turn

SECONDS_PER_WORD: Final = 0.4
PAUSE_S: Final = 0.3
"""Between two lines."""


def spoken(call: CallRef, lines: list[ScriptLine]) -> list[Turn]:
    """Return a turn for each line, one after the other; each has its own segment."""
    turns: list[Turn] = []
    start_s = 0.0
    for number, line in enumerate(lines):
        end_s = start_s + SECONDS_PER_WORD * len(line.text.split())
        turns.append(
            Turn(
                tenant=call.tenant,
                call_id=call.call_id,
                turn_id=str(call.derived_id("turn", number)),
                revision=1,
                speaker=ROLES[line.channel],
                channel=line.channel,
                start_s=round(start_s, 3),
                end_s=round(end_s, 3),
                text=line.text,
                words=[],
                segment_ids=[f"segment-{number}"],
                language="en",
            )
        )
        start_s = end_s + PAUSE_S
    return turns
