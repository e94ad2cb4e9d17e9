"""The brokers of the contract suite, with their declared differences."""

import asyncio
from pathlib import Path
from typing import Protocol

from aiokafka.admin import AIOKafkaAdminClient

from pipeline.bus.kafka.bus import KafkaBus
from pipeline.bus.memory import MemoryBus
from pipeline.bus.nats.bus import JetStreamBus
from pipeline.bus.nats.server import NatsServer
from pipeline.bus.protocol import Bus, Subscription
from tests.support.brokers.kafka import KafkaServer

RECONNECT_S = 10.0


class Broker(Protocol):
    """Makes buses that see the same records."""

    outlives_its_clients: bool
    """True if the records outlive the process that reads them, so that a worker can be killed."""
    drops_repeats: bool
    """True if an event id that is published twice within a short time is stored once."""
    limits_topics: bool
    """True if `TopicSpec.max_bytes` is enforced."""

    async def bus(self) -> Bus: ...

    async def given_out(self, subscription: Subscription) -> int | None:
        """Return the number of records sent to the group and not acknowledged; None if it is not known."""
        ...


class MemoryBroker:
    outlives_its_clients = False
    drops_repeats = True
    limits_topics = True

    def __init__(self) -> None:
        self._bus = MemoryBus(max_record_bytes=1_000_000)

    async def bus(self) -> Bus:
        return self._bus

    async def given_out(self, subscription: Subscription) -> int | None:
        return None


class JetStreamBroker:
    outlives_its_clients = True
    drops_repeats = True
    limits_topics = True

    def __init__(self, store: Path) -> None:
        self.server = NatsServer(store, max_store_bytes=500_000_000, max_payload_bytes=1_000_000)
        self.url = ""
        self._buses: list[JetStreamBus] = []

    async def start(self) -> None:
        self.url = await self.server.start()

    async def stop(self) -> None:
        for bus in self._buses:
            await bus.close()
        await self.server.stop()

    async def bus(self) -> JetStreamBus:
        bus = JetStreamBus(self.url, reconnect_s=RECONNECT_S)
        await bus.connect()
        self._buses.append(bus)
        return bus

    async def given_out(self, subscription: Subscription) -> int | None:
        import nats

        client = await nats.connect(self.url)
        total = 0
        for topic in subscription.topics:
            for info in await client.jsm().consumers_info(topic.replace(".", "-")):
                total += info.num_ack_pending or 0
        await client.close()
        return total


class KafkaBroker:
    """All tests share one server, so each begins by deleting the topics of its predecessor."""

    outlives_its_clients = True
    drops_repeats = False
    limits_topics = False

    def __init__(self, server: KafkaServer) -> None:
        self.server = server
        self._buses: list[KafkaBus] = []

    async def start(self) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.server.inside)
        await admin.start()
        own = [name for name in await admin.list_topics() if not name.startswith("__")]
        if own:
            await admin.delete_topics(own)
        while any(not name.startswith("__") for name in await admin.list_topics()):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        await admin.close()

    async def stop(self) -> None:
        for bus in self._buses:
            await bus.close()

    async def bus(self) -> KafkaBus:
        bus = KafkaBus(self.server.bootstrap, reconnect_s=RECONNECT_S)
        await bus.connect()
        self._buses.append(bus)
        return bus

    async def given_out(self, subscription: Subscription) -> int | None:
        return None
