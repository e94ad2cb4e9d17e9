"""Calls that state a fact for which a question asks, and calls without one."""

import random
import re
import tomllib
from collections import Counter
from pathlib import Path
from typing import Final

import msgspec

from benchmarks.speech.script import AGENT, CUSTOMER, SETTINGS, ScriptLine, ScriptWriter
from benchmarks.speech.turns import spoken
from schemas.calls import CallRef
from schemas.transcripts import Turn

QUESTIONS: Final = Path(__file__).parent / "questions.toml"
CALL_WORDS: Final = 200
_LEADS: Final = (
    "Is there anything else?",
    "Tell me what happened.",
    "What else can I do for you?",
    "And what was the other thing?",
    "Please go on.",
)
_FOLLOWS: Final = (
    "I will write that down.",
    "Let me see what I can do.",
    "One moment, please.",
    "Thank you for telling me.",
)


class Asked(msgspec.Struct, frozen=True):
    """A question, the call that answers it and the rarest words of the answer; None and "" if no call answers."""

    question: str
    call: CallRef | None
    words: str = ""


def corpus(*, seed: int, calls: int) -> tuple[dict[CallRef, list[Turn]], list[Asked]]:
    """Return calls, at least one for each question with an answer, and the questions. A seed always gives the same."""
    read = tomllib.loads(QUESTIONS.read_text(encoding="utf-8"))
    rng, writer = random.Random(seed), ScriptWriter(seed)
    said: list[str | None] = [pair[0] for pair in read["pairs"]]
    said += [None] * (calls - len(said))
    order = list(range(len(said)))
    rng.shuffle(order)
    turns: dict[CallRef, list[Turn]] = {}
    answered: dict[int, CallRef] = {}
    for number, index in enumerate(order):
        call = CallRef("default", f"call-{number:03d}")
        lines = writer.write(SETTINGS[number % len(SETTINGS)], CALL_WORDS, backchannels=False)
        text = said[index]
        if text is not None:
            answered[index] = call
            at = rng.randrange(2, len(lines) - 2)
            told = [(AGENT, rng.choice(_LEADS)), (CUSTOMER, text), (AGENT, rng.choice(_FOLLOWS))]
            lines[at:at] = [ScriptLine(channel, line) for channel, line in told]
        turns[call] = spoken(call, lines)
    spoken_in = Counter(word for each in turns.values() for word in {*_words(" ".join(turn.text for turn in each))})
    asked = [
        Asked(question, answered[index], " ".join(sorted(_words(text), key=lambda word: (spoken_in[word], word))[:3]))
        for index, (text, question) in enumerate(read["pairs"])
    ]
    return turns, asked + [Asked(question, None) for question in read["absent"]]


def _words(text: str) -> set[str]:
    return {*re.findall(r"[a-z]{3,}", text.lower())}
