"""Record batches as aiokafka reads them, except that nothing in them stops a reader.

Kafka's protocol has names of headers in UTF-8, but no broker refuses other bytes: clients in C send what they are
given. aiokafka 0.14 raises UnicodeDecodeError for such a record, and again each time it is fetched, so that one of them
would stop all readers of its partition for good. The same holds for CorruptRecordException, for records that brokers
store without looking into them, such as one with -50 headers. Nor do brokers look at the offsets that the records of a
batch state: one beyond its batch would be committed, and the next reader begin after records that nobody has read.

Here a batch is decompressed within a bound and read by aiokafka, and from such a record on by `_lenient_records`. What
cannot be read at all is one record, without a key: the bytes as its value, the reason in its header `unreadable`.
"""

import struct
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import _DefaultRecordBatchPy, _DefaultRecordPy
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import decode_varint

from pipeline.bus.kafka.compression import CannotDecompress, decompress

_LENGTH_AT: Final = 8
_RECORDS_AT: Final = 12
"""A batch begins with 8 bytes of offset and 4 of its length, which counts from here."""
_MAGIC_AT: Final = 16
_ATTRIBUTES: Final = struct.Struct(">h")
_ATTRIBUTES_AT: Final = 21
_CODEC: Final = 0x07
_COUNT: Final = struct.Struct(">i")
_COUNT_AT: Final = 57
_HEAD_BYTES: Final = 61
"""Of a batch of magic 2, whose records follow."""

_UNREADABLE: Final = (CorruptRecordException, IndexError, ValueError, OverflowError)
"""What aiokafka raises for records and batches that are not well formed. UnicodeDecodeError is a ValueError."""


def read_any_record() -> None:
    """Let all consumers of this process read records that aiokafka refuses to read."""
    fetcher.MemoryRecords = AnyRecords


class AnyRecords:
    """The batches of one answer to a fetch. Takes the place of aiokafka's `MemoryRecords`."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._batches: Any = MemoryRecords(data)
        self._at = 0

    def size_in_bytes(self) -> int:
        size: int = self._batches.size_in_bytes()
        return size

    def has_next(self) -> bool:
        more: bool = self._batches.has_next()
        return more

    def next_batch(self) -> "AnyBatch":
        batch = self._batches.next_batch()
        begin = self._at
        length_at = begin + _LENGTH_AT
        self._at = begin + _RECORDS_AT + int.from_bytes(self._data[length_at : length_at + 4])
        return AnyBatch(batch, memoryview(self._data)[begin : self._at])


class AnyBatch:
    """One batch. `batch` is aiokafka's, `data` its bytes."""

    def __init__(self, batch: Any, data: memoryview) -> None:
        self._batch = batch
        self._data = data
        self.is_control_batch: bool = batch.is_control_batch
        self.is_transactional: bool = batch.is_transactional
        self.producer_id: int | None = batch.producer_id
        self.next_offset: int = batch.next_offset

    @property
    def base_offset(self) -> int:
        offset: int = self._batch.base_offset
        return offset

    def validate_crc(self) -> bool:
        valid: bool = self._batch.validate_crc()
        return valid

    def __next__(self) -> Any:
        return next(self._batch)

    def __iter__(self) -> Iterator[Any]:
        if self._data[_MAGIC_AT] < 2:
            yield from self._batch
            return
        [left] = _COUNT.unpack_from(self._data, _COUNT_AT)
        last = self.base_offset - 1
        for record in self._records():
            left -= 1
            if not last < record.offset < self.next_offset - left:  # which leaves each record an offset of its own
                record = _at(record, last + 1)
            last = record.offset
            yield record

    def _records(self) -> Iterator[Any]:
        """Yield the records with the offsets that they state."""
        read = 0
        try:
            batch, data = self._decompressed()
        except CannotDecompress as error:
            yield _unreadable(_DefaultRecordBatchPy(self._data), 0, self._data[_HEAD_BYTES:], error)
            return
        try:
            for record in batch:
                read += 1
                yield record
        except _UNREADABLE:
            yield from islice(_lenient_records(data), read, None)

    def _decompressed(self) -> tuple[Any, memoryview]:
        """Return the batch and its bytes without compression. Raises CannotDecompress."""
        [attributes] = _ATTRIBUTES.unpack_from(self._data, _ATTRIBUTES_AT)
        if not attributes & _CODEC:
            return self._batch, self._data
        content = decompress(attributes & _CODEC, bytes(self._data[_HEAD_BYTES:]))
        head = bytearray(self._data[:_HEAD_BYTES])
        _COUNT.pack_into(head, _LENGTH_AT, _HEAD_BYTES - _RECORDS_AT + len(content))
        _ATTRIBUTES.pack_into(head, _ATTRIBUTES_AT, attributes & ~_CODEC)
        data = bytes(head + content)
        return MemoryRecords(data).next_batch(), memoryview(data)


def _lenient_records(data: memoryview) -> Iterator[Any]:
    """Yield the records of a batch of magic 2 as far as they can be read.

    Bytes of names that are not UTF-8 are replaced. A record that is not well formed has no headers, and what could be
    read of its key and value. From a record on whose end cannot be told, all is one.
    Source: `_DefaultRecordBatchPy._read_msg` of aiokafka 0.14.
    """
    batch = _DefaultRecordBatchPy(data)
    buffer, at = batch._buffer, batch._pos
    for number in range(batch._num_records):
        begin = at
        try:
            length, at = decode_varint(buffer, at)
            end = at + length
            if not at < end <= len(buffer):
                raise ValueError(f"a record of {length} bytes where {len(buffer) - at} are left")
        except _UNREADABLE as error:
            yield _unreadable(batch, number, buffer[begin:], error)
            return
        delay_ms, offset, key, value, headers = 0, number, None, None, []
        try:
            _, at = decode_varint(buffer, at)  # attributes
            delay_ms, at = decode_varint(buffer, at)
            offset, at = decode_varint(buffer, at)
            key, at = _bytes(buffer, at)
            value, at = _bytes(buffer, at)
            headers = list(_headers(buffer, at, end))
        except _UNREADABLE:
            pass
        at = end
        yield _made(batch, offset, delay_ms, key, value, headers)


def _unreadable(batch: Any, offset: int, data: bytes | bytearray | memoryview, error: Exception) -> Any:
    reason = [("unreadable", str(error).encode())]
    return _made(batch, offset, 0, None, bytes(data), reason)


def _made(
    batch: Any, offset: int, delay_ms: int, key: bytes | None, value: bytes | None, headers: list[tuple[str, Any]]
) -> Any:
    appended = batch.timestamp_type == batch.LOG_APPEND_TIME
    timestamp = batch.max_timestamp if appended else batch.first_timestamp + delay_ms
    return _DefaultRecordPy(batch.base_offset + offset, timestamp, batch.timestamp_type, key, value, headers)


def _at(record: Any, offset: int) -> Any:
    kind, headers = record.timestamp_type, record.headers
    return _DefaultRecordPy(offset, record.timestamp, kind, record.key, record.value, headers)


def _headers(buffer: bytearray, at: int, end: int) -> Iterator[tuple[str, bytes | None]]:
    """Yield the headers of a record. Raises ValueError if they do not end with it."""
    n_headers, at = decode_varint(buffer, at)
    for _ in range(n_headers):
        name, at = _bytes(buffer, at)
        text, at = _bytes(buffer, at)
        if at > end:
            break
        yield (name or b"").decode(errors="replace"), text
    if at != end:
        raise ValueError("the headers of a record do not end with it")


def _bytes(buffer: bytearray, at: int) -> tuple[bytes | None, int]:
    length, at = decode_varint(buffer, at)
    return (None, at) if length < 0 else (bytes(buffer[at : at + length]), at + length)
