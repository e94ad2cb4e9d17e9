"""Kafka's record batches (magic 2) and their publication, below the client libraries: any bytes wherever they may be.

Source: Apache Kafka's protocol guide, "Record batch".
"""

import struct
import time
from collections.abc import Sequence
from typing import Any, Final

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError, for_code
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.util import calc_crc32c, encode_varint

Header = tuple[bytes, bytes | None]

_HEAD: Final = struct.Struct(">qiibIhiqqqhii")
_CRC_AT: Final = 17
_CRC_FROM: Final = 21
_LENGTH_FROM: Final = 12
_TIMEOUT_MS: Final = 30_000


def record(offset: int, key: bytes | None, headers: Sequence[Header], value: bytes | None) -> bytes:
    """Return a record; `offset` counts the records of its batch."""
    body = bytearray(b"\x00")
    encode_varint(0, body.append)
    encode_varint(offset, body.append)
    _write(body, key)
    _write(body, value)
    encode_varint(len(headers), body.append)
    for name, text in headers:
        _write(body, name)
        _write(body, text)
    made = bytearray()
    encode_varint(len(body), made.append)
    return bytes(made + body)


def batch(records: Sequence[bytes], *, attributes: int = 0, count: int | None = None) -> bytes:
    """Return a batch. `attributes` and `count` may say what is not so."""
    now_ms = int(time.time() * 1000)
    content = b"".join(records)
    length = _HEAD.size - _LENGTH_FROM + len(content)
    n_records = len(records) if count is None else count
    head = _HEAD.pack(0, length, -1, 2, 0, attributes, len(records) - 1, now_ms, now_ms, -1, -1, -1, n_records)
    return with_checksum(head + content)


def with_checksum(data: bytes) -> bytes:
    """Return a batch with the checksum that fits its bytes."""
    made = bytearray(data)
    struct.pack_into(">I", made, _CRC_AT, calc_crc32c(bytes(data[_CRC_FROM:])))
    return bytes(made)


async def produce(producer: AIOKafkaProducer, topic: str, partition: int, data: bytes) -> str | None:
    """Publish a batch over a producer's connection. Returns the name of the broker's error, None if it took it."""
    client = producer.client
    await client._wait_on_metadata(topic)
    node = client.cluster.leader_for_partition(TopicPartition(topic, partition))
    request: Any = ProduceRequest(
        transactional_id=None, required_acks=-1, timeout=_TIMEOUT_MS, topics=[(topic, [(partition, data)])]
    )
    try:
        response = await client.send(node, request)
    except KafkaError as error:
        return type(error).__name__
    [(_, [(_, code, *_)])] = response.topics
    return for_code(code).__name__ if code else None


def _write(body: bytearray, part: bytes | None) -> None:
    encode_varint(-1 if part is None else len(part), body.append)
    body += part or b""
