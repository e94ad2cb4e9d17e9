"""End calls whose producer has gone away, and the wait of calls for events that do not come.

A call's clocks run only while its reader has no lag and the broker answers, so an outage ends no call and gives up no
event. When a limit is reached, a record is published on the call's own topic, and the stage decides when it reads that
record: a replay then decides the same (see `schemas.audio.CallIdle` and `CallOverdue`). Only numbered events keep a
call open, not requests of viewers.
"""

import asyncio
from collections import deque

import structlog

from pipeline.bus.protocol import Bus, Outgoing
from pipeline.errors import BusError
from pipeline.runtime.call_runner import StageRunner
from pipeline.runtime.call_work import CallWork
from schemas import cloudevents
from schemas.audio import CallIdle, CallOverdue
from stages.protocol import Waiting

_PROBE_TIMEOUT_S = 2.0


class IdleWatch:
    """Watches the open calls of one runner.

    A call ends after `idle_s` without an event. Missing events are given up once later ones have waited for `late_s`.
    """

    def __init__(self, bus: Bus, runner: StageRunner, *, idle_s: float, late_s: float) -> None:
        self._bus = bus
        self._runner = runner
        self._idle_s = idle_s
        self._late_s = late_s
        self._log = structlog.get_logger("callstream.idle")

    async def run(self) -> None:
        clock = asyncio.get_running_loop().time
        quiet_since: dict[CallWork, float] = {}
        arrived: dict[CallWork, _Arrived] = {}
        while True:
            await asyncio.sleep(min(1.0, self._idle_s / 4, self._late_s / 4))
            works = [work for work in self._runner.open_calls() if _may_be_idle(work)]
            answers = await self._broker_answers() if works else True
            now = clock()
            since = {work: max(work.last_numbered_at, quiet_since.get(work, 0.0)) for work in works}
            held = {work: arrived.get(work) or _Arrived() for work in works if _waiting(work) is not None}
            for work in works:
                if not answers or self._runner.has_lag(work.partition):
                    since[work] = now
                    held.pop(work, None)
                    continue
                if now - since[work] >= self._idle_s:
                    await self._end(work, now - since[work])
                    since[work] = now
                waiting = _waiting(work)
                if waiting is not None and work in held:
                    held[work].note(waiting.arrived_below, now)
                    below = held[work].below_until(now - self._late_s)
                    if waiting.missing < below:
                        await self._give_up(work, waiting, below)
            quiet_since, arrived = since, held

    async def _end(self, work: CallWork, idle_s: float) -> None:
        """Publish the idle record after the call's last record."""
        assert work.processor is not None
        next_seq = work.processor.idle_position
        assert next_seq is not None, f"calls of {self._runner.stage.name} do not end by being idle"
        self._log.info("call is idle", call_id=work.call.call_id, idle_s=round(idle_s, 1))
        await self._publish(work, CallIdle(next_seq=next_seq), seq=max(0, next_seq - 1), what="idle")

    async def _give_up(self, work: CallWork, waiting: Waiting, below: int) -> None:
        """Publish the record that gives up missing events. Its number is that of the last event which follows them."""
        self._log.info("events are overdue", call_id=work.call.call_id, first=waiting.missing, below=below)
        await self._publish(work, CallOverdue(below=below), seq=below - 1, what="overdue")

    async def _publish(self, work: CallWork, event: CallIdle | CallOverdue, *, seq: int, what: str) -> None:
        headers, value = cloudevents.encode_audio_event(
            event, call=work.call, seq=seq, source=f"callstream/{self._runner.stage.name}"
        )
        event_id = f"{headers['ce_id']}/{what}"
        record = work.last_record
        assert record is not None
        try:
            await work.partition.publish(
                Outgoing(
                    record.topic, key=record.key, value=value, event_id=event_id, headers={**headers, "ce_id": event_id}
                )
            )
        except BusError as error:
            self._log.warning("the record could not be stored", what=what, error=str(error))

    async def _broker_answers(self) -> bool:
        try:
            async with asyncio.timeout(_PROBE_TIMEOUT_S):  # `wait_for` may swallow a cancellation
                await self._bus.lag(self._runner.subscription)
        except (TimeoutError, BusError):
            return False
        return True


class _Arrived:
    """How far a call had come, while it waits for missing events."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def note(self, below: int, now: float) -> None:
        """Note that events up to the number `below` have come, some of those before it excepted."""
        if not self._seen or self._seen[-1][1] != below:
            self._seen.append((now, below))

    def below_until(self, then: float) -> int:
        """Return the highest number noted until `then`, 0 if there is none. Each is returned once."""
        below = 0
        while self._seen and self._seen[0][0] <= then:
            below = self._seen.popleft()[1]
        return below


def _may_be_idle(work: CallWork) -> bool:
    return work.processor is not None and not work.processor.finished and work.last_record is not None


def _waiting(work: CallWork) -> Waiting | None:
    return None if work.processor is None else work.processor.waiting
