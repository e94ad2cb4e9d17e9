"""Poison: records that no stage can use, published in the middle of a run. Each must become a dead letter of every
stage that reads its topic, and change nothing else.

Undecodable ones are bytes that are no record. Unusable ones decode, and no stage can do anything with them. Poison of a
call of its own, whose id starts with `OWN_CALLS`, comes with that call's key; other poison has the key, and so the
subject or partition, of a call in progress.
"""

from typing import Final, NamedTuple

import msgspec

from schemas import envelope, topics
from schemas.audio import CHUNK_TYPE, STARTED_TYPE
from schemas.calls import CallRef
from schemas.cloudevents import BYTES_TYPE, JSON_TYPE
from schemas.segments import Segment
from schemas.status import JOB_TYPE, JobStatus
from schemas.summaries import SUMMARY_TYPE, Summary
from schemas.transcripts import COMPLETED_TYPE, CallMetrics, TranscriptCompleted
from schemas.utterances import Utterance

MARK: Final = "chaos-poison"
"""The header that numbers it. Dead letters repeat it."""
OWN_CALLS: Final = "poison/"

READERS: Final = {
    topics.AUDIO: ("separate",),
    topics.AUDIO_BATCH: ("separate",),
    topics.UTTERANCES: ("transcribe",),
    topics.UTTERANCES_BATCH: ("transcribe",),
    topics.SEGMENTS: ("merge",),
    topics.TRANSCRIPTS: ("sink", "summarize"),
    topics.SUMMARIES: ("sink",),
    topics.DEFERRED: ("summarize",),
    topics.STATUS: ("sink",),
}
INCOMING: Final = (topics.AUDIO, topics.AUDIO_BATCH)
_TYPES: Final = {
    topics.AUDIO: STARTED_TYPE,
    topics.AUDIO_BATCH: STARTED_TYPE,
    topics.TRANSCRIPTS: COMPLETED_TYPE,
    topics.SUMMARIES: SUMMARY_TYPE,
    topics.STATUS: JOB_TYPE,
}
NO_METRICS: Final = CallMetrics(
    duration_s=0, speech_s=0, silence_s=0, longest_silence_s=0, overlap_s=0, interruptions=0, channels=[]
)


class OpenCall(NamedTuple):
    """A call in progress, whose first events are stored."""

    call: CallRef
    topic: str


class Poison(NamedTuple):
    """A record, and the stages that must give it up."""

    number: int
    kind: str
    topic: str
    key: bytes
    headers: dict[str, str]
    value: bytes

    @property
    def readers(self) -> tuple[str, ...]:
        return READERS[self.topic]


def undecodable(number: int, topic: str, call: CallRef) -> Poison:
    """Return bytes that are neither JSON nor msgpack, with the headers of a record of the topic."""
    value = b"\xc1\xff\x00" + f"poison {number}".encode()
    return _poison(number, "undecodable", topic, call, value, _TYPES.get(topic, "callstream.stage"), JSON_TYPE)


def repeated_number(number: int, into: OpenCall) -> Poison:
    """Return a chunk of a call in progress with the number of another chunk, and other content."""
    made = _poison(number, "number taken", into.topic, into.call, f"poison {number}".encode(), CHUNK_TYPE, BYTES_TYPE)
    return made._replace(headers={**made.headers, "ce_callseq": "1"})


def unusable(number: int, topic: str) -> Poison | None:
    """Return a record of a call of its own that decodes and is impossible. None where nothing is impossible."""
    call = own_call(number)
    content = _impossible(topic, call)
    if content is None:
        return None
    if isinstance(content, Utterance | Segment):
        value, content_type = envelope.encode(content), envelope.CONTENT_TYPE
    else:
        value, content_type = msgspec.json.encode(content), JSON_TYPE
    return _poison(number, "unusable", topic, call, value, _TYPES.get(topic, "callstream.stage"), content_type)


def own_call(number: int) -> CallRef:
    return CallRef("default", f"{OWN_CALLS}{number}")


def _impossible(topic: str, call: CallRef) -> object | None:
    if topic in INCOMING:  # a start that is not the first event: `_poison` gives it a later number
        return {"encoding": "mulaw", "sample_rate_hz": 8000, "channels": 1, "roles": ["agent"]}
    if topic in (topics.UTTERANCES, topics.UTTERANCES_BATCH):
        return Utterance(
            call=call, seq=0, channel=0, first_sample=0, sample_rate_hz=0, pcm=b"\x00\x00", voiced=[], cut="end"
        )
    if topic == topics.SEGMENTS:  # of a call that was never opened
        return Segment(
            call=call, seq=0, segment_id="poison", channel=9, start_s=0.0, end_s=1.0, text="poison", words=[],
            voiced=[], language="en", model="none", word_source="attention", probability=1.0,
            no_speech_probability=0.0,
        )  # fmt: skip
    if topic == topics.TRANSCRIPTS:
        return TranscriptCompleted(
            tenant=call.tenant, call_id=call.call_id, revision=1, part=3, parts=2, duration_s=1.0, channels=[],
            turns=[], metrics=NO_METRICS, gaps=[], language="en", utterances=0, provisional=False,
        )  # fmt: skip
    if topic == topics.SUMMARIES:
        return Summary(
            tenant=call.tenant, call_id=call.call_id, kind="final", revision=-1, text="poison", key_points=[],
            sentiment=None, actions=[], topics=[], method="extractive", model="none",
        )  # fmt: skip
    if topic == topics.STATUS:
        return JobStatus(tenant=call.tenant, call_id=call.call_id, job="merge", status="completed", detail={}, at=1e300)
    return None


def _poison(
    number: int, kind: str, topic: str, call: CallRef, value: bytes, event_type: str, content_type: str
) -> Poison:
    incoming = topic in INCOMING
    headers = {
        MARK: str(number),
        "content-type": content_type,
        "ce_specversion": "1.0",
        "ce_id": f"poison-{number}",
        "ce_source": "/pbx/7" if incoming else "/poison",
        "ce_type": event_type,
        "ce_subject": call.call_id,
        "ce_tenant": call.tenant,
        "ce_callseq": "5",
    }
    return Poison(number, kind, topic, call.call_id.encode() if incoming else call.key, headers, value)
