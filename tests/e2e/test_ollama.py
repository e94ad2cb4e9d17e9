"""The summarize stage against a real Ollama server with a small model, and against its absence and death.

The model (135 million parameters) proves the path, not the quality: no test looks at what it says.
"""

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import ollama
import pytest

from schemas.summaries import Summary
from stages.summarize.ollama_client import OllamaClient
from stages.summarize.stage import SummarizeStage
from tests.requirements import require_built
from tests.unit.stages.summarize.calls import CALL, completed, feed, turns

READY_WITHIN_S = 30.0
MODEL_TIMEOUT_S = 240.0
"""It answers in 5 s on two idle cores, and in minutes on crowded ones."""


class Server:
    """A running `ollama serve` of ours."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, model: str) -> None:
        self.process = process
        self.url = url
        self.model = model

    def kill(self) -> None:
        """Kill the server and the runner that it has started."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="module")
def build() -> dict[str, str]:
    """Where the binary and the models are, as `infra/dev/ollama.sh` says."""
    return require_built("ollama", "builds one in about 5 minutes")


@contextmanager
def serving(build: dict[str, str], log: Path) -> Iterator[Server]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{probe.getsockname()[1]}"
    environment = {**os.environ, "OLLAMA_HOST": host, "OLLAMA_MODELS": build["OLLAMA_MODELS"]}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [build["OLLAMA_BINARY"], "serve"],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Server(process, f"http://{host}", build["OLLAMA_MODEL"])
    try:
        asyncio.run(_wait_until_ready(server))
        yield server
    finally:
        if process.poll() is None:
            server.kill()


async def _wait_until_ready(server: Server) -> None:
    client = ollama.AsyncClient(host=server.url)
    async with asyncio.timeout(READY_WITHIN_S):
        while True:
            try:
                await client.list()
                break
            except ConnectionError:
                await asyncio.sleep(0.1)
    await client.close()  # type: ignore[no-untyped-call]


async def _wait_until_loaded(server: Server) -> None:
    client = ollama.AsyncClient(host=server.url)
    async with asyncio.timeout(READY_WITHIN_S):
        while True:
            if (await client.ps()).models:
                break
            await asyncio.sleep(0.05)
    await client.close()  # type: ignore[no-untyped-call]


@pytest.fixture(scope="module")
def server(build: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(build, tmp_path_factory.mktemp("ollama") / "server.log") as running:
        yield running


@asynccontextmanager
async def connected(url: str, model: str, *, timeout_s: float = MODEL_TIMEOUT_S) -> AsyncIterator[OllamaClient]:
    client = OllamaClient(url, model, timeout_s=timeout_s, context_tokens=4096, answer_tokens=700)
    yield client
    await client.close()


async def summarized(client: OllamaClient) -> Summary:
    outputs = await feed(SummarizeStage(client, timeout_s=MODEL_TIMEOUT_S).open(CALL, None), completed(turns()), 0)
    (summary,) = [output.record for output in outputs if isinstance(output.record, Summary)]
    return summary


@pytest.mark.slow
async def test_a_real_model_writes_a_summary_whose_citations_all_exist(server: Server) -> None:
    async with connected(server.url, server.model) as client:
        summary = await summarized(client)
    assert (summary.method, summary.model) == ("llm", server.model)
    assert summary.detail.startswith("prompt summary-1")
    assert summary.text
    segment_ids = {segment_id for turn in turns() for segment_id in turn.segment_ids}
    for point in summary.key_points:
        assert point.segment_ids
        assert set(point.segment_ids) <= segment_ids


@pytest.mark.slow
async def test_a_model_that_the_server_does_not_have_gives_an_extractive_summary(server: Server) -> None:
    async with connected(server.url, "nobody-has-this:1b") as client:
        summary = await summarized(client)
    assert summary.method == "extractive"
    assert summary.detail == f"Ollama at {server.url} does not have the model nobody-has-this:1b"


@pytest.mark.slow
async def test_a_server_that_is_too_slow_gives_an_extractive_summary(server: Server) -> None:
    async with connected(server.url, server.model, timeout_s=0.2) as client:
        summary = await summarized(client)
    assert (summary.method, summary.detail) == ("extractive", f"Ollama at {server.url} took too long")


@pytest.mark.slow
def test_a_server_killed_while_it_writes_gives_an_extractive_summary(build: dict[str, str], tmp_path: Path) -> None:
    with serving(build, tmp_path / "server.log") as running:

        async def kill_while_writing() -> Summary:
            async with connected(running.url, running.model) as client:
                summarizing = asyncio.create_task(summarized(client))
                await _wait_until_loaded(running)
                await asyncio.sleep(0.5)
                assert not summarizing.done()
                running.kill()
                return await summarizing

        summary = asyncio.run(kill_while_writing())
    assert summary.method == "extractive"
    assert summary.detail.startswith(f"Ollama at {running.url} failed")
    assert summary.key_points


async def test_without_a_server_the_summary_is_extractive() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        async with connected(url, "llama3.2:1b") as client:
            summary = await summarized(client)
    assert (summary.method, summary.detail) == ("extractive", f"no Ollama answers at {url}")
