from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from pipeline.bus.kafka.records import progress_from_wire, progress_to_wire, stored_record, to_wire
from pipeline.bus.protocol import INLINE_STATE_BYTES, Progress


class Wire(msgspec.Struct):
    """Return a record as aiokafka does."""

    key: bytes | None = b"call"
    value: bytes | None = b"value"
    headers: Any = ()
    topic: str = "calls.audio"
    partition: int = 3
    offset: int = 7
    timestamp_type: int = 1


NUMBERS = st.integers(min_value=0, max_value=2**62)


@given(NUMBERS, NUMBERS, st.binary(max_size=INLINE_STATE_BYTES))
def test_progress_travels_in_headers_that_are_text(seq: int, released: int, state: bytes) -> None:
    progress = Progress(seq=seq, released=released, state=state)
    headers = [("ce_id", b"1"), *progress_to_wire(progress, "merge")]
    assert progress_from_wire(headers, "merge") == (progress, True)
    assert progress_from_wire(headers, "transcribe") is None
    assert all(raw.decode().isprintable() for _, raw in headers)


def test_a_large_state_is_left_out() -> None:
    large = Progress(seq=3, released=4, state=bytes(INLINE_STATE_BYTES + 1))
    carried = progress_from_wire(progress_to_wire(large, "merge"), "merge")
    assert carried == (Progress(seq=3, released=4, state=b""), False)


def test_a_record_without_progress_has_none() -> None:
    assert progress_from_wire([("ce_id", b"1")], "merge") is None


def test_headers_of_other_programs_that_look_like_progress_are_ignored() -> None:
    group = ("callstream-group", b"merge")
    assert progress_from_wire([group, ("callstream-seq", b"one"), ("callstream-released", b"1")], "merge") is None
    assert progress_from_wire([group, ("callstream-seq", b"1")], "merge") is None
    spoiled = [group, ("callstream-seq", b"1"), ("callstream-released", b"1"), ("callstream-state", b"a")]
    assert progress_from_wire(spoiled, "merge") is None


def test_a_stage_does_not_see_the_headers_of_the_bus() -> None:
    progress = Progress(seq=1, released=1, state=b"x")
    headers = to_wire({"ce_id": "ä/1", "traceparent": "00-"}) + progress_to_wire(progress, "merge")
    record = stored_record(Wire(headers=headers), 5.0, lag=2)
    assert dict(record.headers) == {"ce_id": "ä/1", "traceparent": "00-"}
    assert (record.topic, record.partition, record.position) == ("calls.audio", 3, 7)
    assert (record.key, record.value, record.timestamp_s, record.lag) == (b"call", b"value", 5.0, 2)


def test_a_record_tells_whether_its_time_is_the_producers_or_the_brokers() -> None:
    assert not stored_record(Wire(timestamp_type=1), 5.0).producer_time
    assert stored_record(Wire(timestamp_type=0), 5.0).producer_time


def test_records_of_outside_producers_may_lack_fields_or_spell_them_freely() -> None:
    headers = [("CE_Type", b"t"), ("content-type", b"\xff"), ("Other", None)]
    record = stored_record(Wire(key=None, value=None, headers=headers), 0.0)
    assert (record.key, record.value) == (b"", b"")
    assert dict(record.headers) == {"ce_type": "t", "content-type": "�", "Other": ""}
    assert stored_record(Wire(headers=None), 0.0).headers == {}
