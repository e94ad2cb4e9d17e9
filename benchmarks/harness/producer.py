"""A producer of calls as a separate process: a plain client that resends what was not acknowledged.

It keeps `--concurrent` calls open and sends each at `--speed` times the speed of speech (0: as fast as the broker takes
it). It writes a JSON line when it is connected, one for each call whose first events are stored, and one for each call
that it has sent completely. On SIGTERM it finishes the calls in progress and ends. SIGUSR1 stops it from beginning
calls, and lets it begin calls again.

    python -m benchmarks.harness.producer URL --every 0:2 --concurrent 3
"""

import argparse
import asyncio
import itertools
import json
import signal
from collections import deque
from collections.abc import Iterator

from benchmarks.harness.clients import PlainClient, Unsent, connect
from benchmarks.harness.produced_calls import ProducedCall, ProducedEvent, produced_call

WINDOW = 4
"""Records of a call in flight: that many may arrive in another order."""
OPEN_AFTER = WINDOW + 2
"""When this event is sent, at least the first three are stored."""
PAUSE_S = 0.2


class Producer:
    """Sends the calls of `numbers`. Their audio follows from the number, `seed` and `seconds`."""

    def __init__(
        self, client: PlainClient, numbers: Iterator[int], *, seed: int, seconds: tuple[float, float], speed: float
    ) -> None:
        self._stopping = False
        self._going = asyncio.Event()
        self._going.set()
        self._client = client
        self._numbers = numbers
        self._seed = seed
        self._seconds = seconds
        self._speed = speed

    async def run(self, concurrent: int) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrent):
                group.create_task(self._calls())

    def stop(self) -> None:
        self._stopping = True
        self._going.set()

    def pause_or_go(self) -> None:
        if self._going.is_set() and not self._stopping:
            self._going.clear()
        else:
            self._going.set()

    async def _calls(self) -> None:
        while await self._going.wait() and not self._stopping and (number := next(self._numbers, None)) is not None:
            call = await asyncio.to_thread(produced_call, number, self._seed, self._seconds)
            resent = await self._send_call(call)
            print(json.dumps({"number": number, "duration_s": call.duration_s, "resent": resent}), flush=True)

    async def _send_call(self, call: ProducedCall) -> int:
        """Send the events, at most `WINDOW` in flight, the end after all others. Returns the number of resends."""
        loop = asyncio.get_running_loop()
        began, again = loop.time(), 0
        flying: deque[asyncio.Task[int]] = deque()
        async with asyncio.TaskGroup() as group:
            for index, event in enumerate(call.events):
                if self._speed:
                    await asyncio.sleep(began + event.at_s / self._speed - loop.time())
                room = WINDOW - 1 if index < len(call.events) - 1 else 0
                while len(flying) > room:
                    again += await flying.popleft()
                flying.append(group.create_task(self._store(call, event)))
                if index == OPEN_AFTER:
                    print(json.dumps({"opened": call.number, "tenant": call.tenant, "topic": call.topic}), flush=True)
        return again + sum(task.result() for task in flying)

    async def _store(self, call: ProducedCall, event: ProducedEvent) -> int:
        """Send until acknowledged. Returns the number of resends."""
        for again in itertools.count():
            try:
                await self._client.send(call.topic, call.call_id.encode(), event.headers, event.value)
                return again
            except Unsent:
                await asyncio.sleep(PAUSE_S)
        raise AssertionError


async def produce(arguments: argparse.Namespace) -> None:
    client = await connect(arguments.url)
    numbers = iter(arguments.only) if arguments.every is None else itertools.count(*arguments.every)
    producer = Producer(client, numbers, seed=arguments.seed, seconds=tuple(arguments.seconds), speed=arguments.speed)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, producer.stop)
    loop.add_signal_handler(signal.SIGUSR1, producer.pause_or_go)
    print(json.dumps({"connected": arguments.url}), flush=True)
    await producer.run(arguments.concurrent)
    await client.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("url")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--every", type=lambda text: tuple(map(int, text.split(":"))), metavar="FIRST:STEP")
    which.add_argument("--only", type=lambda text: list(map(int, text.split(","))), metavar="N,N,…")
    parser.add_argument("--concurrent", type=int, default=1)
    parser.add_argument("--speed", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, nargs=2, default=(15.0, 45.0))
    asyncio.run(produce(parser.parse_args()))


if __name__ == "__main__":
    main()
