"""The network of the chaos harness does what its faults say."""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator

import pytest

from benchmarks.chaos.links import HOST, Link

WITHIN_S = 5.0


class Echo:
    """A server that sends back what it receives."""

    def __init__(self) -> None:
        self.received = b""
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                self.received += data
                writer.write(data)
        writer.close()


@contextlib.asynccontextmanager
async def linked(*, kafka: bool = False) -> AsyncIterator[tuple[Echo, Link]]:
    echo = Echo()
    server = await asyncio.start_server(echo.serve, HOST, 0)
    echo.port = server.sockets[0].getsockname()[1]
    link = Link(echo.port, kafka=kafka)
    try:
        yield echo, link
    finally:
        await link.close()
        server.close()


async def connected(link: Link) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(HOST, link.port)


async def is_silent(reader: asyncio.StreamReader) -> bool:
    try:
        await asyncio.wait_for(reader.read(1), 0.2)
    except TimeoutError:
        return True
    return False


async def is_closed(reader: asyncio.StreamReader) -> bool:
    try:
        return await asyncio.wait_for(reader.read(), WITHIN_S) == b""
    except ConnectionError:
        return True


async def test_what_is_sent_during_a_partition_arrives_after_it_on_the_same_connection() -> None:
    async with linked() as (echo, link):
        reader, writer = await connected(link)
        link.hold("both")
        writer.write(b"late")
        assert await is_silent(reader)
        assert echo.received == b""
        link.mend()
        assert await asyncio.wait_for(reader.readexactly(4), WITHIN_S) == b"late"
        writer.close()


async def test_answers_alone_can_be_held() -> None:
    async with linked() as (echo, link):
        reader, writer = await connected(link)
        link.hold("answers")
        writer.write(b"stored")
        assert await is_silent(reader)
        assert echo.received == b"stored"
        writer.close()


async def test_a_cut_closes_connections_and_refuses_new_ones_until_it_is_mended() -> None:
    async with linked() as (_, link):
        reader, open_before = await connected(link)
        open_before.write(b"x")
        await asyncio.wait_for(reader.readexactly(1), WITHIN_S)
        link.cut()
        assert await is_closed(reader)
        reader, refused = await connected(link)
        assert await is_closed(reader)
        link.mend()
        reader, writer = await connected(link)
        writer.write(b"y")
        assert await asyncio.wait_for(reader.readexactly(1), WITHIN_S) == b"y"
        for ended in (open_before, refused, writer):
            ended.close()


async def test_a_delay_holds_each_direction_up() -> None:
    async with linked() as (_, link):
        reader, writer = await connected(link)
        link.delay_s = 0.1
        began = asyncio.get_running_loop().time()
        writer.write(b"x")
        await asyncio.wait_for(reader.readexactly(1), WITHIN_S)
        assert asyncio.get_running_loop().time() - began >= 0.2
        writer.close()


@pytest.mark.parametrize("padding", [b"", b"\x00" * 100_000])
async def test_kafkas_answers_name_the_link_as_the_broker(padding: bytes) -> None:
    async with linked(kafka=True) as (echo, link):
        body = padding + HOST.encode() + struct.pack(">i", echo.port) + b"rest"
        reader, writer = await connected(link)
        writer.write(struct.pack(">i", len(body)) + body)
        answer = await asyncio.wait_for(reader.readexactly(4 + len(body)), WITHIN_S)
        assert answer[4:] == padding + HOST.encode() + struct.pack(">i", link.port) + b"rest"
        writer.close()
