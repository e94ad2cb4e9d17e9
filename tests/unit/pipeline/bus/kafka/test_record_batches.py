"""Record batches that a broker stores and aiokafka refuses to read."""

from typing import Any

import pytest
from aiokafka.codec import gzip_encode, lz4_encode, snappy_encode, zstd_encode
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from pipeline.bus.kafka import compression
from pipeline.bus.kafka.record_batches import AnyRecords
from tests.support.brokers import record_batches

CODECS = {"gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}


def batch(*values: bytes, codec: int = 0) -> bytes:
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=codec,
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=10_000,
    )
    for offset, value in enumerate(values):
        assert builder.append(offset, 1_000, b"key", value, []) is not None
    return bytes(builder.build())


def read(data: bytes) -> list[Any]:
    records = AnyRecords(data)
    found = []
    while records.has_next():
        found += list(records.next_batch())
    return found


@pytest.mark.parametrize("n_headers", [b"\x63", b"\x7e", b"\x02"], ids=["minus 50", "63", "one that is not there"])
def test_a_record_with_a_wrong_number_of_headers_is_one_without_headers(n_headers: bytes) -> None:
    data = batch(b"before", b"poison", b"after").replace(b"poison\x00", b"poison" + n_headers)
    records = read(data + batch(b"next"))
    assert [record.value for record in records] == [b"before", b"poison", b"after", b"next"]
    assert [record.offset for record in records] == [0, 1, 2, 0]
    assert records[1].headers == []


def test_a_record_that_does_not_end_in_its_batch_is_one_with_all_that_follows() -> None:
    data = bytearray(batch(b"before", b"poison", b"after"))
    length_at = data.index(b"poison") - 9
    data[length_at] = 0x7E  # 63 bytes: more than are left
    before, rest, following = read(bytes(data) + batch(b"next"))
    assert (before.value, following.value) == (b"before", b"next")
    assert (rest.offset, rest.key) == (1, None)
    assert b"poison" in rest.value
    assert b"after" in rest.value
    assert rest.headers == [("unreadable", b"a record of 63 bytes where 30 are left")]


def test_whole_batches_are_read_as_they_are() -> None:
    assert [record.value for record in read(batch(b"a", b"b") + batch(b"c"))] == [b"a", b"b", b"c"]


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_a_compressed_batch_is_read_as_it_was(codec: int) -> None:
    records = read(batch(b"a" * 5_000, b"b", codec=codec) + batch(b"c"))
    assert [record.value for record in records] == [b"a" * 5_000, b"b", b"c"]
    assert [record.offset for record in records] == [0, 1, 0]


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_odd_records_of_a_compressed_batch_are_read_as_those_of_others(codec: int) -> None:
    poison = batch(b"before", b"poison", b"after").replace(b"poison\x00", b"poison\x63")
    compressed = record_batches.batch([compress(poison[61:], codec)], attributes=codec, count=3)
    records = read(compressed + batch(b"next"))
    assert [record.value for record in records] == [b"before", b"poison", b"after", b"next"]


@pytest.mark.parametrize("codec", [*CODECS.values(), 5, 7], ids=[*CODECS, "number 5", "number 7"])
def test_a_batch_that_is_not_of_its_codec_is_one_record(codec: int) -> None:
    odd = record_batches.batch([b"no such bytes"], attributes=codec, count=3)
    unreadable, following = read(odd + batch(b"next"))
    assert (unreadable.offset, unreadable.key, unreadable.value) == (0, None, b"no such bytes")
    [(name, reason)] = unreadable.headers
    assert name == "unreadable"
    assert reason.startswith(b"compressed with ")
    assert following.value == b"next"


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_a_batch_that_would_fill_the_memory_is_one_record(codec: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "MOST_BYTES", 1 << 20)
    bomb = record_batches.record(0, b"call", [], bytes(1 << 20))
    data = record_batches.batch([compress(bomb, codec)], attributes=codec)
    unreadable, following = read(data + batch(b"next"))
    assert unreadable.value == data[61:]
    assert following.value == b"next"


@pytest.mark.parametrize("stated", [[0, 1_000_000, 2], [2, 0, 1], [0, 0, 0], [0, -5, 1]])
@pytest.mark.parametrize("codec", [0, 4], ids=["plain", "zstd"])
def test_records_have_offsets_of_their_own_within_their_batch(stated: list[int], codec: int) -> None:
    made = b"".join(record_batches.record(offset, b"call", [], b"%d" % n) for n, offset in enumerate(stated))
    data = record_batches.batch([compress(made, codec) if codec else made], attributes=codec, count=3)
    data = data[:23] + (2).to_bytes(4) + data[27:]  # the last offset is that of the third record
    records = read(data)
    assert [record.offset for record in records] == [0, 1, 2]
    assert [record.value for record in records] == [b"0", b"1", b"2"]


def test_what_compaction_left_keeps_its_offsets() -> None:
    made = b"".join(record_batches.record(offset, b"call", [], b"") for offset in (3, 8))
    data = record_batches.batch([made], count=2)
    data = data[:23] + (9).to_bytes(4) + data[27:]
    assert [record.offset for record in read(data)] == [3, 8]


def compress(content: bytes, number: int) -> bytes:
    compressed: bytes = {1: gzip_encode, 2: snappy_encode, 3: lz4_encode, 4: zstd_encode}[number](content)
    return compressed
