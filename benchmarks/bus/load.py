"""The records that a measurement relays, and their topics."""

import asyncio
import secrets
from typing import Final, Literal

import msgspec

from pipeline.bus.opening import open_bus
from pipeline.bus.protocol import Outgoing, TopicSpec
from pipeline.bus.security import BusSecurity
from schemas import cloudevents
from schemas.audio import AudioChunk
from schemas.calls import CallRef

PARTITIONS: Final = 8
"""The default of a deployment."""
_RETENTION_S: Final = 86_400.0


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """`records` numbered audio chunks of `size_bytes`, of `n_keys` calls."""

    url: str
    broker_pid: int
    size_bytes: int
    n_keys: int
    records: int
    warm_up: int
    """Records before the clock starts: by then caches are warm and prefetched records are consumed."""
    group: str = ""
    """A new one for each run, as is `output`: every run reads the same input from its beginning."""

    @property
    def input(self) -> str:
        return f"bench.in.{self.size_bytes}.{self.n_keys}"

    @property
    def output(self) -> str:
        return f"bench.out.{self.group}"

    @property
    def servers(self) -> str:
        """The address in the form that plain clients take."""
        return self.url.removeprefix("kafka://")

    @property
    def calls(self) -> dict[CallRef, int]:
        """Number of records of each call."""
        each, more = divmod(self.records, self.n_keys)
        return {CallRef.checked("default", f"call-{number}"): each + (number < more) for number in range(self.n_keys)}


Client = Literal["ours", "raw", "faust"]


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """One run. Times cover the records after the warm-up."""

    records: int
    cpu_s: float
    broker_cpu_s: float
    wall_s: float

    @property
    def per_cpu_s(self) -> float:
        return self.records / self.cpu_s


async def fill(load: Load) -> None:
    """Create the input topic and publish the records as a producer does."""
    bus = await open_bus(load.url, BusSecurity())
    try:
        await bus.ensure_topics([_spec(load.input)])
        data = secrets.token_bytes(load.size_bytes)

        async def send(call: CallRef, n_records: int) -> None:
            for seq in range(n_records):
                headers, value = cloudevents.encode_audio_event(
                    AudioChunk(data=data), call=call, seq=seq, source="benchmarks"
                )
                await bus.publish(
                    Outgoing(load.input, key=call.key, value=value, event_id=headers["ce_id"], headers=headers)
                )

        await asyncio.gather(*(send(call, n_records) for call, n_records in load.calls.items()))
    finally:
        await bus.close()


async def make_output(load: Load) -> None:
    bus = await open_bus(load.url, BusSecurity())
    try:
        await bus.ensure_topics([_spec(load.output)])
    finally:
        await bus.close()


async def check_output(load: Load) -> None:
    """Raises AssertionError unless every record was relayed once, in order and with its content."""
    bus = await open_bus(load.url, BusSecurity())
    try:
        seqs: dict[bytes, list[int]] = {}
        async for record in bus.stored(load.output):
            seqs.setdefault(record.key, []).append(int(record.headers["ce_callseq"]))
            assert len(record.value) >= load.size_bytes, "a record was cut"
        expected = {call.key: list(range(n_records)) for call, n_records in load.calls.items()}
        assert seqs == expected, "not every record was relayed once and in order"
    finally:
        await bus.close()


def _spec(topic: str) -> TopicSpec:
    return TopicSpec(name=topic, partitions=PARTITIONS, retention_s=_RETENTION_S)
