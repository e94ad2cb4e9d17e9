"""The summarize stage against a real Ollama server with a small model, and against its absence and death.

The model (135 million parameters) proves the path, not the quality: no test looks at what it says.
"""

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import ollama
import pytest

from schemas.summaries import Summary
from stages.adapters.llm.ollama import OllamaClient
from stages.adapters.llm.protocol import Completion, LlmError, LlmOverflow, Message
from stages.summarize.stage import SummarizeStage
from stages.summarize.writer import SummaryWriter
from tests.support.processes.deployment import Deployment
from tests.support.requirements import require_built
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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def serving(build: dict[str, str], log: Path, *, port: int | None = None) -> Iterator[Server]:
    host = f"127.0.0.1:{port or free_port()}"
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
    writer = SummaryWriter(lambda _type, _long: client)
    outputs = await feed(SummarizeStage(writer).open(CALL, None), completed(turns()), 0)
    (summary,) = [output.record for output in outputs if isinstance(output.record, Summary)]
    return summary


@pytest.mark.ollama
@pytest.mark.slow
async def test_a_real_model_writes_a_summary_whose_citations_all_exist(server: Server) -> None:
    async with connected(server.url, server.model) as client:
        summary = await summarized(client)
    assert (summary.method, summary.model) == ("llm", server.model)
    assert summary.detail.startswith("prompt summary-3")
    assert summary.text
    segment_ids = {segment_id for turn in turns() for segment_id in turn.segment_ids}
    for point in summary.key_points:
        assert point.segment_ids
        assert set(point.segment_ids) <= segment_ids


@pytest.mark.ollama
@pytest.mark.slow
async def test_a_model_that_the_server_does_not_have_gives_an_extractive_summary(server: Server) -> None:
    async with connected(server.url, "nobody-has-this:1b") as client:
        summary = await summarized(client)
    assert summary.method == "extractive"
    assert summary.detail == f"Ollama at {server.url} does not have the model nobody-has-this:1b"


@pytest.mark.ollama
@pytest.mark.slow
async def test_a_server_that_is_too_slow_gives_an_extractive_summary(server: Server) -> None:
    async with connected(server.url, server.model, timeout_s=0.2) as client:
        summary = await summarized(client)
    assert (summary.method, summary.detail) == ("extractive", f"Ollama at {server.url} took too long")


@pytest.mark.ollama
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
    url = f"http://127.0.0.1:{free_port()}"
    async with connected(url, "llama3.2:1b") as client:
        summary = await summarized(client)
    assert (summary.method, summary.detail) == ("extractive", f"no Ollama answers at {url}")


@pytest.mark.ollama
@pytest.mark.slow
async def test_ollama_cuts_a_prompt_that_is_too_long_and_that_is_an_error_here(server: Server) -> None:
    """The answer to it has status 200: only the number of tokens tells."""
    long = [Message("user", " ".join(f"word{number}" for number in range(2_000)))]
    short = [Message("user", "Say hello.")]
    client = OllamaClient(server.url, server.model, timeout_s=MODEL_TIMEOUT_S, context_tokens=1024, answer_tokens=64)
    try:
        with pytest.raises(LlmOverflow, match="the prompt has 1024 tokens and 960 fit"):
            await client.chat(long, schema={"type": "object"})
        assert 10 < (await client.chat(short, schema={"type": "object"})).prompt_tokens < 100
    finally:
        await client.close()


@pytest.mark.ollama
@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_a_call_longer_than_the_context_is_read_whole_by_a_real_model(server: Server) -> None:
    lines = [
        (("agent", "customer")[number % 2], f"This is sentence number {number} of the call.") for number in range(90)
    ]
    spoken = turns(lines)
    client = OllamaClient(server.url, server.model, timeout_s=MODEL_TIMEOUT_S, context_tokens=2048, answer_tokens=512)
    asked: list[tuple[list[Message], int]] = []

    class Listening:
        """The real client, and what went through it."""

        model, context_tokens, answer_tokens = client.model, client.context_tokens, client.answer_tokens
        check, close = client.check, client.close

        async def chat(self, messages: list[Message], *, schema: dict[str, Any]) -> Completion:
            answer = await client.chat(messages, schema=schema)
            asked.append((messages, answer.prompt_tokens))
            return answer

    written = None
    with contextlib.suppress(LlmError):  # so small a model may fail to write the JSON; what it was given counts
        written = await SummaryWriter(lambda _type, _long: Listening()).write(spoken, language="en")
    await client.close()
    read = {
        label
        for (system, user, *_), _tokens in asked
        if "one part of a long telephone call" in system.content
        for label in re.findall(r"^\[(S\d+)\]", user.content, re.MULTILINE)
    }
    first_window = [label for label in read if int(label[1:]) <= 5]
    assert len(first_window) == 5
    assert all(0 < tokens <= 2048 - 512 for _messages, tokens in asked)
    if written is not None:
        assert read == {f"S{number}" for number in range(1, 91)}
        assert written.windows >= 2
        known = {segment_id for turn in spoken for segment_id in turn.segment_ids}
        assert all({*point.segment_ids} <= known for point in written.key_points)


@pytest.mark.ollama
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_stand_in_is_replaced_when_the_server_is_back(build: dict[str, str], greeting: Path, tmp_path: Path) -> None:
    port = free_port()
    settings = {"ollama_url": f"http://127.0.0.1:{port}", "summary_model": build["OLLAMA_MODEL"]}
    settings |= {"summary_timeout_s": f"{MODEL_TIMEOUT_S:g}"}
    with Deployment(tmp_path / "data", **settings) as deployment:
        deployment.start()
        deployment.wait_ready()
        deployment.run("transcribe", str(greeting), "--call", "early")
        document = deployment.show("early")
        assert document is not None
        assert (document["summary"]["method"], document["turns"][0]["channel"]) == ("extractive", 0)
        deployment.kill()  # what waits for the model outlives the instance
        with serving(build, tmp_path / "server.log", port=port):
            deployment.start()
            deadline = time.monotonic() + 2 * MODEL_TIMEOUT_S  # its first answer may take too long
            while document is None or document["summary"]["method"] == "extractive":
                assert time.monotonic() < deadline, document
                time.sleep(1)
                document = deployment.show("early")
        assert document["summary"]["method"] == "llm"
        assert document["summary"]["model"] == build["OLLAMA_MODEL"]
        with serving(build, tmp_path / "server-2.log", port=port):
            again = deployment.run("summarize", "early", "--diff", timeout_s=400, check=False)
            missing = deployment.run("summarize", "early", "--model", "nobody-has-this:1b", check=False)
        # So small a model may fail to write the JSON: then that is what is said.
        assert " differ" in again.stdout or (again.returncode == 6 and "JSON" in again.stderr)
        assert (missing.returncode, "does not have the model nobody-has-this:1b" in missing.stderr) == (6, True)
        unchanged = deployment.show("early")
        assert unchanged is not None
        assert unchanged["summary"] == document["summary"]
        [job] = [job for job in document["jobs"] if job["job"] == "summarize"]
        assert (job["status"], job["detail"]["method"]) == ("completed", "llm")
