"""Ends calls whose producer has gone away.

The clock of a call runs only while its reader has no lag and the broker answers, so that an outage ends no call. When
it runs out nothing is decided here: a record is put on the call's own topic, and the separate stage decides when it
reads it (see `schemas.audio.CallIdle`).
"""

import asyncio

import structlog

from pipeline.bus.protocol import Bus
from pipeline.errors import BusError
from pipeline.runner import StageRunner
from schemas import cloudevents
from schemas.audio import CallIdle

_PROBE_TIMEOUT_S = 2.0


class IdleWatch:
    """Watches the open calls of one runner of the separate stage."""

    def __init__(self, bus: Bus, runner: StageRunner, *, idle_s: float) -> None:
        self._bus = bus
        self._runner = runner
        self._idle_s = idle_s
        self._log = structlog.get_logger("callstream.idle")

    async def run(self) -> None:
        clock = asyncio.get_running_loop().time
        quiet_since: dict[object, float] = {}
        while True:
            await asyncio.sleep(min(1.0, self._idle_s / 4))
            works = self._runner.open_calls()
            answered = await self._broker_answers() if works else True
            now = clock()
            fresh: dict[object, float] = {}
            for work in works:
                if work.processor is None or work.processor.finished or work.last_record is None:
                    continue
                since = max(work.last_taken_at, quiet_since.get(work, 0.0))
                if not answered or self._runner.has_lag(work.partition):
                    since = now
                if now - since >= self._idle_s:
                    next_seq = getattr(work.processor, "next_seq", 0)
                    self._log.info("call is idle", call_id=work.call.call_id, idle_s=round(now - since, 1))
                    headers, value = cloudevents.encode_audio_event(
                        CallIdle(next_seq=next_seq),
                        call=work.call,
                        seq=max(0, next_seq - 1),
                        source="callstream/separate",
                    )
                    event_id = f"{headers['ce_id']}/idle"
                    record = work.last_record
                    try:
                        await work.partition.publish(
                            record.topic,
                            key=record.key,
                            value=value,
                            event_id=event_id,
                            headers={**headers, "ce_id": event_id},
                        )
                    except BusError as error:
                        self._log.warning("the idle record could not be stored", error=str(error))
                    since = now
                fresh[work] = since
            quiet_since = fresh

    async def _broker_answers(self) -> bool:
        try:
            await asyncio.wait_for(self._bus.lag(self._runner.subscription), _PROBE_TIMEOUT_S)
        except (TimeoutError, BusError):
            return False
        return True
