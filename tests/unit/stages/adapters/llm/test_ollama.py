"""The Ollama adapter against a server that misbehaves. A real server is in `tests/e2e/test_ollama.py`."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from stages.adapters.llm import ollama
from stages.adapters.llm.ollama import OllamaClient
from stages.adapters.llm.protocol import LlmError, LlmMissing, LlmOverflow, LlmUnavailable, Message

CHAT_REPLY = {"model": "m", "message": {"role": "assistant", "content": "{}"}, "done": True}


class Served:
    """The requests to an HTTP server that gives every request the same reply."""

    def __init__(self) -> None:
        self.url = ""
        self.bodies: list[bytes] = []
        self.heads: list[bytes] = []


@asynccontextmanager
async def served(status: int, body: bytes | None) -> AsyncIterator[Served]:
    """Serve the same reply to every request; without a body, accept requests and never reply."""
    seen = Served()
    replies: set[asyncio.Task[None] | None] = set()

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        replies.add(asyncio.current_task())
        head = await reader.readuntil(b"\r\n\r\n")
        seen.heads.append(head)
        lengths = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        seen.bodies.append(await reader.readexactly(int(lengths[0])) if lengths else b"")
        if body is None:
            await reader.read()
        else:
            lines = f"HTTP/1.1 {status} Reply\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
            writer.write(lines.encode() + b"connection: close\r\n\r\n" + body)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(reply, "127.0.0.1", 0)
    seen.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield seen
    finally:
        server.close()
        await server.wait_closed()
        await asyncio.gather(*(reply for reply in replies if reply is not None))


@asynccontextmanager
async def client_of(server: Served, *, timeout_s: float = 5.0) -> AsyncIterator[OllamaClient]:
    client = OllamaClient(server.url, "llama3.2:1b", timeout_s=timeout_s, context_tokens=2048, answer_tokens=300)
    yield client
    await client.close()


def models(*names: str) -> bytes:
    return msgspec.json.encode({"models": [{"model": name} for name in names]})


async def test_a_server_that_has_the_model_is_usable() -> None:
    async with served(200, models("other:7b", "llama3.2:1b")) as server, client_of(server) as client:
        await client.check()


async def test_a_name_without_a_tag_means_the_latest() -> None:
    async with served(200, models("llama3.2:latest")) as server:
        client = OllamaClient(server.url, "llama3.2")
        await client.check()
        await client.close()


async def test_a_login_in_the_address_is_sent() -> None:
    async with served(200, models("llama3.2")) as server:
        client = OllamaClient(server.url.replace("//", "//us%40r:hunter2@"), "llama3.2")
        await client.check()
        await client.close()
    expected = base64.b64encode(b"us@r:hunter2")
    assert b"authorization: Basic " + expected in server.heads[0].replace(b"Authorization", b"authorization")


@pytest.mark.parametrize(("status", "body"), [(200, b"<html>"), (401, b"who?"), (502, b"bad gateway"), (0, None)])
async def test_no_error_shows_the_login_of_the_address(status: int, body: bytes | None) -> None:
    async with served(status, body) as server:
        client = OllamaClient(server.url.replace("//", "//user:hunter2@"), "llama3.2", timeout_s=0.2)
        for work in (client.check(), client.chat([Message("user", "hello")], schema={})):
            with pytest.raises(LlmError) as raised:
                await work
            assert server.url in str(raised.value)
            assert "hunter2" not in str(raised.value)
            assert "user:" not in str(raised.value)
        await client.close()


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (200, models("other:7b"), "does not have the model llama3.2:1b"),
        (200, b"<html>a proxy's page</html>", "no Ollama answers"),
        (502, b"bad gateway", "no Ollama answers"),
    ],
)
async def test_an_unusable_server_or_model_is_found_by_check(status: int, body: bytes, reason: str) -> None:
    async with served(status, body) as server, client_of(server) as client:
        with pytest.raises(LlmError, match=reason):
            await client.check()


async def test_a_server_that_never_answers_is_given_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ollama, "CHECK_TIMEOUT_S", 0.1)
    async with served(200, None) as server, client_of(server) as client:
        with pytest.raises(LlmError, match=r"did not answer within 0\.1 s"):
            await client.check()


async def test_a_chat_is_asked_for_with_schema_bounds_and_no_randomness() -> None:
    async with served(200, msgspec.json.encode(CHAT_REPLY)) as server, client_of(server) as client:
        answered = await client.chat([Message("user", "hello")], schema={"type": "object"})
        assert (answered.text, answered.prompt_tokens) == ("{}", 0)
        sent = msgspec.json.decode(server.bodies[0])
    assert sent["model"] == "llama3.2:1b"
    assert sent["format"] == {"type": "object"}
    assert sent["messages"] == [{"role": "user", "content": "hello"}]
    assert sent["options"] == {"temperature": 0, "num_ctx": 2048, "num_predict": 300}
    assert sent["stream"] is False


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (500, b'{"error": "out of memory"}', "failed: out of memory"),
        (200, b"not JSON", "failed"),
        (200, b'{"message": 1}', "failed"),
    ],
)
async def test_a_chat_that_fails_says_why(status: int, body: bytes, reason: str) -> None:
    async with served(status, body) as server, client_of(server) as client:
        with pytest.raises(LlmError, match=reason):
            await client.chat([Message("user", "hello")], schema={})


async def test_a_chat_that_takes_too_long_is_given_up() -> None:
    async with served(200, None) as server, client_of(server, timeout_s=0.1) as client:
        with pytest.raises(LlmError, match="took too long"):
            await client.chat([Message("user", "hello")], schema={})


@pytest.mark.parametrize(("tokens", "fits"), [(1748, True), (1749, False)])
async def test_a_prompt_that_leaves_no_room_for_the_answer_is_an_overflow(tokens: int, fits: bool) -> None:
    """At most 2,048 tokens are read and 300 reserved for the answer: beyond that Ollama drops the beginning."""
    reply = msgspec.json.encode({**CHAT_REPLY, "prompt_eval_count": tokens})
    async with served(200, reply) as server, client_of(server) as client:
        if fits:
            assert (await client.chat([Message("user", "hello")], schema={})).prompt_tokens == tokens
        else:
            with pytest.raises(LlmOverflow, match="1749 tokens and 1748 fit"):
                await client.chat([Message("user", "hello")], schema={})


async def test_a_context_longer_than_the_model_s_is_never_asked_for() -> None:
    body = msgspec.json.encode(
        {"models": [{"model": "llama3.2:1b"}], "model_info": {"llama.context_length": 1024, "llama.block_count": 9}}
    )
    async with served(200, body) as server, client_of(server) as client:
        await client.check()
        assert (client.context_tokens, client.answer_tokens) == (1024, 300)


@pytest.mark.parametrize(("status", "missing", "passing"), [(404, True, False), (500, False, True), (503, False, True)])
async def test_a_failure_says_whether_it_may_pass(status: int, missing: bool, passing: bool) -> None:
    async with served(status, b'{"error": "model"}') as server, client_of(server) as client:
        with pytest.raises(LlmUnavailable) as raised:
            await client.chat([Message("user", "hello")], schema={})
    assert (isinstance(raised.value, LlmMissing), raised.value.passing) == (missing, passing)
