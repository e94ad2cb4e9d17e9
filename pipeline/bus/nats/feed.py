"""Following topics on JetStream from now on: consumers without acknowledgement, resumed after a fault."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import structlog

from pipeline.bus.feed import QueueFeed
from pipeline.bus.keys import key_token
from pipeline.bus.nats.connection import NANOSECONDS, ApiError, Listening, NatsConnection, Session, SessionLost
from pipeline.bus.nats.subjects import delivery, stored_record, stream_name, subject_base
from pipeline.bus.protocol import Record
from pipeline.errors import BusError
from pipeline.tasks import owned

_HEARTBEAT_S: Final = 5.0
_SILENCE_S: Final = 2.5 * _HEARTBEAT_S
_PAUSE_S: Final = 0.2


class JetStreamFeed(QueueFeed):
    """Records of several topics as they arrive, in order per topic. Iteration raises BusError if the broker is lost."""

    def __init__(self, connection: NatsConnection, topics: tuple[str, ...], key: bytes | None) -> None:
        super().__init__()
        self._connection = connection
        self._topics = topics
        self._token = "*" if key is None else key_token(key)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to follow: the feed has everything that is published after this returns."""
        for topic in self._topics:

            async def last_of(session: Session, topic: str = topic) -> int:
                try:
                    return int((await session.api(f"STREAM.INFO.{stream_name(topic)}"))["state"]["last_seq"])
                except ApiError as error:
                    raise BusError(f"there is no topic {topic}: {error}") from error

            last = await self._connection.retrying(last_of)
            self._tasks.append(owned(self._watch(topic, last), name=f"follow {topic}", failed=self.fail))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await super().close()

    async def _watch(self, topic: str, last: int) -> None:
        watch = _TopicWatch(topic, self._token, last, self.put)
        log = structlog.get_logger("callstream.feed").bind(topic=topic)
        while True:
            try:
                await watch.run(await self._connection.session())
            except (SessionLost, ApiError) as error:
                log.debug("follower resumes", error=str(error))
            await asyncio.sleep(_PAUSE_S)


class _TopicWatch:
    """An ephemeral push consumer on one topic. `last` is the position of the last record that was passed on."""

    def __init__(self, topic: str, token: str, last: int, put: Callable[[Record], None]) -> None:
        self._topic = topic
        self._filter = f"{subject_base(topic)}.*.{token}"
        self._last = last
        self._put = put
        self._delivery = 0
        self._ended = asyncio.Event()
        self._last_heard_at = 0.0

    async def run(self, session: Session) -> None:
        """Pass records on until deliveries are missing or stop. Raises SessionLost."""
        loop = asyncio.get_running_loop()
        self._delivery = 0
        self._last_heard_at = loop.time()
        self._ended = ended = asyncio.Event()
        inbox = session.new_inbox()

        async def on_message(message: Any) -> None:
            if not ended.is_set():
                self._last_heard_at = loop.time()
                self._take(message, inbox)

        listening: Listening = await session.subscribe(inbox, on_message)
        try:
            await session.api(
                f"CONSUMER.CREATE.{stream_name(self._topic)}",
                {
                    "stream_name": stream_name(self._topic),
                    "config": {
                        "deliver_subject": inbox,
                        "deliver_policy": "by_start_sequence",
                        "opt_start_seq": self._last + 1,
                        "ack_policy": "none",
                        "filter_subject": self._filter,
                        "mem_storage": True,
                        "max_deliver": 1,
                        "idle_heartbeat": int(_HEARTBEAT_S * NANOSECONDS),
                        "inactive_threshold": int(_SILENCE_S * NANOSECONDS),
                    },
                },
            )
            while not ended.is_set() and not session.lost.is_set() and loop.time() < self._last_heard_at + _SILENCE_S:
                waits = [asyncio.ensure_future(event.wait()) for event in (ended, session.lost)]
                try:
                    await asyncio.wait(waits, timeout=_HEARTBEAT_S, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for wait in waits:
                        wait.cancel()
        finally:
            ended.set()
            await listening.close()

    def _take(self, message: Any, inbox: str) -> None:
        if message.subject == inbox:
            last = (message.headers or {}).get("Nats-Last-Consumer")
            if last is not None and int(last) != self._delivery:
                self._ended.set()
            return
        delivered = delivery(message)
        if delivered.number != self._delivery + 1:
            self._ended.set()
            return
        self._delivery = delivered.number
        record = stored_record(self._topic, message, delivered)
        self._last = record.position
        self._put(record)
