"""End calls whose producer has gone away.

A call's clock runs only while its reader has no lag and the broker answers, so an outage ends no call. When the limit
is reached, a record is published on the call's own topic, and the stage decides when it reads that record: a replay
then decides the same (see `schemas.audio.CallIdle`). Only numbered events keep a call open, not requests of viewers.
"""

import asyncio

import structlog

from pipeline.bus.protocol import Bus, Outgoing
from pipeline.errors import BusError
from pipeline.runtime.call_runner import StageRunner
from pipeline.runtime.call_work import CallWork
from schemas import cloudevents
from schemas.audio import CallIdle

_PROBE_TIMEOUT_S = 2.0


class IdleWatch:
    """Watches the open calls of one runner."""

    def __init__(self, bus: Bus, runner: StageRunner, *, idle_s: float) -> None:
        self._bus = bus
        self._runner = runner
        self._idle_s = idle_s
        self._log = structlog.get_logger("callstream.idle")

    async def run(self) -> None:
        clock = asyncio.get_running_loop().time
        quiet_since: dict[CallWork, float] = {}
        while True:
            await asyncio.sleep(min(1.0, self._idle_s / 4))
            works = [work for work in self._runner.open_calls() if _may_be_idle(work)]
            answers = await self._broker_answers() if works else True
            now = clock()
            since = {work: max(work.last_numbered_at, quiet_since.get(work, 0.0)) for work in works}
            for work in works:
                if not answers or self._runner.has_lag(work.partition):
                    since[work] = now
                elif now - since[work] >= self._idle_s:
                    await self._end(work, now - since[work])
                    since[work] = now
            quiet_since = since

    async def _end(self, work: CallWork, idle_s: float) -> None:
        """Publish the idle record after the call's last record."""
        assert work.processor is not None
        next_seq = work.processor.idle_position
        assert next_seq is not None, f"calls of {self._runner.stage.name} do not end by being idle"
        self._log.info("call is idle", call_id=work.call.call_id, idle_s=round(idle_s, 1))
        headers, value = cloudevents.encode_audio_event(
            CallIdle(next_seq=next_seq),
            call=work.call,
            seq=max(0, next_seq - 1),
            source=f"callstream/{self._runner.stage.name}",
        )
        event_id = f"{headers['ce_id']}/idle"
        record = work.last_record
        assert record is not None
        try:
            await work.partition.publish(
                Outgoing(
                    record.topic, key=record.key, value=value, event_id=event_id, headers={**headers, "ce_id": event_id}
                )
            )
        except BusError as error:
            self._log.warning("the idle record could not be stored", error=str(error))

    async def _broker_answers(self) -> bool:
        try:
            await asyncio.wait_for(self._bus.lag(self._runner.subscription), _PROBE_TIMEOUT_S)
        except (TimeoutError, BusError):
            return False
        return True


def _may_be_idle(work: CallWork) -> bool:
    return work.processor is not None and not work.processor.finished and work.last_record is not None
