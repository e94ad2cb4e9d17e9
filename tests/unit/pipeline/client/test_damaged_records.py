"""Records that cannot be read, on topics that commands follow: the command goes on with the next."""

import pytest

from pipeline.bus.protocol import Record
from pipeline.client.call_progress import FOLLOWED, CallWatch
from pipeline.client.live_text import CallViewer
from schemas import topics
from schemas.calls import CallRef
from schemas.partials import PARTIAL_TYPE
from schemas.status import JOB_TYPE
from schemas.summaries import SUMMARY_TYPE
from schemas.transcripts import COMPLETED_TYPE, TURN_TYPE

TYPES = (TURN_TYPE, COMPLETED_TYPE, SUMMARY_TYPE, JOB_TYPE, PARTIAL_TYPE, "CallProgress")
VALUES = (b"", b"\xff\xfe", b"{}", b'{"tenant":"\xff"}', b'{"detail":' + b"[" * 5000, b"\x91" * 5000)


def damaged(topic: str, event_type: str, value: bytes) -> Record:
    return Record(
        topic=topic,
        partition=0,
        position=0,
        key=CallRef("default", "call").key,
        value=value,
        headers={"ce_type": event_type, "ce_id": f"{event_type}/{value!r}"},
        timestamp_s=0.0,
    )


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("event_type", TYPES)
def test_the_progress_of_a_call_ignores_a_record_that_cannot_be_read(event_type: str, value: bytes) -> None:
    watch = CallWatch()
    for topic in FOLLOWED:
        watch.apply(damaged(topic, event_type, value))
    assert (watch.new_turns, watch.metrics, watch.summary, watch.utterances) == ([], None, None, 0)


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("event_type", TYPES)
def test_the_live_text_of_a_call_ignores_a_record_that_cannot_be_read(event_type: str, value: bytes) -> None:
    viewer = CallViewer()
    viewer.catch_up([damaged(topics.TRANSCRIPTS, event_type, value)])
    for topic in (topics.PARTIALS, topics.SEGMENTS, topics.TRANSCRIPTS):
        viewer.apply(damaged(topic, event_type, value))
    assert (viewer.take_turns(), viewer.take_partials(), viewer.completed) == ([], [], None)
