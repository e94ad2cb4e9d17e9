"""Following topics on Kafka from now on: a consumer without a group."""

import asyncio
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from pipeline.bus.feed import QueueFeed
from pipeline.bus.kafka.clients import KafkaClients, bus_errors
from pipeline.bus.kafka.records import stored_record
from pipeline.tasks import owned

_PAUSE_S: Final = 0.5


class KafkaFeed(QueueFeed):
    """Records of several topics as they arrive, in order per partition. Iteration raises BusError if Kafka is lost."""

    def __init__(
        self, clients: KafkaClients, topics: tuple[str, ...], key: bytes | None, *, reconnect_s: float
    ) -> None:
        super().__init__()
        self._clients = clients
        self._topics = topics
        self._key = key
        self._reconnect_s = reconnect_s
        self._reader: AIOKafkaConsumer | None = None
        self._pumping: asyncio.Task[None] | None = None
        self._log = structlog.get_logger("callstream.kafka").bind(topics=topics)

    async def start(self) -> None:
        """Begin to follow: the feed has everything that is published after this returns."""
        self._reader = reader = await self._clients.reader()
        with bus_errors("following topics"):
            await reader._client.set_topics(self._topics)
            places = [
                TopicPartition(topic, number)
                for topic in self._topics
                for number in sorted(reader.partitions_for_topic(topic) or ())
            ]
            reader.assign(places)
            for place, end in (await reader.end_offsets(places)).items():
                reader.seek(place, end)
        self._pumping = owned(self._pump(reader), name=f"follow {', '.join(self._topics)}", failed=self.fail)

    async def close(self) -> None:
        if self._pumping is not None:
            self._pumping.cancel()
            await asyncio.gather(self._pumping, return_exceptions=True)
        if self._reader is not None:
            await self._reader.stop()
            self._reader = None
        await super().close()

    async def _pump(self, reader: Any) -> None:
        failed_since: float | None = None
        clock = asyncio.get_running_loop().time
        while True:
            try:
                async for stored in reader:
                    failed_since = None
                    if self._key is None or stored.key == self._key:
                        self.put(stored_record(stored, stored.timestamp / 1000))
            except KafkaError as error:
                failed_since = failed_since or clock()
                if clock() - failed_since > self._reconnect_s:
                    raise
                self._log.debug("follower resumes", error=str(error))
                await asyncio.sleep(_PAUSE_S)
