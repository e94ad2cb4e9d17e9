"""Retries and a circuit breaker around a language model's server."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from purgatory import AsyncCircuitBreakerFactory
from purgatory.domain.messages.base import Event
from purgatory.domain.messages.events import ContextChanged
from purgatory.domain.model import OpenedState
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from stages.adapters.llm.protocol import Completion, LlmClient, LlmMissing, LlmOverflow, LlmUnavailable, Message

ATTEMPTS: Final = 3
LONGEST_PAUSE_S: Final = 8.0
FAILURES: Final = 3
"""Consecutive failures that open the circuit."""
REST_S: Final = 30.0
"""An open circuit rejects requests for this long. Then one request tries the server."""

STATES: Final = ("closed", "half-opened", "opened")


class Circuit:
    """The circuit breaker of one server, shared by the clients of all its models.

    `changed` is called with each new state, one of `STATES`. A missing model or a prompt that is too long is no failure
    of the server.
    """

    def __init__(
        self,
        name: str,
        *,
        failures: int = FAILURES,
        rest_s: float = REST_S,
        changed: Callable[[str], None] = lambda _state: None,
    ) -> None:
        self.name = name
        self.rest_s = rest_s
        self._changed = changed
        self._last_failure = ""
        self._breakers = AsyncCircuitBreakerFactory(
            default_threshold=failures, default_ttl=rest_s, exclude=[LlmMissing, LlmOverflow, asyncio.CancelledError]
        )
        self._breakers.add_listener(self._tell)
        changed(STATES[0])

    async def call(self, work: Callable[[], Any]) -> Any:
        """Run `work` and return its result. Raises LlmUnavailable while the circuit is open.

        The reason is then that of the last failure, so that summaries give the same reason whether or not the server
        was asked.
        """
        try:
            async with await self._breakers.get_breaker(self.name):
                return await work()
        except OpenedState:
            raise LlmUnavailable(self._last_failure) from None
        except LlmUnavailable as error:
            self._last_failure = str(error)
            raise

    def _tell(self, _name: str, _kind: str, event: Event) -> None:
        if isinstance(event, ContextChanged):
            self._changed(event.state)


class ResilientLlm:
    """An `LlmClient` that retries passing failures with random, growing pauses."""

    def __init__(self, client: LlmClient, circuit: Circuit, *, first_pause_s: float = 0.5) -> None:
        self.model = client.model
        self._client = client
        self._circuit = circuit
        self._first_pause_s = first_pause_s

    @property
    def context_tokens(self) -> int:
        return self._client.context_tokens

    @property
    def answer_tokens(self) -> int:
        return self._client.answer_tokens

    async def check(self) -> None:
        await self._circuit.call(self._client.check)

    async def chat(self, messages: list[Message], *, schema: dict[str, Any]) -> Completion:
        retrying = AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, LlmUnavailable) and error.passing),
            wait=wait_random_exponential(multiplier=self._first_pause_s, max=LONGEST_PAUSE_S),
            stop=stop_after_attempt(ATTEMPTS),
            reraise=True,
        )
        async for attempt in retrying:
            with attempt:
                answer: Completion = await self._circuit.call(lambda: self._client.chat(messages, schema=schema))
        return answer

    async def close(self) -> None:
        await self._client.close()
