"""The Kafka clients that the bus makes, on a real broker."""

import asyncio
import contextlib
import gc
import socket
import warnings

import pytest

from pipeline.bus.kafka.clients import KafkaClients
from pipeline.bus.security import BusSecurity
from tests.support.brokers.kafka import KafkaServer


async def cancelled_after(clients: KafkaClients, delay_s: float) -> None:
    starting = asyncio.create_task(clients.reader())
    await asyncio.sleep(delay_s)
    starting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await (await starting).stop()


@pytest.mark.kafka
async def test_a_cancelled_start_leaves_no_connection_open(kafka_server: KafkaServer) -> None:
    clients = KafkaClients(kafka_server.bootstrap, BusSecurity(), request_timeout_s=5.0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in range(60):
            await cancelled_after(clients, step * 0.0003)
        gc.collect()
        await asyncio.sleep(0.05)
        gc.collect()
    left = [str(warning.message) for warning in caught if warning.category is ResourceWarning]
    assert [message for message in left if "Kafka" in message or "socket" in message] == []


@pytest.mark.slow
async def test_a_start_is_cancelled_in_seconds_though_the_broker_hangs() -> None:
    with socket.create_server(("127.0.0.1", 0)) as hanging:  # it accepts nothing: the connection waits in its backlog
        clients = KafkaClients(f"127.0.0.1:{hanging.getsockname()[1]}", BusSecurity(), request_timeout_s=30.0)
        starting = asyncio.create_task(clients.reader())
        await asyncio.sleep(0.1)
        began = asyncio.get_running_loop().time()
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert asyncio.get_running_loop().time() - began < 10
