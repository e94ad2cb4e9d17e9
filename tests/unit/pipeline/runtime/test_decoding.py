"""Records of outsiders on the topics between stages: each is decoded, or rejected with the reason."""

import msgspec
import pytest

from pipeline.bus.protocol import Record
from pipeline.runtime.decoding import decode_transcript, stage_records
from pipeline.wiring.stage_list import STAGES
from schemas import envelope, topics
from schemas.calls import CallRef
from schemas.segments import SegmentRecord
from schemas.summaries import SummaryDeferred
from schemas.transcripts import TURN_TYPE
from schemas.utterances import CallProgress
from stages.errors import RejectedInput

CALL = CallRef("default", "call")
PROGRESS = CallProgress(call=CALL, seq=3, heard_to_s=[1.0])
NESTED_DEEP = (
    b"\x85\xa4type\xafcall_progress.1\xa4call\x92\xa1a\xa1b\xa3seq\x00\xaaheard_to_s\x90\xa1x" + b"\x91" * 5000
)


def record(value: bytes, topic: str = topics.SEGMENTS, **headers: str) -> Record:
    return Record(
        topic=topic, partition=0, position=1, key=CALL.key, value=value, headers=headers, timestamp_s=0.0, lag=0
    )


def test_a_record_of_the_topic_is_decoded() -> None:
    decoded = stage_records(SegmentRecord)(record(envelope.encode(PROGRESS)))
    assert (decoded.call, decoded.seq, decoded.content) == (CALL, 3, PROGRESS)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\xff\xfe",
        envelope.encode(PROGRESS)[:-3],
        envelope.encode(CallProgress(call=CallRef("default", "xx"), seq=3, heard_to_s=[])).replace(b"xx", b"\xff\xfe"),
        NESTED_DEEP,
    ],
)
def test_bytes_that_are_no_stage_record_are_rejected(value: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        envelope.decode(value)
    with pytest.raises(RejectedInput, match="not a stage record"):
        stage_records(SegmentRecord)(record(value))


def test_a_record_of_another_topic_is_rejected() -> None:
    deferred = SummaryDeferred(call=CALL, revision=0, partition=0, position=1, reason="away")
    with pytest.raises(RejectedInput, match=r"SummaryDeferred is no record of calls\.segments"):
        stage_records(SegmentRecord)(record(envelope.encode(deferred)))


@pytest.mark.parametrize(
    "value",
    [b"", b"null", b'{"tenant":"\xff"}', b'{"x":' + b"[" * 5000, b'{"tenant":"a","call_id":"b","turn_id":1}'],
)
def test_a_damaged_transcript_is_rejected(value: bytes) -> None:
    with pytest.raises(RejectedInput, match=r"not a callstream\.turn"):
        decode_transcript(record(value, topics.TRANSCRIPTS, ce_type=TURN_TYPE, ce_callseq="0"))


def test_every_decoder_of_a_stage_rejects_what_it_cannot_read() -> None:
    for group in (group for stage in STAGES for group in stage.groups if group.decoder is not None):
        assert group.decoder is not None
        for value in (b"", b"\xff\xfe", NESTED_DEEP, b'{"\xff":' + b"[" * 5000):
            with pytest.raises(RejectedInput):
                group.decoder(record(value, group.reads[0], ce_type=TURN_TYPE))
