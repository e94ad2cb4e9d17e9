"""The loop with Faust alone, as in its documentation: an agent with Faust's acknowledgements, commits and producer.

Records of one key are published and awaited one by one, those of different keys concurrently: otherwise the loop would
measure waiting. Faust's commits are not safe when acknowledgements come out of order (see
`pipeline.bus.kafka.faust_app`); here every record is acknowledged.
"""

import asyncio
import tempfile
from typing import Any

import faust

from benchmarks.bus.load import Load
from benchmarks.bus.meter import Meter
from benchmarks.bus.raw_kafka import COMMIT_S, LINGER_MS, MAX_BATCH_BYTES

_IN_FLIGHT = 500


async def relay(load: Load, meter: Meter) -> None:
    """Relay all records; returns after Faust has left its group, which commits."""
    with tempfile.TemporaryDirectory() as folder:
        app = faust.App(
            load.group,
            broker=load.url,
            datadir=folder,
            store="memory://",
            autodiscover=False,
            web_enabled=False,
            topic_allow_declare=False,
            topic_disable_leader=True,
            stream_wait_empty=False,
            stream_buffer_maxsize=256,
            broker_commit_interval=COMMIT_S,
            consumer_auto_offset_reset="earliest",
            producer_acks=-1,
            producer_linger=LINGER_MS / 1000,
            producer_max_batch_size=MAX_BATCH_BYTES,
        )
        output = app.topic(load.output, key_serializer="raw", value_serializer="raw")
        queues: dict[bytes, asyncio.Queue[Any]] = {}
        room = asyncio.Semaphore(_IN_FLIGHT)
        finished = asyncio.Event()
        left = load.records

        async def relay_key(queue: asyncio.Queue[Any]) -> None:
            nonlocal left
            while True:
                event = await queue.get()
                message = event.message
                meter.tick()
                sent = await output.send(
                    key=event.key, value=event.value, partition=message.partition, headers=message.headers
                )
                await sent
                event.ack()
                room.release()
                left -= 1
                if not left:
                    finished.set()

        working = []

        async def read(stream: Any) -> None:
            async for event in stream.noack().events():
                await room.acquire()
                if event.key not in queues:
                    queues[event.key] = asyncio.Queue()
                    working.append(asyncio.create_task(relay_key(queues[event.key])))
                queues[event.key].put_nowait(event)

        channel = app.topic(load.input, key_serializer="raw", value_serializer="raw")
        app.agent(channel, concurrency=1, name=f"{load.group}.read")(read)
        app.finalize()
        await app.start()
        await finished.wait()
        await app.stop()
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)
