"""Estimates of how much text fits a prompt, corrected by the counts of the model's own tokenizer."""

import math
from collections.abc import Sequence
from typing import Final

from stages.adapters.llm.protocol import Completion, Message

BYTES_PER_TOKEN: Final = 3.0
"""Initial estimate: English has about four bytes of UTF-8 per token, the label and speaker of a line fewer."""
MARGIN: Final = 0.9
LEAST_SAMPLE_TOKENS: Final = 200
"""Shorter prompts do not count: they consist mostly of the server's own frame."""
FRAME_TOKENS: Final = 64
"""Tokens that the server adds around the messages: roles, separators."""


class TokenBudget:
    """Estimates the tokens of prompts for one model, by the densest text seen so far.

    This is for planning. The server decides if a prompt fits, see `LlmClient.chat`.
    """

    def __init__(self) -> None:
        self._densest = math.inf
        """Bytes per token of the densest text seen so far."""

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
        """Correct the estimate after a prompt planned for `room` tokens had at least `tokens`."""
        texts = [message.content for message in messages]
        if self.tokens(texts) <= room:
            n_bytes = sum(len(text.encode()) for text in texts)
            self._densest = min(self._bytes_per_token * MARGIN, n_bytes / tokens)

    def fitting(self, lines: Sequence[str], *, room: int) -> int:
        """Return how many of the first lines fit `room` tokens; at least one."""
        used = 0
        for index, line in enumerate(lines):
            used += self.tokens([line]) - FRAME_TOKENS
            if used > room:
                return max(1, index)
        return len(lines)
