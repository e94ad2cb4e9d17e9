"""The one file that speaks to Ollama: `stages.summarize.llm.LlmClient` over the official client."""

import asyncio
from typing import Any, Final

import httpx
import ollama

from stages.summarize.llm import LlmError, Message

CHECK_TIMEOUT_S: Final = 3.0


class OllamaClient:
    """One model on one Ollama server. Requests are aborted after `timeout_s`; the server then stops generating."""

    def __init__(
        self, url: str, model: str, *, timeout_s: float = 120.0, context_tokens: int = 8192, answer_tokens: int = 1024
    ) -> None:
        self.model = model
        self.context_tokens = context_tokens
        self.answer_tokens = answer_tokens
        self._url = url
        self._client = ollama.AsyncClient(host=url, timeout=timeout_s)

    async def check(self) -> None:
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                listed = await self._client.list()
        except TimeoutError as error:
            raise LlmError(f"Ollama at {self._url} did not answer within {CHECK_TIMEOUT_S:g} s") from error
        except (ConnectionError, httpx.HTTPError, ollama.ResponseError, ValueError) as error:
            raise LlmError(f"no Ollama answers at {self._url}") from error
        if not {self.model, f"{self.model}:latest"} & {entry.model for entry in listed.models}:
            raise LlmError(f"Ollama at {self._url} does not have the model {self.model}")

    async def chat(self, messages: list[Message], *, schema: dict[str, Any]) -> str:
        try:
            response = await self._client.chat(
                model=self.model,
                messages=[{"role": message.role, "content": message.content} for message in messages],
                format=schema,
                options={"temperature": 0, "num_ctx": self.context_tokens, "num_predict": self.answer_tokens},
            )
        except httpx.TimeoutException as error:
            raise LlmError(f"Ollama at {self._url} took too long") from error
        except (ConnectionError, httpx.HTTPError, ollama.ResponseError, ValueError) as error:
            raise LlmError(f"Ollama at {self._url} failed: {error}") from error
        return response.message.content or ""

    async def close(self) -> None:
        await self._client.close()  # type: ignore[no-untyped-call]
