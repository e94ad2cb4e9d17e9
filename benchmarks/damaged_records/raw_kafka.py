"""Publishing on Kafka without a producer: record batches as the protocol has them."""

import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Final, NamedTuple

from aiokafka import AIOKafkaProducer

from benchmarks.damaged_records.events import Sound
from benchmarks.damaged_records.mutants import Mutant, damaged
from benchmarks.damaged_records.outcome import STORED, Published
from pipeline.bus.keys import key_token, partition_of
from tests.support.brokers.record_batches import batch, produce, record, with_checksum

_MAX_BATCH_BYTES: Final = 300_000


class _Place(NamedTuple):
    topic: str
    partition: int


class _Batch(NamedTuple):
    place: _Place
    mutants: list[Mutant]
    data: bytes


class KafkaOutsider:
    """Writes to the topics of a cluster without access lists. See `outcome.Outsider`."""

    def __init__(self, servers: str, *, partitions: int, seed: int) -> None:
        self._seed = seed
        self._partitions = partitions
        self._producer = AIOKafkaProducer(bootstrap_servers=servers)

    async def connect(self) -> None:
        await self._producer.start()

    async def close(self) -> None:
        await self._producer.stop()

    async def send(self, records: Sequence[Sound]) -> None:
        by_place: dict[_Place, list[bytes]] = defaultdict(list)
        for sound in records:
            made = by_place[self._place(sound.topic, sound.key)]
            made.append(record(len(made), sound.key, sound.headers, sound.value))
        for place, made in by_place.items():
            outcome = await self._produce(place, batch(made))
            if outcome != STORED:
                raise RuntimeError(f"Kafka does not take sound records: {outcome}")

    async def publish(self, mutants: Sequence[Mutant], published: Published) -> None:
        for each in self._batches(mutants):
            outcome = await self._produce(each.place, each.data)
            for one in each.mutants:
                published.note(one, outcome)

    def _batches(self, mutants: Sequence[Mutant]) -> list[_Batch]:
        """Return the mutants in batches by partition. One with a damaged frame is a batch of its own."""
        batches: list[_Batch] = []
        by_place: dict[_Place, tuple[list[Mutant], list[bytes]]] = defaultdict(lambda: ([], []))
        for each in mutants:
            key = each.key if each.token is None else each.token
            place = self._place(each.topic, key)
            if each.framing:
                made = record(0, key or None, each.headers, each.value)
                batches.append(_Batch(place, [each], self._damaged_batch(each, made)))
                continue
            members, records = by_place[place]
            members.append(each)
            records.append(record(len(records), key or None, each.headers, each.value))
            if sum(map(len, records)) > _MAX_BATCH_BYTES:
                batches.append(_Batch(place, members, batch(records)))
                del by_place[place]
        return [*batches, *(_Batch(place, members, batch(made)) for place, (members, made) in by_place.items())]

    def _damaged_batch(self, each: Mutant, whole: bytes) -> bytes:
        """Return a batch of one record with bytes of it overwritten; two of three have a checksum that fits."""
        chance = random.Random(f"{self._seed}/{each.number}/frame")
        match chance.randrange(4):
            case 0:
                data = bytearray(batch([damaged(whole, chance)]))
            case 1:
                data = bytearray(batch([whole], attributes=chance.choice((0x10, 0x20, 0x08, 1, 2, 3, 4, 7, 0x7FFF))))
            case 2:
                data = bytearray(batch([whole], count=chance.choice((0, 2, -1, 2**31 - 1))))
            case _:
                data = bytearray(batch([whole]))
                for _ in range(chance.randint(1, 3)):
                    data[chance.randrange(12, len(data))] = chance.randrange(256)
        if chance.random() < 2 / 3:
            return with_checksum(bytes(data))
        return bytes(data)

    def _place(self, topic: str, key: bytes) -> _Place:
        return _Place(topic, partition_of(key_token(key).encode(), self._partitions))

    async def _produce(self, place: _Place, data: bytes) -> str:
        """Return what the broker did with a batch."""
        refused = await produce(self._producer, place.topic, place.partition, data)
        return STORED if refused is None else f"refused: {refused}"
