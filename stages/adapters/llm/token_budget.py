"""How much text fits a prompt. Only the model's own tokenizer knows, so what it counted corrects the estimate."""

import math
from collections.abc import Sequence
from typing import Final

from stages.adapters.llm.protocol import Completion, Message

BYTES_PER_TOKEN: Final = 3.0
"""The first estimate: English has about four bytes of UTF-8 to a token, a line's label and speaker fewer."""
MARGIN: Final = 0.9
LEAST_SAMPLE_TOKENS: Final = 200
"""Shorter prompts are mostly the server's own frame around them."""
FRAME_TOKENS: Final = 64
"""What the server puts around the messages: roles, separators."""


class TokenBudget:
    """Estimates the tokens of prompts for one model. After each answer it counts with the densest text seen so far.

    It only plans. Whether a prompt fitted says the server, see `LlmClient.chat`.
    """

    def __init__(self) -> None:
        self._densest = math.inf
        """Bytes per token of the densest text seen."""

    @property
    def _bytes_per_token(self) -> float:
        return BYTES_PER_TOKEN if math.isinf(self._densest) else self._densest * MARGIN

    def tokens(self, texts: Sequence[str]) -> int:
        return FRAME_TOKENS + round(sum(len(text.encode()) + 1 for text in texts) / self._bytes_per_token)

    def observe(self, messages: Sequence[Message], answer: Completion) -> None:
        if answer.prompt_tokens >= LEAST_SAMPLE_TOKENS:
            n_bytes = sum(len(message.content.encode()) for message in messages)
            self._densest = min(self._densest, n_bytes / (answer.prompt_tokens - FRAME_TOKENS))

    def overflowed(self, messages: Sequence[Message], *, tokens: int, room: int) -> None:
        """A prompt that was planned into `room` was too long; `tokens` is the least that it can have had."""
        texts = [message.content for message in messages]
        if self.tokens(texts) <= room:
            n_bytes = sum(len(text.encode()) for text in texts)
            self._densest = min(self._bytes_per_token * MARGIN, n_bytes / tokens)

    def fitting(self, lines: Sequence[str], *, room: int) -> int:
        """How many of the first lines fit `room` tokens; at least one."""
        used = 0
        for index, line in enumerate(lines):
            used += self.tokens([line]) - FRAME_TOKENS
            if used > room:
                return max(1, index)
        return len(lines)
