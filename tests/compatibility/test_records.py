"""This version reads the records and checkpoints of older versions as they did, and encodes the same bytes."""

import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import msgspec
import pytest

from pipeline.bus.kafka import progress as kafka_index
from pipeline.bus.kafka import records as kafka_records
from pipeline.bus.nats import subjects
from pipeline.bus.protocol import Progress, Record
from schemas import cloudevents, topics
from schemas.audio import UnusableUpdate
from schemas.calls import CallRef
from stages.merge import state as merge_state
from tests.compatibility.checkpoints import STATES
from tests.compatibility.checkpoints import encode as encode_checkpoint
from tests.compatibility.decoding import decode, described, encode
from tests.compatibility.dumps import Line, read_lines
from tests.compatibility.write import VERSIONS

BUSES = ("jetstream", "kafka")
TOPICS = {subjects.stream_name(topic): topic for topic in vars(topics).values() if str(topic).startswith("calls.")}
GROUPS = ("separate", "separate-batch", "transcribe", "transcribe-batch", "merge", "summarize")
STAGE_OF = {"utterances": "separate", "segments": "transcribe", "transcripts": "merge", "summaries": "summarize"}


class Stored(NamedTuple):
    line: Line
    record: Record
    meant: Any
    """The content as the version that stored it decodes it."""

    @property
    def is_ours(self) -> bool:
        return self.record.headers.get("ce_source", "").startswith("callstream/")


@pytest.fixture(scope="module", params=[f"{path.name}/{bus}" for path in sorted(VERSIONS.iterdir()) for bus in BUSES])
def dump(request: pytest.FixtureRequest) -> Path:
    """The path of a dump without its suffix."""
    return VERSIONS / str(request.param)


@pytest.fixture(scope="module")
def stored(dump: Path) -> list[Stored]:
    """The records of calls, as this version's bus reads them."""
    lines = (line for line in read_lines(dump.with_suffix(".jsonl.xz")) if re.match("calls[.-]", line["topic"]))
    meanings = read_lines(dump.with_name(f"{dump.name}-decoded.jsonl.xz"))
    found = []
    for line, meaning in zip(lines, meanings, strict=True):
        assert (line["topic"], line["position"]) == (meaning["topic"], meaning["position"])
        record = _from_jetstream(line) if "subject" in line else _from_kafka(line)
        found.append(Stored(line, record, meaning["content"]))
    return found


def _from_jetstream(line: Line) -> Record:
    own = {"Nats-Subject": line["subject"], "Nats-Sequence": str(line["position"]), "Nats-Time-Stamp": line["time"]}
    message = SimpleNamespace(headers=line["headers"] | own, data=bytes.fromhex(line["value"]))
    return subjects.direct_record(TOPICS[line["topic"]], message)


def _from_kafka(line: Line) -> Record:
    stored = SimpleNamespace(
        topic=line["topic"],
        partition=line["partition"],
        offset=line["position"],
        timestamp_type=1,
        key=bytes.fromhex(line["key"]),
        value=bytes.fromhex(line["value"]),
        headers=[(name, text.encode()) for name, text in line["headers"].items()],
    )
    return kafka_records.stored_record(stored, line["time"] / 1e3)


def test_every_record_decodes_as_before(stored: list[Stored]) -> None:
    for line, record, meant in stored:
        said = described(decode(record.topic, record.headers, record.key, record.value))
        assert json.loads(json.dumps(said)) == meant, f"{line['topic']} {line['position']}"


def test_the_dump_has_every_kind_of_record(stored: list[Stored]) -> None:
    """Other tests would pass on an empty dump."""
    kinds = {(one.record.headers.get("ce_type", ""), isinstance(one.meant, str)) for one in stored}
    tags = {one.meant["type"] for one in stored if isinstance(one.meant, dict) and "type" in one.meant}
    assert {kind.removeprefix("callstream.") for kind, unusable in kinds if not unusable} >= {
        "call.started",
        "call.updated",
        "call.watched",
        "call.ended",
        "audio.chunk",
        "turn",
        "transcript.completed",
        "summary",
        "partial",
        "job",
        "dead-letter",
        "dead-letter.resolved",
    }
    assert {kind for kind, unusable in kinds if unusable} == {"callstream.call.started", "no.such.type"}
    assert tags >= {
        "call_opened.1",
        "utterance.1",
        "interim.1",
        "call_progress.1",
        "call_changed.1",
        "call_closed.1",
        "segment.1",
        "commitment.1",
        "summary_deferred.1",
    }


def test_records_of_the_product_encode_to_the_same_bytes(stored: list[Stored]) -> None:
    for line, record, _ in filter(lambda one: one.is_ours, stored):
        content = decode(record.topic, record.headers, record.key, record.value)
        if isinstance(content, cloudevents.IncomingEvent):
            assert content.seq is not None
            assert not isinstance(content.event, UnusableUpdate)
            headers, value = cloudevents.encode_audio_event(
                content.event,  # type: ignore[arg-type]  # the product sent no requests to watch
                call=content.call,
                seq=content.seq,
                source=content.source,
            )
            kept = {name: text for name, text in record.headers.items() if name != "traceparent"}
            assert (headers, value) == (kept, record.value)
        else:
            assert encode(content) == record.value, f"{line['topic']} {line['position']}"


def test_subjects_keys_and_headers_are_the_same(stored: list[Stored]) -> None:
    for line, record, _ in filter(lambda one: one.is_ours, stored):
        if "ce_subject" in record.headers:
            call = CallRef(record.headers["ce_tenant"], record.headers["ce_subject"])
            sent_by_producer = record.topic in (topics.AUDIO, topics.AUDIO_BATCH)
            assert record.key in ({call.key, call.call_id.encode()} if sent_by_producer else {call.key})
        if "subject" in line:
            assert subjects.subject(record.topic, record.partition, record.key) == line["subject"]
            assert line["headers"].items() >= subjects.to_wire(record.headers).items()
        else:
            assert (
                dict(kafka_records.to_wire(record.headers)).items()
                <= {name: text.encode() for name, text in line["headers"].items()}.items()
            )


def _progress_of(one: Stored) -> tuple[Progress, bool] | None:
    headers = one.line["headers"]
    if "subject" in one.line:
        found = subjects.progress_from_wire(headers)
        again = None if found is None else subjects.progress_to_wire(found[0])
    else:
        group = headers.get("callstream-group")
        raw = [(name, text.encode()) for name, text in headers.items()]
        assert group is None or group in GROUPS
        found = kafka_records.progress_from_wire(raw, group or "")
        again = (
            None
            if found is None
            else {name: text.decode() for name, text in kafka_records.progress_to_wire(found[0], str(group))}
        )
    if found is not None and again is not None:
        if not found[1]:
            del again["callstream-state"]
        assert again == {name: text for name, text in headers.items() if name.startswith("callstream-")}
    return found


def test_progress_in_headers_is_read_and_encoded_as_before(stored: list[Stored]) -> None:
    for one in stored:
        found = _progress_of(one)
        if found is None or one.record.topic == topics.PARTIALS:
            assert found is not None or not any(name.startswith("callstream-") for name in one.line["headers"])
            continue
        assert found[0].seq >= 0
        assert found[0].released >= 0


def _states(dump: Path, stored: list[Stored]) -> Iterator[tuple[str, bytes]]:
    """Yield stage and checkpoint of every output, those stored separately included."""
    for one in stored:
        found = _progress_of(one)
        stage = STAGE_OF.get(one.record.topic.split(".")[1])
        if found is not None and found[1] and stage is not None:
            yield stage, found[0].state
    for line in read_lines(dump.with_suffix(".jsonl.xz")):
        if line["topic"] == "callstream-state":
            assert line["headers"]["callstream-pieces"] == "1"
            yield STAGE_OF[line["subject"].split(".")[3]], bytes.fromhex(line["value"])


def _is_in(old: Any, new: Any) -> bool:
    """Return True if `new`, of MessagePack, holds all of `old`. Fields that `old` lacks may be in it, empty."""
    if isinstance(old, dict):
        return isinstance(new, dict) and all(name in new and _is_in(value, new[name]) for name, value in old.items())
    if isinstance(old, list):
        if not isinstance(new, list) or len(new) < len(old) or any(new[len(old) :]):
            return False
        return all(map(_is_in, old, new))
    return bool(old == new)


def _is_kept(stage: str, state: bytes) -> bool:
    """Return True if reading a state and writing it again loses nothing."""
    again = encode_checkpoint(msgspec.msgpack.decode(state, type=STATES[stage]))
    return _is_in(msgspec.msgpack.decode(state), msgspec.msgpack.decode(again))


def test_checkpoints_of_every_stage_are_kept_when_they_are_read(dump: Path, stored: list[Stored]) -> None:
    """A renamed field would be lost silently."""
    seen = set()
    for stage, state in _states(dump, stored):
        if not state:
            continue
        seen.add(stage)
        if stage == "merge":
            again = merge_state.pack(*merge_state.unpack(state))
            assert _is_in(*(msgspec.msgpack.decode(zlib.decompress(one)) for one in (state, again)))
        else:
            assert _is_kept(stage, state), stage
    assert seen == {"separate", "transcribe", "merge", "summarize"}


@pytest.mark.parametrize("version", sorted(VERSIONS.iterdir()), ids=lambda path: path.name)
def test_no_field_of_a_checkpoint_was_renamed(version: Path) -> None:
    for stage, kept in json.loads((version / "checkpoints.json").read_text()).items():
        assert _is_kept(stage, bytes.fromhex(kept)), stage


def test_the_progress_index_on_kafka_encodes_to_the_same_bytes(dump: Path) -> None:
    if dump.name != "kafka":
        return
    kinds = set()
    for line in read_lines(dump.with_suffix(".jsonl.xz")):
        group, _, suffix = line["topic"].rpartition(".")
        if suffix != "progress":
            continue
        assert kafka_index.progress_topic(group) == line["topic"]
        raw = bytes.fromhex(line["key"])
        key = msgspec.msgpack.decode(raw, type=kafka_index._IndexKey)
        assert msgspec.msgpack.encode(key) == raw
        kinds.add(key.kind)
        value = None if line["value"] is None else bytes.fromhex(line["value"])
        if value is not None and key.kind != "state":
            kind: Any = {"mark": kafka_index._Mark, "entry": kafka_index._Entry}[key.kind]
            assert msgspec.msgpack.encode(msgspec.msgpack.decode(value, type=kind)) == value
    assert kinds >= {"mark", "entry"}
