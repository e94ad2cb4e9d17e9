"""Plain clients of the brokers, which use none of the product's code: what an outsider sends, and what one sees."""

import base64
from collections.abc import AsyncIterator, Mapping
from typing import Any, NamedTuple, Protocol

import nats
import nats.errors

SEND_TIMEOUT_S = 5.0


class Unsent(Exception):
    """The broker has not said that it stored the record: it may or may not have."""


class Seen(NamedTuple):
    """A record on a topic, with the headers that outsiders go by."""

    topic: str
    partition: int
    headers: Mapping[str, str]
    value: bytes


class PlainClient(Protocol):
    async def send(self, topic: str, key: bytes, headers: Mapping[str, str], value: bytes) -> None:
        """Returns when the broker has said that the record is stored. Raises Unsent."""
        ...

    def read(self, topic: str) -> AsyncIterator[Seen]:
        """All records that are on the topic now, in the order of their partitions."""
        ...

    async def unacknowledged(self, group: str, topics: tuple[str, ...], partitions: frozenset[int]) -> int:
        """Records of the partitions that the group's workers were given and have not acknowledged."""
        ...

    async def close(self) -> None: ...


async def connect(url: str) -> PlainClient:
    """A client for the URL that CALLSTREAM_BUS would have."""
    client = NatsClient()
    await client.connect(url)
    return client


class NatsClient:
    """nats-py, reconnecting by itself."""

    def __init__(self) -> None:
        self._client: Any = None
        self._js: Any = None

    async def connect(self, url: str) -> None:
        async def ignore(_error: Exception) -> None:
            """Sends fail by themselves."""

        self._client = await nats.connect(
            url, max_reconnect_attempts=-1, reconnect_time_wait=0.2, ping_interval=5, error_cb=ignore
        )
        self._js = self._client.jetstream()

    async def send(self, topic: str, key: bytes, headers: Mapping[str, str], value: bytes) -> None:
        subject = f"{_base(topic)}.{base64.urlsafe_b64encode(key).decode()}"
        spelled = {name.replace("ce_", "ce-"): text for name, text in headers.items()}
        try:
            await self._js.publish(subject, value, headers=spelled, timeout=SEND_TIMEOUT_S)
        except (nats.errors.Error, OSError, TimeoutError) as error:
            raise Unsent(str(error)) from error

    async def read(self, topic: str) -> AsyncIterator[Seen]:
        stream = topic.replace(".", "-")
        state = (await self._js.stream_info(stream)).state
        if not state.messages:
            return
        subscription = await self._js.subscribe(f"{_base(topic)}.>", ordered_consumer=True)
        async for message in subscription.messages:
            named = {name.replace("ce-", "ce_"): text for name, text in (message.headers or {}).items()}
            headers = {name: text for name, text in named.items() if not name.startswith(("Nats-", "callstream-"))}
            yield Seen(topic, int(message.subject.split(".")[2]), headers, message.data)
            if message.metadata.sequence.stream >= state.last_seq:
                break
        await subscription.unsubscribe()

    async def unacknowledged(self, group: str, topics: tuple[str, ...], partitions: frozenset[int]) -> int:
        total = 0
        for topic in topics:
            for number in partitions:
                info = await self._js.consumer_info(topic.replace(".", "-"), f"{group}_{number}", timeout=1.0)
                total += info.num_ack_pending or 0
        return total

    async def close(self) -> None:
        await self._client.close()


def _base(topic: str) -> str:
    """Where a topic's subjects begin: `calls.audio.batch` has `calls.audio_batch`."""
    root, _, rest = topic.partition(".")
    return f"{root}.{rest.replace('.', '_')}"
