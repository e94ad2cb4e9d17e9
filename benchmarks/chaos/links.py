"""The network between one worker and the broker: a TCP proxy whose delay, cuts and partitions a fault sets."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Literal

HOST = "127.0.0.1"
CHUNK_BYTES = 65536

Direction = Literal["requests", "answers", "both"]


class Link:
    """Listens on `port` and forwards to the broker. Made, used and closed in one event loop.

    While it is cut, connections are closed, new ones at once. While it is held, everything stays open and nothing
    arrives; what was sent arrives when it is released, as TCP delivers it after a partition. With `delay_s`, each chunk
    is late by that, and by as much again if another one is on its way.

    A Kafka broker tells its clients its own address. `kafka` replaces that with the link's.
    """

    def __init__(self, broker_port: int, *, kafka: bool) -> None:
        self.delay_s = 0.0
        self.disturbed = False
        self._broker_port = broker_port
        self._listening = socket.create_server((HOST, 0))
        self.port: int = self._listening.getsockname()[1]
        self._read_answers: Callable[[asyncio.StreamReader], Awaitable[bytes]] = self._read_frame if kafka else _read
        self._cut = False
        self._passes = {"requests": asyncio.Event(), "answers": asyncio.Event()}
        self._open: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._start = asyncio.create_task(asyncio.start_server(self._accept, sock=self._listening))
        self.mend()

    def cut(self) -> None:
        self._cut = True
        for writer in self._open:
            writer.transport.abort()

    def hold(self, direction: Direction) -> None:
        for name, passes in self._passes.items():
            if direction in (name, "both"):
                passes.clear()

    def mend(self) -> None:
        """End every disturbance."""
        self._cut, self.delay_s = False, 0.0
        for passes in self._passes.values():
            passes.set()

    async def close(self) -> None:
        server = await self._start
        server.close()
        self.cut()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving = asyncio.create_task(self._serve(reader, writer))
        self._serving.add(serving)
        serving.add_done_callback(self._serving.discard)

    async def _serve(self, requests: asyncio.StreamReader, worker: asyncio.StreamWriter) -> None:
        with contextlib.ExitStack() as ends:
            ends.callback(worker.transport.abort)
            if self._cut:
                return
            self._open.add(worker)
            ends.callback(self._open.discard, worker)
            try:
                answers, broker = await asyncio.open_connection(HOST, self._broker_port)
            except OSError:
                return
            ends.callback(broker.transport.abort)
            self._open.add(broker)
            ends.callback(self._open.discard, broker)
            pumps = [
                asyncio.create_task(self._pump(requests, broker, self._passes["requests"], _read)),
                asyncio.create_task(self._pump(answers, worker, self._passes["answers"], self._read_answers)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        passes: asyncio.Event,
        read: Callable[[asyncio.StreamReader], Awaitable[bytes]],
    ) -> None:
        """Forward until one side ends. The other side learns of it when the link passes again."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while data := await read(reader):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                await passes.wait()
                writer.write(data)
                await writer.drain()
        await passes.wait()

    async def _read_frame(self, reader: asyncio.StreamReader) -> bytes:
        """Read one of Kafka's answers, with the link's port in place of the broker's after its host."""
        size = await reader.readexactly(4)
        body = await reader.readexactly(struct.unpack(">i", size)[0])
        theirs, ours = (HOST.encode() + struct.pack(">i", port) for port in (self._broker_port, self.port))
        return size + body.replace(theirs, ours)


async def _read(reader: asyncio.StreamReader) -> bytes:
    return await reader.read(CHUNK_BYTES)
