"""Publishes live updates of calls in progress: partials, segments, turns and summaries.

They go to core NATS subjects, `live.<tenant>.<call>`, at most once: nothing is kept for subscribers that come later or
read too slowly, and nothing waits for a NATS server that is away. The topics hold all of it, under the same ids. Values
are JSON by the published schemas, headers are those of CloudEvents in NATS's spelling.
"""

import asyncio
from typing import Final

import msgspec
import structlog

from pipeline.bus.nats.connection import NatsConnection, SessionLost
from pipeline.bus.nats.live_subjects import live_subject
from pipeline.bus.nats.subjects import to_wire
from pipeline.bus.opening import KAFKA
from pipeline.bus.protocol import Bus, Record
from pipeline.bus.security import BusSecurity
from pipeline.errors import BusError, ConfigurationError
from pipeline.settings import Settings
from pipeline.telemetry.metrics import Metrics
from schemas import cloudevents, envelope, topics
from schemas.segments import SEGMENT_TYPE, Segment, live_segment

TOPICS: Final = (topics.PARTIALS, topics.SEGMENTS, topics.TRANSCRIPTS, topics.SUMMARIES)

_CONNECT_S: Final = 5.0
_PAUSE_S: Final = 1.0


class LiveEvent(msgspec.Struct, frozen=True):
    """One update for viewers. `headers` have their Kafka spelling (`ce_id`)."""

    subject: str
    event_type: str
    headers: dict[str, str]
    value: bytes


def live_event(record: Record) -> LiveEvent | None:
    """Return the update of a record, None if it is not for viewers. Raises ValueError for a damaged record."""
    headers = dict(record.headers)
    try:
        if record.topic != topics.SEGMENTS:
            subject = live_subject(headers["ce_tenant"], headers["ce_subject"])
            return LiveEvent(subject, headers["ce_type"], headers, record.value)
        segment = envelope.decode(record.value)
    except (msgspec.MsgspecError, KeyError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    if not isinstance(segment, Segment) or not segment.words:
        return None
    headers |= {"ce_type": SEGMENT_TYPE, cloudevents.CONTENT_TYPE_HEADER: cloudevents.JSON_TYPE}
    subject = live_subject(segment.call.tenant, segment.call.call_id)
    return LiveEvent(subject, SEGMENT_TYPE, headers, msgspec.json.encode(live_segment(segment)))


class LiveServer(msgspec.Struct, frozen=True):
    url: str
    security: BusSecurity


def live_server(settings: Settings, bus_url: str, security: BusSecurity) -> LiveServer | None:
    """Return the server for live updates: the one that is set, else the bus if that is NATS, else None.

    `security` is that of the bus.
    """
    if settings.live_url is not None:
        return LiveServer(settings.live_url, settings.live_security())
    if bus_url.startswith(KAFKA):
        return None
    return LiveServer(bus_url, security)


class Fanout:
    """Publishes the updates of a bus on a NATS server. Used as an async context manager around `run`.

    Entering raises ConfigurationError if the server refuses us. A server that is away is waited for while running.
    """

    def __init__(self, bus: Bus, server: LiveServer, *, metrics: Metrics) -> None:
        self._bus = bus
        self._metrics = metrics
        self._live = NatsConnection(
            server.url, name="callstream fanout", reconnect_s=_CONNECT_S, security=server.security
        )
        self._connected = False
        self._log = structlog.get_logger("callstream.fanout").bind(url=server.url)

    async def __aenter__(self) -> "Fanout":
        await self._connect()
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._live.close()

    async def run(self) -> None:
        """Publish until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_trying())
            group.create_task(self._publish_all())

    async def _keep_trying(self) -> None:
        while not self._connected:
            await asyncio.sleep(_PAUSE_S)
            try:
                await self._connect()
            except ConfigurationError as error:
                self._log.error("live updates refused", error=str(error))
                await asyncio.sleep(_CONNECT_S)

    async def _connect(self) -> None:
        """Connect. From then on the connection reconnects by itself."""
        try:
            await self._live.connect()
            self._connected = True
        except BusError as error:
            self._log.warning("live updates wait for the NATS server", error=str(error))

    async def _publish_all(self) -> None:
        while True:
            try:
                feed = await self._bus.follow(TOPICS)
                try:
                    async for record in feed:
                        await self._publish(record)
                finally:
                    await feed.close()
            except BusError as error:
                self._log.warning("live updates wait for the bus", error=str(error))
            await asyncio.sleep(_PAUSE_S)

    async def _publish(self, record: Record) -> None:
        try:
            event = live_event(record)
        except ValueError as error:
            self._log.warning("live update skipped", topic=record.topic, position=record.position, error=str(error))
            return
        if event is None:
            return
        try:
            session = await self._live.session(0.0)
            await session.publish(event.subject, event.value, headers=to_wire(event.headers))
        except (BusError, SessionLost) as error:
            self._metrics.live_dropped.labels(event.event_type).inc()
            self._log.debug("live update dropped", subject=event.subject, error=str(error))
            return
        self._metrics.live_events.labels(event.event_type).inc()
