"""Synthetic transcripts for tests of the summarize stage, and a scripted language model."""

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec

from schemas.calls import CallRef
from schemas.segments import Word
from schemas.transcripts import CallMetrics, TranscriptCompleted, TranscriptRecord, Turn
from schemas.utterances import Channel
from stages.adapters.llm.protocol import Completion, LlmOverflow, LlmUnavailable, Message
from stages.protocol import CallProcessor, Event, Origin, Output
from stages.summarize.writer import SummaryWriter

CALL = CallRef("default", "call-1")

INTERNET_DOWN = (
    ("agent", "Thank you for calling Harbour Broadband, this is Anna. How can I help you?"),
    ("customer", "My internet has been down since Monday and I work from home."),
    ("agent", "I am sorry to hear that. I see a fault in your street."),
    ("agent", "A technician can repair the internet line on Thursday at ten."),
    ("customer", "Thursday is too late for me, can the technician come any earlier?"),
    ("agent", "I can send the technician on Wednesday at two."),
    ("customer", "All right, Wednesday at two. Thank you, bye."),
)


def turn(number: int, speaker: str, text: str, *, segment_ids: list[str] | None = None) -> Turn:
    start_s = number * 5.0
    words = [Word(text=word, start_s=start_s, end_s=start_s, probability=0.9) for word in text.split()]
    return Turn(
        tenant=CALL.tenant,
        call_id=CALL.call_id,
        turn_id=f"turn-{number}",
        revision=1,
        speaker=speaker,
        channel=0 if speaker == "agent" else 1,
        start_s=start_s,
        end_s=start_s + 4.0,
        text=text,
        words=words,
        segment_ids=segment_ids or [f"segment-{number}"],
        language="en",
    )


def turns(lines: Sequence[tuple[str, str]] = INTERNET_DOWN) -> list[Turn]:
    return [turn(number, speaker, text) for number, (speaker, text) in enumerate(lines)]


def completed(
    spoken: Sequence[Turn], *, revision: int = 1, part: int = 1, parts: int = 1, provisional: bool = False
) -> TranscriptCompleted:
    return TranscriptCompleted(
        tenant=CALL.tenant,
        call_id=CALL.call_id,
        revision=revision,
        part=part,
        parts=parts,
        duration_s=60.0,
        channels=[Channel(0, "agent"), Channel(1, "customer")],
        turns=list(spoken),
        metrics=CallMetrics(
            duration_s=60.0,
            speech_s=0.0,
            silence_s=60.0,
            longest_silence_s=60.0,
            overlap_s=0.0,
            interruptions=0,
            channels=[],
        ),
        gaps=[],
        language="en",
        utterances=len(spoken),
        provisional=provisional,
    )


async def feed(
    processor: CallProcessor[TranscriptRecord], record: TranscriptRecord, seq: int, *, given_up: str | None = None
) -> list[Output]:
    """Return the outputs of one input. `given_up` is why it is given up."""
    origin = Origin("in", 0, seq, CALL.key)
    event = Event(seq=seq, event_id=f"in/{seq}", origin=origin, timestamp_s=1_700_000_000.0 + seq)
    outputs = processor.submit(record, event) if given_up is None else processor.give_up(record, event, reason=given_up)
    return [output async for output in outputs]


def answer(**changed: Any) -> str:
    """Return a model's answer to `INTERNET_DOWN`."""
    draft = {
        "summary": "The customer's internet is down. A technician comes on Wednesday.",
        "key_points": [
            {"text": "The internet has been down since Monday.", "segments": ["S2"]},
            {"text": "A technician comes on Wednesday at two.", "segments": ["S6", "S7"]},
        ],
        "sentiment": "mixed",
        "speakers": [{"speaker": "Agent", "sentiment": "neutral"}, {"speaker": "customer", "sentiment": "mixed"}],
        "actions": [{"text": "Send a technician on Wednesday at two.", "owner": "the agent", "segments": ["S6"]}],
        "topics": ["internet outage"],
        "outcome": "A technician comes on Wednesday.",
    }
    return msgspec.json.encode({**draft, **changed}).decode()


class ScriptedLlm:
    """A model that gives `answers` in turn: text, an exception to raise, or seconds to wait before a default answer.

    It counts `tokens_per_word` for the words of prompts, and refuses those that do not fit.
    """

    model = "scripted"

    def __init__(
        self,
        *answers: str | Exception | float,
        missing: str | None = None,
        context_tokens: int = 8192,
        tokens_per_word: float = 0.0,
    ) -> None:
        self.context_tokens = context_tokens
        self.answer_tokens = 512
        self.asked: list[list[Message]] = []
        self.schemas: list[dict[str, Any]] = []
        self.missing = missing
        self._answers = list(answers)
        self._tokens_per_word = tokens_per_word

    async def check(self) -> None:
        if self.missing is not None:
            raise LlmUnavailable(self.missing)

    async def chat(self, messages: list[Message], *, schema: dict[str, Any]) -> Completion:
        self.asked.append(messages)
        self.schemas.append(schema)
        tokens = round(self._tokens_per_word * sum(len(message.content.split()) for message in messages))
        room = self.context_tokens - self.answer_tokens
        if tokens > room:
            raise LlmOverflow(tokens=min(tokens, self.context_tokens), room=room)
        return Completion(text=await self.written(messages, schema), prompt_tokens=tokens)

    async def written(self, messages: list[Message], schema: dict[str, Any]) -> str:
        given = self._answers.pop(0)
        if isinstance(given, Exception):
            raise given
        if isinstance(given, float):
            await asyncio.sleep(given)
            return answer()
        return given

    async def close(self) -> None:
        pass


class NotingLlm(ScriptedLlm):
    """A model whose notes, and so summaries, are the first and the last line that it reads."""

    async def written(self, messages: list[Message], schema: dict[str, Any]) -> str:
        lines = messages[1].content.splitlines()
        points = [
            {"text": line.partition("] ")[2][:240], "segments": line[1:].partition("]")[0].split()[:5]}
            for line in dict.fromkeys([lines[0], lines[-1]])
            if line.startswith("[")
        ]
        if "points" in schema["properties"]:
            return msgspec.json.encode({"points": points, "actions": [], "speakers": []}).decode()
        return answer(key_points=points, actions=[])


def writer(llm: ScriptedLlm) -> SummaryWriter:
    return SummaryWriter(lambda _type, _long: llm)
