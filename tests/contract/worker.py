"""A worker process for tests that kill it: `python -m tests.contract.worker URL [PAUSE_S]`.

URL is of NATS or kafka://HOST:PORT. The worker pauses for PAUSE_S before each output.

A stage in its smallest form, true to the rules of `stages.protocol`: input n of a call gives output n, which carries
the progress; inputs of a call that are behind its progress give nothing. Acknowledgements come late and out of order.
It ends with SIGTERM, or when what it reads breaks those rules; a broker that is lost it waits for.
"""

import asyncio
import contextlib
import logging
import random
import signal
import sys

import structlog

from pipeline.bus.opening import open_bus
from pipeline.bus.protocol import Expired, Outgoing, Partition, Progress, Record, Subscription
from pipeline.bus.security import BusSecurity
from pipeline.errors import BusError

IN, OUT = "calls.utterances", "calls.segments"
SUBSCRIPTION = Subscription(group="transcribe", topics=(IN,), progress_topic=OUT)


class CountingStage:
    def __init__(self, pause_s: float) -> None:
        self._pause_s = pause_s
        self._done: dict[tuple[int, bytes], int] = {}
        self._acks: set[asyncio.Task[None]] = set()

    async def on_assigned(self, partition: Partition) -> None:
        print(f"assigned {partition.number}", flush=True)

    async def on_record(self, record: Record, partition: Partition) -> None:
        place = (record.partition, record.key)
        if place not in self._done:
            progress = await partition.progress(record.key)
            self._done[place] = -1 if progress is None else progress.seq
            if progress is not None:
                assert progress == _progress(progress.seq)
        number = int(record.value)
        if number > self._done[place]:
            assert number == self._done[place] + 1, f"{record.key!r}: {number} after {self._done[place]}"
            await asyncio.sleep(self._pause_s)
            await partition.publish(
                Outgoing(OUT, key=record.key, value=record.value, event_id=f"{record.key.decode()}/{number}"),
                progress=_progress(number),
            )
            self._done[place] = number
        task = asyncio.create_task(self._ack_later(record, partition))
        self._acks.add(task)
        task.add_done_callback(self._acks.discard)

    async def on_expired(self, expired: Expired, partition: Partition) -> None:
        raise AssertionError(f"{expired} of partition {partition.number}")

    async def on_revoked(self, partition: Partition) -> None:
        print(f"revoked {partition.number}", flush=True)
        self._done = {place: number for place, number in self._done.items() if place[0] != partition.number}

    async def _ack_later(self, record: Record, partition: Partition) -> None:
        await asyncio.sleep(random.random() * 0.1)
        partition.ack(record.position)


def _progress(number: int) -> Progress:
    """Return progress; every third state is large."""
    return Progress(seq=number, released=number + 1, state=bytes([number % 256]) * (20_000 if number % 3 == 0 else 9))


async def main(url: str, pause_s: float) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    bus = await open_bus(url, BusSecurity())
    while True:
        try:
            await bus.run(SUBSCRIPTION, CountingStage(pause_s))
        except BusError as error:
            print(f"again after {error}", flush=True)
            await asyncio.sleep(0.2)


async def until_terminated(url: str, pause_s: str = "0") -> None:
    work = asyncio.ensure_future(main(url, float(pause_s)))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, work.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await work


if __name__ == "__main__":
    asyncio.run(until_terminated(*sys.argv[1:]))
