"""The same by hand with nats-py: a pull consumer in batches, publishing with JetStream's answer, acknowledging.

Records of a key are published one after the other, each awaited, and those of different keys at the same time. The
consumer has `AckPolicy.ALL`: a batch that is done is acknowledged by its last message. The record goes out as it came
in, headers and all; no progress, no trace, no metrics, nothing for a lost connection.
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
    """Returns when all is relayed and acknowledged."""
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
