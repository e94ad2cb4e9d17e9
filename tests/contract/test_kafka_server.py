"""The Kafka broker of these tests: a real one that can be killed, and that refuses strangers."""

import asyncio
import socket
import ssl
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaConnectionError, MessageSizeTooLargeError

from tests.support.brokers.kafka import KafkaServer

pytestmark = pytest.mark.kafka

USER = ("sink", "s3cret=word")


async def create_topic(bootstrap: str, name: str, configs: dict[str, str] | None = None) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, num_partitions=1, replication_factor=1, topic_configs=configs)])
    finally:
        await admin.close()


async def values(bootstrap: str, topic: str, n_records: int) -> list[bytes]:
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        return [(await consumer.getone()).value for _ in range(n_records)]
    finally:
        await consumer.stop()


def logged_in(server: KafkaServer, password: str, context: ssl.SSLContext) -> AIOKafkaProducer:
    return AIOKafkaProducer(
        bootstrap_servers=server.bootstrap,
        security_protocol="SASL_SSL",
        ssl_context=context,
        sasl_mechanism="SCRAM-SHA-512",
        sasl_plain_username=USER[0],
        sasl_plain_password=password,
    )


async def refused(producer: AIOKafkaProducer) -> None:
    try:
        with pytest.raises(KafkaConnectionError):
            await producer.start()
    finally:
        await producer.stop()


@pytest.mark.slow
async def test_the_broker_keeps_its_records_and_address_over_a_kill(tmp_path: Path) -> None:
    with KafkaServer(tmp_path) as server:
        server.start()
        bootstrap = server.bootstrap
        await create_topic(bootstrap, "calls")
        async with AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all") as producer:
            await producer.send_and_wait("calls", b"before the kill")

        server.kill()
        assert not server.alive
        server.start()

        assert server.bootstrap == bootstrap
        async with AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all") as producer:
            await producer.send_and_wait("calls", b"after the kill")
        assert await values(bootstrap, "calls", 2) == [b"before the kill", b"after the kill"]


@pytest.mark.slow
async def test_the_broker_has_default_limits_and_can_be_paused(
    tmp_path: Path,
) -> None:
    with KafkaServer(tmp_path) as server:
        server.start()
        await create_topic(server.bootstrap, "calls")
        async with AIOKafkaProducer(bootstrap_servers=server.bootstrap, max_request_size=4_000_000) as producer:
            with pytest.raises(MessageSizeTooLargeError):
                await producer.send_and_wait("calls", bytes(1_100_000))
            server.pause()
            sending = asyncio.create_task(producer.send_and_wait("calls", b"while it was paused"))
            await asyncio.sleep(0.5)
            assert not sending.done()
            server.resume()
            await sending
        assert await values(server.bootstrap, "calls", 1) == [b"while it was paused"]


@pytest.mark.slow
async def test_only_the_right_login_authority_and_protocol_are_accepted(
    tmp_path: Path,
) -> None:
    with KafkaServer(tmp_path / "server", scram_user=USER, tls=True) as server:
        server.start()
        context = ssl.create_default_context(cafile=server.ca_file)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        await create_topic(server.inside, "calls")
        async with logged_in(server, USER[1], context) as producer:
            await producer.send_and_wait("calls", b"from one who is known")
        assert await values(server.inside, "calls", 1) == [b"from one who is known"]

        await refused(logged_in(server, "guessed", context))
        await refused(logged_in(server, USER[1], ssl.create_default_context()))
        old = ssl.create_default_context(cafile=server.ca_file)
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        await refused(logged_in(server, USER[1], old))
        await refused(AIOKafkaProducer(bootstrap_servers=server.bootstrap))


@pytest.mark.slow
def test_a_broker_that_cannot_start_says_why(tmp_path: Path) -> None:
    with KafkaServer(tmp_path) as server, socket.socket() as stranger:
        host, port = server.bootstrap.split(":")
        stranger.bind((host, int(port)))
        stranger.listen()
        with pytest.raises(RuntimeError, match="Address already in use"):
            server.start()
        assert not server.alive
