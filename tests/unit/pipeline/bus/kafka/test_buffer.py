"""The bound on the bytes between Faust's fetcher and the agent."""

import asyncio
from collections import deque

import msgspec

from pipeline.bus.kafka.buffer import StreamBuffer


class Message(msgspec.Struct):
    value: bytes
    generation_id: int = 1


class Stream:
    """A stand-in for Faust's own buffer, with the most bytes that it held."""

    def __init__(self, limit_bytes: int) -> None:
        self.messages: deque[Message] = deque()
        self.buffer = StreamBuffer(limit_bytes, lambda: not self.messages)

    async def deliver(self, message: Message) -> None:
        await self.buffer.room()
        self.buffer.put(message)
        self.messages.append(message)

    def take(self) -> Message:
        message = self.messages.popleft()
        self.buffer.taken(message)
        return message

    @property
    def held_bytes(self) -> int:
        return sum(len(message.value) for message in self.messages)


async def test_a_full_buffer_admits_records_once_it_is_half_empty() -> None:
    stream = Stream(limit_bytes=100_000)
    while not stream.buffer.full:
        await stream.deliver(Message(bytes(9_000)))
    assert 80_000 <= stream.held_bytes <= 100_000
    waiting = asyncio.create_task(stream.deliver(Message(bytes(9_000))))
    while stream.buffer.full:
        await asyncio.sleep(0)
        assert not waiting.done()
        stream.take()
    assert stream.held_bytes <= 50_000
    await asyncio.wait_for(waiting, 5)


async def test_a_record_larger_than_the_buffer_passes_alone() -> None:
    stream = Stream(limit_bytes=10_000)
    await stream.deliver(Message(bytes(500_000)))
    waiting = asyncio.create_task(stream.deliver(Message(b"")))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    stream.take()
    await asyncio.wait_for(waiting, 5)


async def test_records_of_an_earlier_generation_take_no_room() -> None:
    stream = Stream(limit_bytes=100_000)
    await stream.deliver(Message(bytes(90_000), generation_id=1))
    await stream.deliver(Message(bytes(60_000), generation_id=2))
    assert not stream.buffer.full
    assert stream.take().generation_id == 1
    assert not stream.buffer.full
    await stream.deliver(Message(bytes(60_000), generation_id=2))
    assert stream.buffer.full


async def test_a_discarded_buffer_has_room_again() -> None:
    stream = Stream(limit_bytes=10_000)
    await stream.deliver(Message(bytes(20_000)))
    waiting = asyncio.create_task(stream.deliver(Message(b"")))
    stream.messages.clear()
    await asyncio.wait_for(waiting, 5)
