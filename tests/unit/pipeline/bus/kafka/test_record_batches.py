"""Record batches that a broker stores and aiokafka refuses to read."""

from typing import Any

import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from pipeline.bus.kafka.record_batches import AnyRecords


def batch(*values: bytes) -> bytes:
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=0,
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


def test_nothing_is_read_after_a_record_that_does_not_end_in_its_batch() -> None:
    data = bytearray(batch(b"before", b"poison", b"after"))
    length_at = data.index(b"poison") - 8
    data[length_at] = 0x7E  # 63 bytes: more than are left
    assert [record.value for record in read(bytes(data) + batch(b"next"))][-1] == b"next"


def test_whole_batches_are_read_as_they_are() -> None:
    assert [record.value for record in read(batch(b"a", b"b") + batch(b"c"))] == [b"a", b"b", b"c"]
