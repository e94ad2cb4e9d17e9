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
    """Sends records in the order of the calls to `send`, per partition.

    After a failure it is not known what the aiokafka producer has stored, or still will. So everything in flight on it
    fails too, and the next record gets a new producer. A caller that sends again gets repeats at worst.
    """

    def __init__(self, clients: KafkaClients) -> None:
        self._clients = clients
        self._producer: AIOKafkaProducer | None = None
        self._in_flight: set[asyncio.Future[object]] = set()
        self._opening = asyncio.Lock()
        self._stopping: asyncio.Task[None] | None = None
        self._closed = False
        self._log = structlog.get_logger("callstream.kafka").bind(servers=clients.servers)

    async def open(self) -> AIOKafkaProducer:
        """Raises BusError if no broker answers, ConfigurationError if one refuses us."""
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
                self._in_flight.add(stored)
                try:
                    return int((await stored).offset)
                finally:
                    self._in_flight.discard(stored)
        except BusError as error:
            if isinstance(error.__cause__, MessageSizeTooLargeError):
                size_bytes = len(value or b"") + len(key) + sum(len(name) + len(raw) for name, raw in headers)
                raise RecordTooLargeError(topic, size_bytes, producer._max_request_size) from error
            self._replace(producer, error)
            raise

    async def close(self) -> None:
        """Store what is in flight, if the broker answers, and close."""
        self._closed = True
        async with self._opening:
            producer, self._producer = self._producer, None
            if producer is not None:
                await _stop(producer)
            if self._stopping is not None:
                await self._stopping

    def _replace(self, producer: AIOKafkaProducer, reason: BusError) -> None:
        if self._producer is not producer:
            return
        self._producer = None
        self._log.warning("publishing failed, producer replaced", reason=str(reason))
        for future in self._in_flight:
            if not future.done():
                future.set_exception(KafkaError("the producer was given up"))
        self._in_flight.clear()
        self._stopping = asyncio.create_task(_stop(producer, wait_s=0.0))


async def _stop(producer: AIOKafkaProducer, *, wait_s: float = _CLOSE_S) -> None:
    """Stop a producer for good, even if what it holds cannot be stored any more."""
    with contextlib.suppress(KafkaError, OSError, TimeoutError):
        async with asyncio.timeout(wait_s):
            await producer.stop()
            return
    with contextlib.suppress(KafkaError, OSError):
        await producer._sender.close()
        await producer.client.close()
