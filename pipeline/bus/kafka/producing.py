"""Storing records on Kafka: one idempotent producer, replaced when it fails."""

import asyncio
import contextlib
from typing import Final

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from pipeline.bus.kafka.clients import KafkaClients, bus_errors
from pipeline.bus.kafka.records import Headers
from pipeline.errors import BusError, RecordTooLargeError

_CLOSE_S: Final = 5.0


class RecordProducer:
    """Sends in the order of the calls to `send`, per partition.

    After a failure it is not known what a producer has still stored, or will. So everything that is under way on it
    fails too, and the next record gets a new one; who sends again gets repeats at worst.
    """

    def __init__(self, clients: KafkaClients) -> None:
        self._clients = clients
        self._producer: AIOKafkaProducer | None = None
        self._flying: set[asyncio.Future[object]] = set()
        self._opening = asyncio.Lock()
        self._stopping: asyncio.Task[None] | None = None
        self._closed = False
        self._log = structlog.get_logger("callstream.kafka").bind(servers=clients.servers)

    async def open(self) -> AIOKafkaProducer:
        """Raises BusError when no broker answers, ConfigurationError when one refuses us."""
        async with self._opening:
            if self._closed:
                raise BusError(f"the connection to Kafka at {self._clients.servers} is closed")
            if self._producer is None:
                self._producer = await self._clients.producer()
            return self._producer

    async def send(self, topic: str, partition: int, key: bytes, value: bytes | None, headers: Headers) -> int:
        """Store a record and return its position. Raises RecordTooLargeError, or BusError."""
        producer = self._producer or await self.open()
        try:
            with bus_errors(f"publishing to {topic}"):
                stored = await producer.send(topic, value, key=key, partition=partition, headers=headers)
                self._flying.add(stored)
                try:
                    return int((await stored).offset)
                finally:
                    self._flying.discard(stored)
        except BusError as error:
            if isinstance(error.__cause__, MessageSizeTooLargeError):
                size_bytes = len(value or b"") + len(key) + sum(len(name) + len(raw) for name, raw in headers)
                raise RecordTooLargeError(topic, size_bytes, producer._max_request_size) from error
            self._give_up(producer, error)
            raise

    async def close(self) -> None:
        """What is under way is stored first, if the broker answers."""
        self._closed = True
        async with self._opening:
            producer, self._producer = self._producer, None
            if producer is not None:
                await _stop(producer)
            if self._stopping is not None:
                await self._stopping

    def _give_up(self, producer: AIOKafkaProducer, reason: BusError) -> None:
        if self._producer is not producer:
            return
        self._producer = None
        self._log.warning("publishing failed, the connection is made anew", reason=str(reason))
        for future in self._flying:
            if not future.done():
                future.set_exception(KafkaError("the producer was given up"))
        self._flying.clear()
        self._stopping = asyncio.create_task(_stop(producer, wait_s=0.0))


async def _stop(producer: AIOKafkaProducer, *, wait_s: float = _CLOSE_S) -> None:
    """Stop for good, also when what it holds cannot be stored any more."""
    with contextlib.suppress(KafkaError, OSError, TimeoutError):
        async with asyncio.timeout(wait_s):
            await producer.stop()
            return
    with contextlib.suppress(KafkaError, OSError):
        await producer._sender.close()
        await producer.client.close()
