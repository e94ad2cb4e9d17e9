"""The AsyncAPI document: valid, complete, and true to the records that are sent and read."""

import copy
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from pipeline.bus.keys import key_token
from pipeline.bus.nats import subjects
from pipeline.wiring.topology import topic_rows
from schemas import asyncapi, cloudevents, generate
from schemas.audio import (
    CHUNK_TYPE,
    ENDED_TYPE,
    STARTED_TYPE,
    UPDATED_TYPE,
    WATCHED_TYPE,
    AudioChunk,
    AudioEvent,
    CallEnded,
    CallStarted,
    CallUpdated,
    CallWatched,
)
from schemas.calls import CallRef
from schemas.segments import SEGMENT_TYPE
from tests.support.requirements import SCRIPTS, require_built
from tests.wire import records

FILE = Path(generate.__file__).parent / generate.ASYNCAPI_FILE
CALL = CallRef("acme", "call-1")
AUDIO_EVENTS: dict[str, AudioEvent] = {
    STARTED_TYPE: CallStarted(encoding="mulaw", sample_rate_hz=8000, channels=1),
    CHUNK_TYPE: AudioChunk(data=b"\x00\xff"),
    UPDATED_TYPE: CallUpdated(language=None),
    ENDED_TYPE: CallEnded(events=3),
}


@pytest.fixture(scope="module")
def parser() -> Path:
    """Return the script that runs the official parser; skip if it is not installed."""
    require_built("asyncapi", "installs it in under a minute (needs Node.js and npm)")
    return SCRIPTS / "asyncapi.sh"


def published() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return document


def validate(parser: Path, file: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([parser, "--validate", file], capture_output=True, text=True, check=False)


def message(name: str) -> dict[str, Any]:
    found: dict[str, Any] = published()["components"]["messages"][name]
    return found


def check_by(schema: dict[str, Any]) -> Any:
    """Return a validator for a schema of the document, whose references point into the document."""
    return jsonschema.Draft7Validator({**schema, "components": published()["components"]})


def without_references(schema: Any, root: Any) -> Any:
    """Return the schema with its references resolved, and without the names that only references need."""
    if isinstance(schema, list):
        return [without_references(item, root) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        target = root
        for name in schema["$ref"].removeprefix("#/").split("/"):
            target = target[name]
        return without_references(target, root)
    return {
        name: " ".join(value.split()) if name == "description" else without_references(value, root)
        for name, value in schema.items()
        if name not in ("$schema", "$defs")
    }


def test_the_published_document_is_the_one_that_follows_from_the_code() -> None:
    assert FILE.read_text(encoding="utf-8") == generate.asyncapi_text(), "run `python -m schemas.generate`"


@pytest.mark.asyncapi
def test_the_official_parser_finds_no_error_and_no_warning(parser: Path) -> None:
    done = validate(parser, FILE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not re.search("^(error|warning)", done.stdout, re.MULTILINE), done.stdout


def _point_nowhere(document: dict[str, Any]) -> None:
    document["operations"]["sendTranscripts.kafka"]["channel"]["$ref"] = "#/channels/kafka.calls.nothing"


def _drop_a_parameter(document: dict[str, Any]) -> None:
    del document["channels"]["nats.calls.audio"]["parameters"]["call"]


def _break_the_binding(document: dict[str, Any]) -> None:
    document["components"]["messages"]["callstream.turn.kafka"]["bindings"]["kafka"]["bindingVersion"] = "9.9.9"


def _break_a_schema(document: dict[str, Any]) -> None:
    document["components"]["schemas"]["Turn"]["properties"]["start_s"]["type"] = "seconds"


@pytest.mark.asyncapi
@pytest.mark.parametrize(
    ("breaking", "words"),
    [
        (_point_nowhere, "kafka.calls.nothing"),
        (_drop_a_parameter, "call"),
        (_break_the_binding, "9.9.9|bindingVersion"),
        (_break_a_schema, "start_s"),
    ],
)
def test_the_official_parser_refuses_a_wrong_document(
    parser: Path, tmp_path: Path, breaking: Callable[[dict[str, Any]], None], words: str
) -> None:
    document = published()
    breaking(document)
    wrong = tmp_path / "wrong.json"
    wrong.write_text(json.dumps(document), encoding="utf-8")
    done = validate(parser, wrong)
    assert done.returncode == 1, done.stdout + done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("error") and re.search(words, line)]


def test_it_describes_every_topic_that_outsiders_write_or_read() -> None:
    outside = {
        row.name for row in topic_rows() if row.written_by == "producers" or {"consumers", "operator"} & {*row.read_by}
    }
    for transport in ("kafka", "nats"):
        names = {name.removeprefix(f"{transport}.") for name in published()["channels"] if name.startswith(transport)}
        assert names - {"live"} == outside


def test_every_published_type_is_a_message_on_both_brokers() -> None:
    names = {
        f"{event_type}.{transport}"
        for event_type in (*generate.PUBLISHED, CHUNK_TYPE, asyncapi.STRUCTURED)
        for transport in ("kafka", "nats")
    } - {f"{SEGMENT_TYPE}.kafka"}
    assert set(published()["components"]["messages"]) == names
    used = {
        reference["$ref"].rpartition("/")[2]
        for channel in published()["channels"].values()
        for reference in channel["messages"].values()
    }
    assert used == names


@pytest.mark.parametrize(
    ("event_type", "transport"),
    [
        (event_type, transport)
        for transport in ("kafka", "nats")
        for event_type in generate.PUBLISHED
        if f"{event_type}.{transport}" in published()["components"]["messages"]
    ],
)
def test_a_payload_is_described_as_by_its_published_json_schema(event_type: str, transport: str) -> None:
    document = published()
    described = without_references(message(f"{event_type}.{transport}")["payload"], document)
    alone = generate.published_schema(event_type)
    assert described == without_references({"$ref": alone["$ref"]}, alone)
    value = json.loads(msgspec.json.encode(records.PUBLISHED[event_type]))
    check = check_by(message(f"{event_type}.{transport}")["payload"])
    check.validate(value)
    for example in message(f"{event_type}.{transport}").get("examples", []):
        check.validate(example["payload"])


@pytest.mark.parametrize("event_type", AUDIO_EVENTS)
def test_the_headers_of_our_own_producer_are_as_described(event_type: str) -> None:
    headers, _value = cloudevents.encode_audio_event(AUDIO_EVENTS[event_type], call=CALL, seq=7, source="test")
    check_by(message(f"{event_type}.kafka")["headers"]).validate(headers)
    check_by(message(f"{event_type}.nats")["headers"]).validate(subjects.to_wire(headers))
    for name in ("id", "source", "type", "specversion", "callseq"):
        lacking = {header: text for header, text in headers.items() if header != f"ce_{name}"}
        assert not check_by(message(f"{event_type}.kafka")["headers"]).is_valid(lacking)
        with pytest.raises(ValueError, match=name):
            cloudevents.decode_audio_event(lacking, CALL.key, b"")


@pytest.mark.parametrize("event_type", AUDIO_EVENTS)
def test_an_event_in_structured_mode_that_fits_the_description_is_understood(event_type: str) -> None:
    event = AUDIO_EVENTS[event_type]
    headers, value = cloudevents.encode_audio_event(event, call=CALL, seq=7, source="test")
    attributes = {name[3:]: text for name, text in headers.items() if name.startswith("ce_")}
    data = {"data_base64": "AP8="} if event_type == CHUNK_TYPE else {"data": json.loads(value)}
    envelope = {**attributes, "callseq": 7, **data}
    check = check_by(message("structured.kafka")["payload"])
    check.validate(envelope)
    sent = {"content-type": cloudevents.STRUCTURED_TYPE}
    check_by(message("structured.kafka")["headers"]).validate(sent)
    assert cloudevents.decode_audio_event(sent, CALL.key, json.dumps(envelope).encode()).event == event
    for name in ("callseq", *data):
        lacking = copy.deepcopy(envelope)
        del lacking[name]
        assert not check.is_valid(lacking)


def test_a_request_to_watch_has_no_number_in_either_mode() -> None:
    watched = CallWatched(seconds=20.0)
    headers, value = cloudevents.encode_watch(watched, call=CALL, event_id="viewer/1", source="test")
    assert "ce_callseq" not in headers
    check_by(message(f"{WATCHED_TYPE}.kafka")["headers"]).validate(headers)
    check_by(message(f"{WATCHED_TYPE}.nats")["headers"]).validate(subjects.to_wire(headers))
    assert cloudevents.decode_audio_event(headers, CALL.key, value).event == watched
    envelope = {name[3:]: text for name, text in headers.items() if name.startswith("ce_")} | {"data": {"seconds": 20}}
    check_by(message("structured.kafka")["payload"]).validate(envelope)
    sent = {"content-type": cloudevents.STRUCTURED_TYPE}
    decoded = cloudevents.decode_audio_event(sent, CALL.key, json.dumps(envelope).encode())
    assert (decoded.seq, decoded.event) == (None, watched)


@pytest.mark.parametrize("topic", [row.name for row in topic_rows() if f"nats.{row.name}" in published()["channels"]])
def test_the_nats_subjects_are_those_that_the_bus_uses(topic: str) -> None:
    channel = published()["channels"][f"nats.{topic}"]
    address = channel["address"].format(partition=3, call=key_token(CALL.key))
    if topic in subjects.PRODUCER_TOPICS:
        root, token = address.rsplit(".", 1)
        address = f"{root}.3.{token}"
    assert address == subjects.subject(topic, 3, CALL.key)
    assert subjects.stream_name(topic) in channel["description"]
