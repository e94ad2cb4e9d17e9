"""Publishes a stage's outputs: encoding, headers, lane, and waiting while the store is full."""

import base64
from collections.abc import Awaitable, Callable
from functools import partial
from time import perf_counter

import msgspec
import structlog

from pipeline.backoff import Backoff
from pipeline.bus.protocol import Bus, Outgoing, Partition, Progress, Record
from pipeline.errors import StoreFullError
from pipeline.telemetry.metrics import Metrics
from schemas import cloudevents, envelope, topics
from schemas.calls import CallRef
from schemas.status import DEAD_LETTER_TYPE, JOB_TYPE, DeadLetter, JobStatus, dead_letter, letter_id
from schemas.topics import Lane
from stages.protocol import Output

TRACE_HEADER = "traceparent"
_FULL_STORE_PAUSES_S = (0.05, 0.1, 0.2, 0.5)
_LONG_WAIT_S = 10.0
"""A stage waits for the next one to make room as a matter of course. A wait of this length is an error."""


class Publisher:
    """Publishes the outputs of one stage in one lane."""

    def __init__(self, bus: Bus, *, stage: str, lane: Lane, metrics: Metrics) -> None:
        self._bus = bus
        self._stage = stage
        self._lane = lane
        self._metrics = metrics
        self._log = structlog.get_logger("callstream.publisher").bind(stage=stage, lane=lane)

    async def send(
        self,
        output: Output,
        call: CallRef,
        *,
        source: Partition | None = None,
        progress: Progress | None = None,
        traceparent: str | None = None,
    ) -> None:
        """Store an output. Waits while the store is full; the inputs stay unacknowledged meanwhile.

        Args:
            output: the output of `call`.
            source: the partition of the inputs, whose number the output gets; needed with `progress`.
            progress: the progress that a numbered output carries.
            traceparent: the trace header of the input that led to the output.

        Raises BusError if the broker is away for longer than the bus waits for it.
        """
        if isinstance(output.record, envelope.StageRecord):
            content_type, value = envelope.CONTENT_TYPE, envelope.encode(output.record)
        else:
            content_type, value = cloudevents.JSON_TYPE, msgspec.json.encode(output.record)
        headers = cloudevents.headers(
            event_id=output.event_id,
            event_type=output.event_type,
            call=call,
            seq=output.seq,
            source=f"callstream/{self._stage}",
            content_type=content_type,
        )
        from pipeline.telemetry import traces  # not with the module: see there

        headers[TRACE_HEADER] = traces.continued(traceparent, output.event_id)
        topic = topics.in_lane(output.topic, self._lane)
        publish = self._bus.publish if source is None else partial(source.publish, progress=progress)
        await self._store(
            publish, Outgoing(topic, key=call.key, value=value, event_id=output.event_id, headers=headers)
        )
        self._metrics.records_out.labels(self._stage, topic).inc()
        self._metrics.count(output.topic, output.record, lane=self._lane)

    async def reject(self, record: Record, call: CallRef | None, error: Exception, *, attempts: int) -> None:
        """Publish a dead letter for a record that the stage cannot use, and note it in its call's ledger."""
        letter = dead_letter(
            stage=self._stage,
            topic=record.topic,
            partition=record.partition,
            position=record.position,
            key=record.key,
            value=record.value,
            headers=record.headers,
            error=type(error).__name__,
            message=str(error),
            attempts=attempts,
            at=record.timestamp_s,
        )
        event_id = letter_id(self._stage, record.topic, record.partition, record.position)
        await self._store_letter(letter, event_id, self._headers(event_id, DEAD_LETTER_TYPE))
        self._metrics.dead_letters.labels(self._stage, type(error).__name__).inc()
        self._log.warning(
            "record rejected",
            topic=record.topic,
            partition=record.partition,
            position=record.position,
            key=base64.b64encode(record.key[:200]).decode() if call is None else call.call_id,
            error=letter.message,
        )
        if call is None:
            return
        entry = JobStatus(
            tenant=call.tenant,
            call_id=call.call_id,
            job=self._stage,
            status="rejected",
            detail={"error": letter.message, "topic": record.topic, "position": record.position},
            at=record.timestamp_s,
        )
        ledger = Output(topic=topics.STATUS, record=entry, event_id=f"{event_id}/status", event_type=JOB_TYPE)
        await self.send(ledger, call)

    async def note(self, topic: str, key: bytes, record: object, *, event_id: str, event_type: str) -> None:
        """Store a published record that is of no call. Waits while the store is full, as `send` does."""
        value = msgspec.json.encode(record)
        headers = self._headers(event_id, event_type)
        await self._store(self._bus.publish, Outgoing(topic, key=key, value=value, event_id=event_id, headers=headers))

    def _headers(self, event_id: str, event_type: str) -> dict[str, str]:
        """Return the headers of a record that is of no call."""
        return {
            cloudevents.CONTENT_TYPE_HEADER: cloudevents.JSON_TYPE,
            "ce_specversion": "1.0",
            "ce_id": event_id,
            "ce_source": f"callstream/{self._stage}",
            "ce_type": event_type,
        }

    async def _store_letter(self, letter: DeadLetter, event_id: str, headers: dict[str, str]) -> None:
        """Store a dead letter: without its value if there is no room for it, for as long as its origin has it."""

        def outgoing(letter: DeadLetter) -> Outgoing:
            value = msgspec.json.encode(letter)
            return Outgoing(topics.DEAD_LETTERS, key=letter.key, value=value, event_id=event_id, headers=headers)

        try:
            await self._bus.publish(outgoing(letter))
        except StoreFullError:
            await self._store(self._bus.publish, outgoing(msgspec.structs.replace(letter, value=b"", cut=True)))

    async def _store(self, publish: Callable[[Outgoing], Awaitable[None]], record: Outgoing) -> None:
        backoff = Backoff(_FULL_STORE_PAUSES_S)
        waiting_since = perf_counter()
        reported = False
        while True:
            try:
                began = perf_counter()
                await publish(record)
                self._metrics.publish_seconds.labels(record.topic).observe(perf_counter() - began)
                return
            except StoreFullError as error:
                if not reported and perf_counter() - waiting_since > _LONG_WAIT_S:
                    self._log.error("store full", topic=record.topic, error=str(error))
                    reported = True
                self._metrics.publish_retries.labels(record.topic).inc()
                await backoff.pause()
