"""The interface of a language model's server, and its errors."""

from importlib import resources
from typing import Any, Literal, Protocol

import msgspec


def prompt_text(package: str, name: str) -> str:
    """Return a prompt of a stage's package. Its name ends with its version. Raises FileNotFoundError."""
    return resources.files(package).joinpath("prompts", f"{name}.md").read_text("utf-8")


def json_schema(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the JSON Schema of a struct without references: grammar builders differ in how they follow them."""
    schema = msgspec.json.schema(kind)
    definitions: dict[str, Any] = schema["$defs"]

    def inlined(node: Any) -> Any:
        if isinstance(node, dict):
            if "$ref" in node:
                return inlined(definitions[node["$ref"].rpartition("/")[2]])
            return {name: inlined(child) for name, child in node.items() if name != "$defs"}
        return [inlined(child) for child in node] if isinstance(node, list) else node

    whole: dict[str, Any] = inlined(schema)
    return whole


class Message(msgspec.Struct, frozen=True):
    role: Literal["system", "user", "assistant"]
    content: str


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """The text that a model wrote; it may be truncated.

    `prompt_tokens` is the prompt's length by the model's own tokenizer; 0 if the server does not report it.
    """

    text: str
    prompt_tokens: int = 0
    answer_tokens: int = 0


class LlmError(Exception):
    """The language model gave no usable answer. The message is the reason that `Summary.detail` gives.

    LlmError
    ├── LlmUnavailable   the server cannot be used now: the same request may succeed later
    │   └── LlmMissing   the server answers but does not have the model
    └── LlmOverflow      the prompt does not fit the context: a shorter one may
    """


class LlmUnavailable(LlmError):
    """With `passing` the failure may be over in a moment: retry the request at once."""

    def __init__(self, message: str, *, passing: bool = False) -> None:
        super().__init__(message)
        self.passing = passing


class LlmMissing(LlmUnavailable):
    pass


class LlmOverflow(LlmError):
    def __init__(self, *, tokens: int, room: int) -> None:
        super().__init__(f"the prompt has {tokens} tokens and {room} fit the model's context beside the answer")
        self.tokens = tokens
        self.room = room


class LlmClient(Protocol):
    """One model on one server."""

    model: str

    @property
    def context_tokens(self) -> int:
        """Most tokens of a prompt and its answer together. May become less in `check`."""
        ...

    @property
    def answer_tokens(self) -> int:
        """How many of them are reserved for the answer."""
        ...

    async def check(self) -> None:
        """Raise LlmUnavailable with the reason, within a few seconds, if the server or the model cannot be used."""
        ...

    async def chat(self, messages: list[Message], *, schema: dict[str, Any]) -> Completion:
        """Return the model's answer, which is constrained to the JSON Schema if the server can do that.

        Raises LlmUnavailable, and LlmOverflow if the model did not read the whole prompt.
        """
        ...

    async def close(self) -> None: ...
