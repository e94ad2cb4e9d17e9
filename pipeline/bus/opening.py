"""Connecting to the bus at an address."""

from typing import Final

import structlog

from pipeline.bus.protocol import Bus
from pipeline.bus.security import BusSecurity
from pipeline.errors import BusError, ConfigurationError

KAFKA: Final = "kafka://"


async def open_bus(url: str, security: BusSecurity, *, replication: int = 1, reconnect_s: float = 30.0) -> Bus:
    """Return a connected bus.

    Args:
        url: kafka://HOST:PORT[,HOST:PORT], or nats:// or tls:// for NATS.
        security: credentials and TLS.
        replication: the replication factor of topics that the bus creates on Kafka.
        reconnect_s: how long an unreachable broker is waited for, now and later.

    Raises BusError if nothing answers within `reconnect_s`, ConfigurationError if the broker refuses us or its package
    is not installed.
    """
    if not url.startswith(KAFKA):
        from pipeline.bus.nats.bus import JetStreamBus

        jetstream = JetStreamBus(url, security=security, reconnect_s=reconnect_s)
        await jetstream.connect()
        return jetstream
    try:
        from pipeline.bus.kafka.bus import KafkaBus
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"a Kafka bus needs `pip install callstream[kafka]`: {error}") from error
    kafka = KafkaBus(url.removeprefix(KAFKA), security=security, replication=replication, reconnect_s=reconnect_s)
    await kafka.connect()
    return kafka


async def await_bus(url: str, security: BusSecurity, *, reconnect_s: float = 30.0) -> Bus:
    """Return a connected bus, however long its broker is unreachable."""
    while True:
        try:
            return await open_bus(url, security, reconnect_s=reconnect_s)
        except BusError as error:
            structlog.get_logger("callstream.bus").warning("waiting for the bus", url=url, error=str(error))
