"""Open the language models that the settings name."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache, partial
from typing import Final

import structlog

from pipeline.errors import ModelError
from pipeline.settings import Settings
from pipeline.telemetry.metrics import Metrics
from stages.adapters.llm.address import server_address
from stages.adapters.llm.ollama import OllamaClient
from stages.adapters.llm.protocol import LlmClient
from stages.adapters.llm.resilient import STATES, Circuit, ResilientLlm
from stages.errors import StageError
from stages.summarize.check.support import SupportCheck, judged_by_support
from stages.summarize.writer import PROMPT, SummaryWriter

LONG: Final = "long"
"""The call type whose model summarizes calls longer than the context of their own model."""
ANSWER_TOKENS: Final = 1024
"""An answer that fills its schema has some 4,000 characters."""


@asynccontextmanager
async def open_writer(
    settings: Settings,
    metrics: Metrics | None = None,
    *,
    prompt_name: str = PROMPT,
    prompt: str | None = None,
) -> AsyncIterator[SummaryWriter]:
    """Open a summary writer on the Ollama server of the settings. Sends no request yet. Raises ConfigurationError.

    Claims are checked against the transcript, with sentence embeddings if they are installed.
    """
    named = settings.summary_models()

    def show_state(state: str) -> None:
        if metrics is not None:
            for each in STATES:
                metrics.llm_circuit.labels(each).set(each == state)

    circuit = Circuit(_name(settings), changed=show_state)
    clients = {model: _client(settings, model, circuit) for model in dict.fromkeys(named.values())}

    def choose(call_type: str, long: bool) -> LlmClient:
        if call_type in named and call_type != LONG:
            return clients[named[call_type]]
        return clients[named.get(LONG, named[""]) if long else named[""]]

    def count(outcome: str, seconds: float) -> None:
        if metrics is not None:
            metrics.llm_seconds.labels(outcome).observe(seconds)

    try:
        yield SummaryWriter(
            choose,
            judge=judged_by_support(cache(partial(_check, settings))),
            limit=settings.summary_requests,
            prompt_name=prompt_name,
            prompt=prompt,
            on_request=count,
        )
    finally:
        for client in clients.values():
            await client.close()


@asynccontextmanager
async def open_llm(settings: Settings) -> AsyncIterator[LlmClient]:
    """Open the default model, for questions other than summaries. Raises ConfigurationError."""
    llm = _client(settings, settings.summary_models()[""], Circuit(_name(settings)))
    try:
        yield llm
    finally:
        await llm.close()


def _check(settings: Settings) -> SupportCheck:
    """Return the check of claims. Loading embeddings takes seconds."""
    log = structlog.get_logger("callstream.summarize")
    try:
        from pipeline.wiring.embedding import load_embedder

        return SupportCheck(load_embedder(settings))
    except (ModelError, StageError, ImportError) as error:
        log.warning("claims are checked without embeddings", reason=str(error))
        return SupportCheck()


def _name(settings: Settings) -> str:
    """Return the server's name in errors, which are stored with calls."""
    return f"Ollama at {server_address(settings.ollama_url).url}"


def _client(settings: Settings, model: str, circuit: Circuit) -> LlmClient:
    client = OllamaClient(
        settings.ollama_url,
        model,
        timeout_s=settings.summary_timeout_s,
        context_tokens=settings.summary_context,
        answer_tokens=min(ANSWER_TOKENS, settings.summary_context // 2),
    )
    return ResilientLlm(client, circuit)
