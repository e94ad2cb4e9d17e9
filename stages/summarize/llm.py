"""A summary written by a language model: what it is asked, what it must answer, and what of that is believed."""

from importlib import resources
from typing import Annotated, Any, Final, Literal, Protocol

import msgspec

from schemas.summaries import KeyPoint
from schemas.transcripts import Turn
from stages.summarize.citations import Citations

PROMPT: Final = "summary-1"

BYTES_PER_TOKEN: Final = 3
"""Text is counted as a token for every 3 bytes of UTF-8: English has more bytes to a token, so it is never too few."""

SUMMARY_CHARS: Final = 800
LINE_CHARS: Final = 240
MAX_ITEMS: Final = 5

_Label = Annotated[str, msgspec.Meta(pattern="^S[0-9]{1,4}$")]
_Line = Annotated[str, msgspec.Meta(max_length=LINE_CHARS)]


class DraftPoint(msgspec.Struct, frozen=True):
    text: _Line
    segments: Annotated[list[_Label], msgspec.Meta(min_length=1, max_length=MAX_ITEMS)]


class Draft(msgspec.Struct, frozen=True):
    """The model's answer. The limits are in the schema that it must follow, so that it comes to an end."""

    summary: Annotated[str, msgspec.Meta(min_length=1, max_length=SUMMARY_CHARS)]
    key_points: Annotated[list[DraftPoint], msgspec.Meta(max_length=MAX_ITEMS)]
    sentiment: Literal["positive", "neutral", "negative", "mixed"]
    actions: Annotated[list[_Line], msgspec.Meta(max_length=MAX_ITEMS)]
    topics: Annotated[list[_Line], msgspec.Meta(max_length=MAX_ITEMS)]


class LlmSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A draft after the checks; `dropped` counts key points that cited nothing that exists."""

    text: str
    key_points: list[KeyPoint]
    sentiment: Literal["positive", "neutral", "negative", "mixed"]
    actions: list[str]
    topics: list[str]
    dropped: int


class Message(msgspec.Struct, frozen=True):
    role: Literal["system", "user", "assistant"]
    content: str


class LlmError(Exception):
    """No usable answer from the language model. The message is the reason, for `Summary.detail`."""


class LlmClient(Protocol):
    """A language model server, seen from this stage."""

    model: str
    context_tokens: int
    """How many tokens a prompt and its answer may have together."""
    answer_tokens: int
    """How many of them are kept for the answer."""

    async def check(self) -> None:
        """Raises LlmError, with the reason, within a few seconds if the server or the model cannot be used."""
        ...

    async def chat(self, messages: list[Message], *, schema: dict[str, Any]) -> str:
        """The model's answer, asked to follow the JSON Schema. May be cut. Raises LlmError."""
        ...


async def llm_summary(client: LlmClient, turns: list[Turn], *, language: str) -> LlmSummary:
    """Ask for a summary of the call; an answer that does not follow the schema is asked for once more.

    Raises LlmError if the model cannot be used, the transcript does not fit its context, or both answers are unusable.
    """
    citations = Citations(turns)
    system = resources.files("stages.summarize").joinpath("prompts", f"{PROMPT}.md").read_text("utf-8")
    messages = [Message("system", system.replace("{language}", language)), Message("user", citations.transcript())]
    needed = sum(len(message.content.encode()) for message in messages) // BYTES_PER_TOKEN
    if needed + client.answer_tokens > client.context_tokens:
        room = client.context_tokens - client.answer_tokens
        raise LlmError(f"the call has about {needed} tokens and {room} fit the model's context")
    await client.check()
    schema = draft_schema()
    answer = await client.chat(messages, schema=schema)
    try:
        draft = _decoded(answer)
    except msgspec.MsgspecError as error:
        again = f"That was not the JSON that was asked for ({error}). Answer again, shorter, with the JSON only."
        messages = [*messages, Message("assistant", answer[:LINE_CHARS]), Message("user", again)]
        try:
            draft = _decoded(await client.chat(messages, schema=schema))
        except msgspec.MsgspecError as second_error:
            raise LlmError(f"the model did not answer with the JSON asked for: {second_error}") from second_error
    key_points, dropped = citations.checked([(point.text, point.segments) for point in draft.key_points])
    return LlmSummary(
        text=draft.summary.strip(),
        key_points=key_points,
        sentiment=draft.sentiment,
        actions=[action.strip() for action in draft.actions if action.strip()],
        topics=[topic.strip() for topic in draft.topics if topic.strip()],
        dropped=dropped,
    )


def draft_schema() -> dict[str, Any]:
    """The JSON Schema of `Draft` in one piece: grammar builders differ in how they follow references."""
    schema = msgspec.json.schema(Draft)
    definitions: dict[str, Any] = schema["$defs"]

    def inlined(node: Any) -> Any:
        if isinstance(node, dict):
            if "$ref" in node:
                return inlined(definitions[node["$ref"].rpartition("/")[2]])
            return {name: inlined(child) for name, child in node.items() if name != "$defs"}
        return [inlined(child) for child in node] if isinstance(node, list) else node

    whole: dict[str, Any] = inlined(schema)
    return whole


def _decoded(answer: str) -> Draft:
    draft = msgspec.json.decode(answer, type=Draft)
    if not draft.summary.strip():
        raise msgspec.ValidationError("the summary is empty")
    return draft
