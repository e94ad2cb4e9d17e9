"""An `LlmClient` for Ollama, over the official client."""

import asyncio
import contextlib
from typing import Any, Final

import httpx
import ollama

from stages.adapters.llm.address import server_address
from stages.adapters.llm.protocol import Completion, LlmMissing, LlmOverflow, LlmUnavailable, Message

CHECK_TIMEOUT_S: Final = 3.0
_AWAY = (ConnectionError, httpx.HTTPError)


class OllamaClient:
    """One model on one Ollama server. Requests are aborted after `timeout_s`; the server then stops generating.

    A login in `url` is sent as HTTP basic authentication, and shown in no error.

    Ollama truncates a prompt that is too long, from its beginning, without an error. When an answer fills the context,
    it drops the first half. Both can be told from the number of prompt tokens that it reports.
    """

    def __init__(
        self, url: str, model: str, *, timeout_s: float = 120.0, context_tokens: int = 8192, answer_tokens: int = 1024
    ) -> None:
        self.model = model
        self.context_tokens = context_tokens
        self.answer_tokens = answer_tokens
        address = server_address(url)
        self._url = address.url
        self._client = ollama.AsyncClient(host=address.url, timeout=timeout_s, auth=address.login)
        self._checked_context = False

    async def check(self) -> None:
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                listed = await self._client.list()
                if not {self.model, f"{self.model}:latest"} & {entry.model for entry in listed.models}:
                    raise LlmMissing(f"Ollama at {self._url} does not have the model {self.model}")
                if not self._checked_context:
                    await self._limit_context()
        except TimeoutError as error:
            raise LlmUnavailable(f"Ollama at {self._url} did not answer within {CHECK_TIMEOUT_S:g} s") from error
        except (*_AWAY, ollama.ResponseError, ValueError) as error:
            raise LlmUnavailable(f"no Ollama answers at {self._url}") from error

    async def _limit_context(self) -> None:
        """Limit the context to the model's: Ollama silently uses the shorter of both.

        A server that only imitates Ollama may not report it.
        """
        lengths: list[Any] = []
        with contextlib.suppress(ollama.ResponseError, ValueError):
            shown = await self._client.show(self.model)
            lengths = [value for name, value in (shown.modelinfo or {}).items() if name.endswith(".context_length")]
        self.context_tokens = min([self.context_tokens, *(int(length) for length in lengths)])
        self.answer_tokens = min(self.answer_tokens, self.context_tokens // 2)
        self._checked_context = True

    async def chat(self, messages: list[Message], *, schema: dict[str, Any]) -> Completion:
        try:
            response = await self._client.chat(
                model=self.model,
                messages=[{"role": message.role, "content": message.content} for message in messages],
                format=schema,
                options={"temperature": 0, "num_ctx": self.context_tokens, "num_predict": self.answer_tokens},
            )
        except httpx.TimeoutException as error:
            raise LlmUnavailable(f"Ollama at {self._url} took too long") from error
        except ollama.ResponseError as error:
            missing = error.status_code == httpx.codes.NOT_FOUND
            kind = LlmMissing if missing else LlmUnavailable
            raise kind(f"Ollama at {self._url} failed: {error}", passing=not missing) from error
        except (*_AWAY, ValueError) as error:
            raise LlmUnavailable(f"Ollama at {self._url} failed: {error}", passing=True) from error
        prompt_tokens, room = response.prompt_eval_count or 0, self.context_tokens - self.answer_tokens
        if prompt_tokens > room:
            raise LlmOverflow(tokens=prompt_tokens, room=room)
        return Completion(
            text=response.message.content or "",
            prompt_tokens=prompt_tokens,
            answer_tokens=response.eval_count or 0,
        )

    async def close(self) -> None:
        await self._client.close()  # type: ignore[no-untyped-call]
