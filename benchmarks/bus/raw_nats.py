"""The loop by hand with nats-py: a pull consumer that fetches batches, publishes with JetStream's acknowledgement.

Records of one key are published and awaited one by one, those of different keys concurrently. With `AckPolicy.ALL` the
last message acknowledges a whole batch. Records are forwarded unchanged, headers included: no progress, no trace, no
metrics, no handling of a lost connection.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import nats
from nats.js.api import AckPolicy, ConsumerConfig

from benchmarks.bus.load import Load
from benchmarks.bus.meter import Meter
from pipeline.bus.nats.subjects import stream_name, subject_base

_RECORDS = 250


async def relay(load: Load, meter: Meter) -> None:
    """Relay all records; returns when all are acknowledged."""
    client = await nats.connect(load.url)
    stream = client.jetstream()
    source, target = subject_base(load.input), subject_base(load.output)
    subscription = await stream.pull_subscribe(
        f"{source}.*.*",
        durable=load.group,
        stream=stream_name(load.input),
        config=ConsumerConfig(ack_policy=AckPolicy.ALL, max_ack_pending=-1, ack_wait=3600),
    )

    async def relay_key(messages: Iterable[Any]) -> None:
        for message in messages:
            meter.tick()
            await stream.publish(target + message.subject[len(source) :], message.data, headers=message.headers)

    while not meter.done.is_set():
        batch = await subscription.fetch(_RECORDS, timeout=5)
        by_key = defaultdict(list)
        for message in batch:
            by_key[message.subject].append(message)
        await asyncio.gather(*(relay_key(messages) for messages in by_key.values()))
        await batch[-1].ack()
    await client.close()
