"""Sound records of every kind that the pipeline reads: what mutants are made of."""

import base64
import json
import random
from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from schemas import cloudevents, envelope, topics
from schemas.audio import (
    CHUNK_TYPE,
    ENDED_TYPE,
    IDLE_TYPE,
    OVERDUE_TYPE,
    STARTED_TYPE,
    UPDATED_TYPE,
    WATCHED_TYPE,
)
from schemas.calls import CallRef
from schemas.partials import Commitment
from schemas.segments import Segment, Word
from schemas.status import JOB_TYPE, JobStatus
from schemas.summaries import Summary, SummaryDeferred
from schemas.transcripts import TURN_TYPE, Turn
from schemas.utterances import (
    CallChanged,
    CallClosed,
    CallOpened,
    CallProgress,
    Channel,
    Gap,
    InterimUtterance,
    Part,
    Utterance,
)

Header = tuple[bytes, bytes | None]
SOURCE: Final = "/pbx/7"
CHUNK_BYTES: Final = (80, 1600)


class Sound(NamedTuple):
    """A record that a lane takes. Names of headers are spelled as on Kafka."""

    form: str
    topic: str
    key: bytes
    headers: list[Header]
    value: bytes


Form = Callable[[CallRef, int, random.Random], Sound]


def start(encoding: str = "mulaw", channels: int = 2, **more: object) -> bytes:
    described = {"encoding": encoding, "sample_rate_hz": 8000, "channels": channels, "roles": ["agent", "customer"]}
    return json.dumps({**described, "language": None, "partials": False, "metadata": {"queue": 7}, **more}).encode()


def audio_event(call: CallRef, seq: int | None, event_type: str, value: bytes, *, topic: str = topics.AUDIO) -> Sound:
    """Return an event of a producer in binary mode."""
    content_type = cloudevents.BYTES_TYPE if event_type == CHUNK_TYPE else cloudevents.JSON_TYPE
    made = cloudevents.headers(
        event_id=f"{call.call_id}-{seq}",
        event_type=event_type,
        call=call,
        seq=seq,
        source=SOURCE,
        content_type=content_type,
    )
    form = event_type.removeprefix("callstream.")
    return Sound(form, topic, call.key, [(name.encode(), text.encode()) for name, text in made.items()], value)


def _audio(call: CallRef, seq: int, chance: random.Random) -> Sound:
    event_type, value = _AUDIO_VALUES[chance.choice(_AUDIO_WEIGHTED)](chance)
    number = {STARTED_TYPE: 0, WATCHED_TYPE: None}.get(event_type, seq)
    return audio_event(call, number, event_type, value, topic=lane_of(call))


def _structured(call: CallRef, seq: int, chance: random.Random) -> Sound:
    event_type, value = _AUDIO_VALUES[chance.choice(_AUDIO_WEIGHTED)](chance)
    event: dict[str, object] = {
        "specversion": "1.0",
        "id": f"{call.call_id}-{seq}",
        "source": SOURCE,
        "subject": call.call_id,
        "tenant": call.tenant,
        "type": event_type,
        "callseq": 0 if event_type == STARTED_TYPE else seq,
    }
    if event_type == CHUNK_TYPE:
        event["data_base64"] = base64.b64encode(value).decode()
    else:
        event["data"] = json.loads(value)
    headers: list[Header] = [(b"content-type", cloudevents.STRUCTURED_TYPE.encode())]
    return Sound("structured", lane_of(call), call.key, headers, json.dumps(event).encode())


def _stage_record(call: CallRef, seq: int, chance: random.Random) -> Sound:
    topic, make = chance.choice(_STAGE_RECORDS)
    record = make(call, seq, chance)
    name = type(record).__name__
    return Sound("stage record", topic, call.key, _own_headers(call, seq, name), envelope.encode(record))


def _published(call: CallRef, seq: int, chance: random.Random) -> Sound:
    topic, event_type, make = chance.choice(_PUBLISHED)
    return Sound(
        "published JSON",
        topic,
        call.key,
        _own_headers(call, seq, event_type, cloudevents.JSON_TYPE),
        msgspec.json.encode(make(call, seq)),
    )


def _own_headers(call: CallRef, seq: int, event_type: str, content_type: str = envelope.CONTENT_TYPE) -> list[Header]:
    made = cloudevents.headers(
        event_id=call.event_id("outsider", seq),
        event_type=event_type,
        call=call,
        seq=seq,
        source="outsider",
        content_type=content_type,
    )
    return [(name.encode(), text.encode()) for name, text in made.items()]


def lane_of(call: CallRef) -> str:
    """Return the topic of a call's audio: a third of the calls are backfill."""
    number = call.call_id.rpartition("/")[2]
    return topics.AUDIO_BATCH if int(number) % 3 == 2 else topics.AUDIO


PRODUCERS_SHARE: Final = 0.83
"""Of the records that are events of a producer. The others lie between stages or after them."""


def sound_record(call: CallRef, seq: int, chance: random.Random, *, producers_only: bool = False) -> Sound:
    """Return a record of chance."""
    drawn = chance.random() * (PRODUCERS_SHARE if producers_only else 1.0)
    form = (
        _audio
        if drawn < 0.55
        else _structured
        if drawn < PRODUCERS_SHARE
        else _stage_record
        if drawn < 0.95
        else _published
    )
    return form(call, seq, chance)


def _chunk(chance: random.Random) -> bytes:
    return chance.randbytes(chance.randrange(*CHUNK_BYTES))


_AUDIO_VALUES: Final[dict[str, Callable[[random.Random], tuple[str, bytes]]]] = {
    "start": lambda chance: (
        STARTED_TYPE,
        start(chance.choice(["mulaw", "alaw", "pcm_s16le", "f32le", "container"]), chance.randint(1, 3)),
    ),
    "chunk": lambda chance: (CHUNK_TYPE, _chunk(chance)),
    "update": lambda _: (UPDATED_TYPE, b'{"language":"de","hotwords":["Northwind","Maria"],"partials":true}'),
    "end": lambda chance: (ENDED_TYPE, b'{"events":%d,"reason":"hangup"}' % chance.randint(1, 60)),
    "watch": lambda _: (WATCHED_TYPE, b'{"seconds":5.0}'),
    "idle": lambda chance: (IDLE_TYPE, b'{"next_seq":%d}' % chance.randint(0, 60)),
    "overdue": lambda chance: (OVERDUE_TYPE, b'{"below":%d}' % chance.randint(0, 60)),
}
_AUDIO_WEIGHTED: Final = ["start"] * 4 + ["chunk"] * 8 + ["update"] * 4 + ["end", "watch", "watch", "idle", "overdue"]

_CHANNELS: Final = [Channel(0, "agent"), Channel(1, "customer")]
_WORD: Final = Word(text="hello", start_s=0.1, end_s=0.4, probability=0.9)

_STAGE_RECORDS: Final[list[tuple[str, Callable[[CallRef, int, random.Random], envelope.StageRecord]]]] = [
    (
        topics.UTTERANCES,
        lambda call, seq, _: CallOpened(
            call=call,
            seq=seq % 2,
            channels=_CHANNELS,
            sample_rate_hz=8000,
            encoding="mulaw",
            language=None,
            partials=True,
            metadata={},
            opened_at=1.0,
        ),
    ),
    (
        topics.UTTERANCES,
        lambda call, seq, chance: Utterance(
            call=call,
            seq=seq,
            channel=0,
            first_sample=800,
            sample_rate_hz=8000,
            pcm=chance.randbytes(640),
            voiced=[(0.1, 0.14)],
            cut="pause",
        ),
    ),
    (
        topics.UTTERANCES_BATCH,
        lambda call, seq, chance: Utterance(
            call=call,
            seq=seq,
            channel=1,
            first_sample=0,
            sample_rate_hz=16000,
            pcm=chance.randbytes(640),
            voiced=[(0.0, 0.02)],
            cut="hard",
            before=chance.randbytes(64),
            after=chance.randbytes(64),
            parts=[Part(0, 160), Part(320, 160)],
        ),
    ),
    (topics.UTTERANCES, lambda call, seq, _: CallProgress(call=call, seq=seq, heard_to_s=[1.0, 2.0])),
    (topics.UTTERANCES, lambda call, seq, _: CallChanged(call=call, seq=seq, from_s=1.0, language="de")),
    (
        topics.UTTERANCES,
        lambda call, seq, _: CallClosed(
            call=call,
            seq=seq,
            revision=0,
            duration_s=3.0,
            speech_s=1.0,
            utterances=1,
            gaps=[Gap(start_s=0.0, end_s=0.5, events=1)],
            reason="hangup",
            provisional=False,
        ),
    ),
    (
        topics.UTTERANCES,
        lambda call, _, chance: InterimUtterance(
            call=call,
            channel=0,
            first_sample=800,
            sample_rate_hz=8000,
            pcm=chance.randbytes(640),
            voiced=[(0.1, 0.14)],
            revision=1,
            certain=True,
        ),
    ),
    (
        topics.UTTERANCES,
        lambda call, _seq, _chance: Commitment(
            call=call,
            channel=0,
            first_sample=800,
            revision=1,
            committed="hello",
            tail="",
            start_s=0.1,
            end_s=0.2,
            language="en",
        ),
    ),
    (
        topics.SEGMENTS,
        lambda call, seq, _: Segment(
            call=call,
            seq=seq,
            segment_id="0/800",
            channel=0,
            start_s=0.1,
            end_s=0.4,
            text="hello",
            words=[_WORD],
            voiced=[(0.1, 0.4)],
            language="en",
            model="hash",
            word_source="attention",
            probability=0.9,
            no_speech_probability=0.1,
        ),
    ),
    (topics.SEGMENTS, lambda call, seq, _: CallProgress(call=call, seq=seq, heard_to_s=[1.0, 2.0])),
    (
        topics.SEGMENTS,
        lambda call, _seq, _: SummaryDeferred(call=call, revision=0, partition=0, position=1, reason="away"),
    ),
]

_PUBLISHED: Final[list[tuple[str, str, Callable[[CallRef, int], object]]]] = [
    (
        topics.TRANSCRIPTS,
        TURN_TYPE,
        lambda call, seq: Turn(
            tenant=call.tenant,
            call_id=call.call_id,
            turn_id=f"turn-{seq}",
            revision=0,
            speaker="agent",
            channel=0,
            start_s=0.1,
            end_s=0.4,
            text="hello",
            words=[_WORD],
            segment_ids=["0/800"],
            language="en",
        ),
    ),
    (
        topics.STATUS,
        JOB_TYPE,
        lambda call, _: JobStatus(
            tenant=call.tenant, call_id=call.call_id, job="merge", status="started", detail={"a": 1}, at=1.0
        ),
    ),
    (
        topics.SUMMARIES,
        "callstream.summary",
        lambda call, _: Summary(
            tenant=call.tenant,
            call_id=call.call_id,
            kind="rolling",
            revision=1,
            text="A call.",
            key_points=[],
            sentiment=None,
            actions=[],
            topics=[],
            method="extractive",
            model="none",
        ),
    ),
]
