"""Clients of one Kafka cluster, all with the same address, login and TLS."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from pipeline.bus.kafka.diagnosis import Refusal, why_not
from pipeline.bus.kafka.record_batches import read_any_record
from pipeline.bus.security import BusSecurity
from pipeline.errors import BusError, ConfigurationError

MAX_BATCH_BYTES: Final = 524_288
LINGER_MS: Final = 5
_FETCH_BYTES: Final = 2_000_000
_START_S: Final = 2.0
"""A broker that answers has answered by then."""


class KafkaClients:
    """Makes started clients for the brokers at `servers` ("host:port,host:port"). The caller closes them."""

    def __init__(self, servers: str, security: BusSecurity, *, request_timeout_s: float) -> None:
        read_any_record()
        self.servers = servers
        self.security = security
        self.request_timeout_s = request_timeout_s
        self.ssl_context = security.tls_context()
        self._options: dict[str, Any] = {
            "bootstrap_servers": servers.split(","),
            "request_timeout_ms": int(request_timeout_s * 1000),
            "security_protocol": self.protocol,
            "ssl_context": self.ssl_context,
        }
        if security.user is not None:
            assert security.password is not None
            self._options |= {
                "sasl_mechanism": security.sasl,
                "sasl_plain_username": security.user,
                "sasl_plain_password": security.password.reveal(),
            }

    @property
    def protocol(self) -> str:
        """Kafka's name of the security protocol."""
        login = self.security.user is not None
        if self.security.tls:
            return "SASL_SSL" if login else "SSL"
        return "SASL_PLAINTEXT" if login else "PLAINTEXT"

    async def producer(self) -> AIOKafkaProducer:
        """Return an idempotent producer: a batch that it resends on a connection is stored once and in order."""
        return await self._started(
            AIOKafkaProducer(
                **self._options,
                acks="all",
                enable_idempotence=True,
                linger_ms=LINGER_MS,
                max_batch_size=MAX_BATCH_BYTES,
            )
        )

    async def reader(self) -> AIOKafkaConsumer:
        """Return a consumer without a group. It is assigned its partitions by hand, and commits nothing."""
        return await self._started(
            _Reader(
                **self._options,
                group_id=None,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                fetch_max_bytes=_FETCH_BYTES,
            )
        )

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncIterator[AIOKafkaConsumer]:
        reader = await self.reader()
        try:
            yield reader
        finally:
            await reader.stop()

    async def admin(self) -> AIOKafkaAdminClient:
        return await self._started(AIOKafkaAdminClient(**self._options))

    async def _started(self, client: Any) -> Any:
        """Start a client. Raises BusError if no broker answers, ConfigurationError if one refuses us, or we it."""
        stop = client.close if isinstance(client, AIOKafkaAdminClient) else client.stop
        with bus_errors(f"connecting to Kafka at {self.servers}"):
            try:
                await _completed(client.start(), within_s=_START_S)
            except BaseException as error:
                await stop()
                if not isinstance(error, KafkaError | OSError | TimeoutError):
                    raise
                try:
                    reason = await why_not(self.servers, self.security, self._options)
                except Refusal as refusal:
                    raise ConfigurationError(f"Kafka at {self.servers} refuses: {refusal}") from error
                raise BusError(f"no Kafka broker answers at {self.servers}: {reason or error}") from error
        return client


async def _completed(starting: Coroutine[Any, Any, None], *, within_s: float) -> None:
    """Await a client's start. If it is cancelled the start gets `within_s` to end, and CancelledError follows.

    aiokafka 0.14 forgets the connection of a start that is cancelled while the broker's first answer is on its way:
    nothing could close it.
    """
    task = asyncio.ensure_future(starting)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task], timeout=within_s)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        raise


class _Reader(AIOKafkaConsumer):  # type: ignore[misc]
    async def stop(self) -> None:
        """Stop and close the connections. aiokafka's own `stop` leaves them open if a task that it cancelled raises."""
        try:
            await super().stop()
        except asyncio.CancelledError:
            if _is_being_cancelled():
                raise
        finally:
            await self._client.close()


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


@contextlib.contextmanager
def bus_errors(doing: str) -> Iterator[None]:
    """Raise errors of a Kafka client as BusError that names what was done.

    This includes a CancelledError of aiokafka's own, which awaits tasks that it has cancelled. A task that got it
    without being cancelled would end unnoticed.
    """
    try:
        yield
    except asyncio.CancelledError as error:
        if _is_being_cancelled():
            raise
        raise BusError(f"{doing}: the Kafka client gave up") from error
    except (KafkaError, OSError, TimeoutError, asyncio.InvalidStateError) as error:
        raise BusError(f"{doing}: {str(error) or type(error).__name__}") from error


async def read_to_end(
    reader: AIOKafkaConsumer, starts: dict[TopicPartition, int], ends: dict[TopicPartition, int], *, timeout_s: float
) -> AsyncIterator[Any]:
    """Yield the records of several partitions from `starts` up to `ends`, which are positions of the broker.

    Raises TimeoutError if nothing arrives for `timeout_s`.
    """
    left = {tp for tp, end in ends.items() if starts[tp] < end}
    if not left:
        return
    reader.assign(list(left))
    for tp in left:
        reader.seek(tp, starts[tp])
    while left:
        async with asyncio.timeout(timeout_s):
            batches: dict[TopicPartition, list[Any]] = {}
            while not batches and left:
                batches = await reader.getmany(*left, timeout_ms=200)
                # The last positions may hold no records: markers of transactions, or records that compaction removed.
                ended = {tp for tp in left if tp not in batches and await reader.position(tp) >= ends[tp]}
                left -= ended
        for tp, records in batches.items():
            for record in records:
                if record.offset < ends[tp]:
                    yield record
            if records[-1].offset >= ends[tp] - 1:
                left.discard(tp)
