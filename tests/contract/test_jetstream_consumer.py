"""A consumer that is made anew under a worker that hangs."""

import contextlib
from typing import Any

import pytest

from pipeline.bus.nats.connection import NANOSECONDS, Session
from pipeline.bus.nats.consumer import DurableConsumer
from pipeline.bus.protocol import Outgoing, TopicSpec
from tests.contract.brokers import JetStreamBroker

TOPIC = "calls.utterances"


class Killed(Exception):
    pass


class MortalSession:
    """A session on which a worker is killed after a number of requests."""

    def __init__(self, session: Session, n_requests: int) -> None:
        self._session = session
        self._left = n_requests

    async def api(self, subject: str, body: object = None) -> dict[str, Any]:
        if not self._left:
            raise Killed
        self._left -= 1
        return await self._session.api(subject, body)


@pytest.mark.parametrize("floor", [0, 12])
async def test_a_worker_killed_while_it_makes_a_consumer_anew_keeps_the_floor(
    jetstream: JetStreamBroker, floor: int
) -> None:
    bus = await jetstream.bus()
    await bus.ensure_topics([TopicSpec(name=TOPIC, partitions=1, retention_s=3600)])
    for number in range(20):
        await bus.publish(Outgoing(TOPIC, key=b"call", value=b"", event_id=str(number)))
    session = await bus._connection.session()

    async def take(_: object) -> None:
        """Take what the server sends."""

    hung = await session.subscribe("hung", take)
    pull = f'{{"batch": 1, "expires": {60 * NANOSECONDS}}}'.encode()
    for n_requests in range(12):
        consumer = DurableConsumer(TOPIC, f"group{n_requests}", 0)
        await consumer.begin(session, taking_over=False)
        if floor:
            await session.api(f"CONSUMER.RESET.{consumer.stream}.{consumer.name}", {"seq": floor + 1})
        for _ in range(25 - floor):  # five more than there are records
            await session.publish(f"$JS.API.CONSUMER.MSG.NEXT.{consumer.stream}.{consumer.name}", pull, reply="hung")
        while (await session.api(f"CONSUMER.INFO.{consumer.stream}.{consumer.name}"))["num_waiting"] < 5:
            pass
        with contextlib.suppress(Killed):
            await consumer.begin(MortalSession(session, n_requests), taking_over=True)  # type: ignore[arg-type]
        await consumer.begin(session, taking_over=True)
        info = await session.api(f"CONSUMER.INFO.{consumer.stream}.{consumer.name}")
        assert (info["ack_floor"]["stream_seq"], info["num_waiting"], info["num_pending"]) == (floor, 0, 20 - floor)
    await hung.close()
