"""The AsyncAPI 3 document: what clients publish to callstream and read from it, on Kafka and on NATS.

`document` builds it from the structs, and `python -m schemas.generate` writes it to `schemas/asyncapi.json`. A test
compares both and validates the file with the official parser. Each channel is described once for each broker: with the
same payloads, but its own address and spelling of header names.

Sources: AsyncAPI 3.0.0; AsyncAPI's Kafka bindings 0.5.0; CloudEvents 1.0.2, Kafka and NATS protocol bindings.
"""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, Final

import msgspec

from schemas import topics
from schemas.audio import (
    CHUNK_TYPE,
    ENDED_TYPE,
    MAX_CHUNK_BYTES,
    STARTED_TYPE,
    UPDATED_TYPE,
    WATCHED_TYPE,
    CallEnded,
    CallStarted,
    CallUpdated,
    CallWatched,
)
from schemas.calls import DEFAULT_TENANT, MAX_CALL_ID_LENGTH
from schemas.cloudevents import BYTES_TYPE, CONTENT_TYPE_HEADER, JSON_TYPE, STRUCTURED_TYPE
from schemas.event_numbers import EPOCH_EVENTS, MAX_EPOCH
from schemas.partials import PARTIAL_TYPE
from schemas.segments import SEGMENT_TYPE
from schemas.status import DEAD_LETTER_TYPE, EXPIRED_TYPE, JOB_TYPE, RESOLVED_TYPE
from schemas.summaries import SUMMARY_TYPE
from schemas.transcripts import COMPLETED_TYPE, TURN_TYPE

SCHEMA_PREFIX: Final = "#/components/schemas/"
STRUCTURED: Final = "structured"
"""Name of the message that holds any event of a producer as one JSON object."""

_KAFKA_BINDING: Final = "0.5.0"
_ATTRIBUTE_PREFIX: Final = {"kafka": "ce_", "nats": "ce-"}
_SERVERS: Final = {"kafka": ("kafka", "kafka-secure"), "nats": ("nats",)}

_SECURITY: Final = (
    ("scram512", "scramSha512", "A user of the broker"),
    ("scram256", "scramSha256", "A user of the broker"),
    ("plain", "plain", "A user of the broker; only TLS protects the password in transit"),
    ("certificate", "X509", "A client certificate"),
)


class _Event(msgspec.Struct, frozen=True, kw_only=True):
    """A CloudEvents type: its summary, and which of the optional attributes it has."""

    summary: str
    content_type: str = JSON_TYPE
    has_callseq: bool = True
    of_a_call: bool = True


class _Channel(msgspec.Struct, frozen=True, kw_only=True):
    """A topic that clients write (`received` by callstream) or read."""

    topic: str
    operation: str
    summary: str
    events: tuple[str, ...]
    received: bool = False


_EVENTS: Final = {
    STARTED_TYPE: _Event(summary="A call begins; describes its audio. Always event 0 of the call"),
    CHUNK_TYPE: _Event(summary="At most a second of audio, channels interleaved", content_type=BYTES_TYPE),
    UPDATED_TYPE: _Event(summary="Changes the call's language, hotwords or partials setting from here on"),
    ENDED_TYPE: _Event(summary="The producer has sent everything"),
    WATCHED_TYPE: _Event(
        summary="A viewer watches: the live call gets partials for this many seconds, whatever its start says. May be "
        "repeated; has no effect on a call that has not started or is over",
        has_callseq=False,
    ),
    PARTIAL_TYPE: _Event(
        summary="The text of an utterance so far: the committed text only grows, the tail may change", has_callseq=False
    ),
    SEGMENT_TYPE: _Event(summary="The words of an utterance, before its turn settles"),
    TURN_TYPE: _Event(summary="The speech of one speaker until another takes over, once it can no longer change"),
    COMPLETED_TYPE: _Event(summary="The complete transcript; a long one is split into numbered parts"),
    SUMMARY_TYPE: _Event(summary="Summary of a call, each point with the segments that it cites"),
    JOB_TYPE: _Event(
        summary="An entry of a call's ledger: start, end or failure of a job, or a gap", has_callseq=False
    ),
    EXPIRED_TYPE: _Event(
        summary="Records of a partition that the broker deleted by age before a stage had read them",
        has_callseq=False,
        of_a_call=False,
    ),
    DEAD_LETTER_TYPE: _Event(
        summary="A record that a stage could not use, with its origin and the reason",
        has_callseq=False,
        of_a_call=False,
    ),
    RESOLVED_TYPE: _Event(
        summary="An operator put the record of a dead letter back on its topic, or dropped it",
        has_callseq=False,
        of_a_call=False,
    ),
}

_AUDIO_EVENTS: Final = (STARTED_TYPE, CHUNK_TYPE, UPDATED_TYPE, ENDED_TYPE)
_LIVE_AUDIO_EVENTS: Final = (*_AUDIO_EVENTS, WATCHED_TYPE)

_CHANNELS: Final = (
    _Channel(
        topic=topics.AUDIO,
        operation="receiveLiveCalls",
        summary="Live calls of any producer, and requests to watch them",
        events=_LIVE_AUDIO_EVENTS,
        received=True,
    ),
    _Channel(
        topic=topics.AUDIO_BATCH,
        operation="receiveBackfill",
        summary="Recorded calls; live calls have priority",
        events=_AUDIO_EVENTS,
        received=True,
    ),
    _Channel(
        topic=topics.PARTIALS,
        operation="sendPartials",
        summary="Text while it is being spoken, of live calls that ask for it or are watched; retained for an hour",
        events=(PARTIAL_TYPE,),
    ),
    _Channel(
        topic=topics.TRANSCRIPTS,
        operation="sendTranscripts",
        summary="Turns as they settle, then the completed transcript",
        events=(TURN_TYPE, COMPLETED_TYPE),
    ),
    _Channel(topic=topics.SUMMARIES, operation="sendSummaries", summary="Summaries", events=(SUMMARY_TYPE,)),
    _Channel(
        topic=topics.STATUS, operation="sendStatus", summary="The ledger of all calls", events=(JOB_TYPE, EXPIRED_TYPE)
    ),
    _Channel(
        topic=topics.DEAD_LETTERS,
        operation="sendDeadLetters",
        summary="Records that a stage could not use",
        events=(DEAD_LETTER_TYPE, RESOLVED_TYPE),
    ),
)

LIVE_ADDRESS: Final = "live.{tenant}.{call}"
_LIVE_EVENTS: Final = (PARTIAL_TYPE, SEGMENT_TYPE, TURN_TYPE, COMPLETED_TYPE, SUMMARY_TYPE)
_LIVE_ONLY: Final = frozenset({SEGMENT_TYPE})
"""Described for live viewers only: on its topic it is a stage's internal record."""

_LIVE_TOKEN: Final = (
    ": unchanged if it is printable ASCII without space, '.', '*', '>' and a leading '='; else '=' and its UTF-8 in "
    "base64url without padding"
)

_CALL_TOKEN: Final = {
    "description": "The record key (the call id; for a tenant other than `default`: tenant, U+001F, call id) as UTF-8 "
    "in base64url without padding"
}


_EPOCH: Final = (
    "A producer that restarts in the middle of a call and counts from 0 again sends a higher number than before, with "
    "each event from its new start on"
)


def document(published: Mapping[str, type[msgspec.Struct]]) -> dict[str, Any]:
    """Return the document. `published` has the structs of the JSON values by CloudEvents type."""
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    for transport in _SERVERS:
        for channel in _CHANNELS:
            name = f"{transport}.{channel.topic}"
            channels[name] = _channel(channel, transport)
            operations[f"{channel.operation}.{transport}"] = _operation(channel, name)
    channels["nats.live"] = _live_channel()
    operations["sendLive.nats"] = {
        "action": "send",
        "channel": {"$ref": "#/channels/nats.live"},
        "summary": "Live updates of one call",
        "messages": [{"$ref": f"#/channels/nats.live/messages/{event_type}"} for event_type in _LIVE_EVENTS],
    }
    return {
        "asyncapi": "3.0.0",
        "info": _info(),
        "defaultContentType": JSON_TYPE,
        "servers": _servers(),
        "channels": channels,
        "operations": operations,
        "components": {
            "messages": _messages(published),
            "schemas": _schemas(published),
            "securitySchemes": {name: {"type": kind, "description": text} for name, kind, text in _SECURITY},
        },
    }


def _info() -> dict[str, Any]:
    return {
        "title": "callstream",
        "version": version("callstream"),
        "description": "Telephone calls to speaker-labelled, word-timed transcripts and summaries, on a message bus. "
        "Delivery is at least once and in order per call. Ids are stable: a repeated id carries the same bytes. Wait "
        "for the broker's acknowledgement: acknowledged events are kept.",
        "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        "tags": [
            {"name": "producers", "description": "Channels that clients publish to"},
            {"name": "consumers", "description": "Channels that clients read"},
        ],
    }


def _servers() -> dict[str, Any]:
    def server(protocol: str, port: str, description: str, **more: Any) -> dict[str, Any]:
        return {
            "host": "{host}:{port}",
            "protocol": protocol,
            "description": description,
            "variables": {
                "host": {"default": "127.0.0.1", "description": "Host of the broker"},
                "port": {"default": port},
            },
            **more,
        }

    return {
        "kafka": server("kafka", "9092", "Apache Kafka"),
        "kafka-secure": server(
            "kafka-secure",
            "9093",
            "Apache Kafka with TLS, and a login or a client certificate as configured by its operator",
            security=[{"$ref": f"#/components/securitySchemes/{name}"} for name, _kind, _text in _SECURITY],
        ),
        "nats": server(
            "nats",
            "4222",
            "NATS JetStream: the embedded server (`callstream status` prints its address) or a shared one",
        ),
    }


def nats_address(topic: str, *, received: bool) -> str:
    """Return the subject to publish to, or that of stored records, to which the server adds the partition."""
    root, *rest = topic.split(".")
    base = f"{root}.{'_'.join(rest)}"
    return f"{base}.{{call}}" if received else f"{base}.{{partition}}.{{call}}"


def _channel(channel: _Channel, transport: str) -> dict[str, Any]:
    described: dict[str, Any] = {
        "address": channel.topic,
        "title": channel.topic,
        "summary": channel.summary,
        "servers": [{"$ref": f"#/servers/{server}"} for server in _SERVERS[transport]],
        "tags": [{"name": "producers" if channel.received else "consumers"}],
        "messages": _message_refs(channel.events, transport),
    }
    if channel.received:
        described["messages"] |= _message_refs((STRUCTURED,), transport)
    if transport == "kafka":
        described["bindings"] = {"kafka": {"topic": channel.topic, "bindingVersion": _KAFKA_BINDING}}
        return described
    described["address"] = nats_address(channel.topic, received=channel.received)
    described["description"] = f"Stored in the JetStream stream `{channel.topic.replace('.', '-')}`. " + (
        "Publish through JetStream, which acknowledges." if channel.received else "Read it through a consumer."
    )
    described["parameters"] = {"call": _CALL_TOKEN}
    if not channel.received:
        described["parameters"] |= {"partition": {"description": "Partition of the topic; `*` for all"}}
    return described


def _live_channel() -> dict[str, Any]:
    return {
        "address": LIVE_ADDRESS,
        "title": LIVE_ADDRESS,
        "summary": "Live updates of one call",
        "description": "Core NATS: nothing is stored for late or slow subscribers. All of it is on the topics.",
        "servers": [{"$ref": "#/servers/nats"}],
        "tags": [{"name": "consumers"}],
        "parameters": {
            "tenant": {"description": f"The call's tenant{_LIVE_TOKEN}", "default": DEFAULT_TENANT},
            "call": {"description": f"The call id{_LIVE_TOKEN}"},
        },
        "messages": _message_refs(_LIVE_EVENTS, "nats"),
    }


def _operation(channel: _Channel, channel_name: str) -> dict[str, Any]:
    names = (*channel.events, STRUCTURED) if channel.received else channel.events
    return {
        "action": "receive" if channel.received else "send",
        "channel": {"$ref": f"#/channels/{channel_name}"},
        "summary": channel.summary,
        "messages": [{"$ref": f"#/channels/{channel_name}/messages/{name}"} for name in names],
    }


def _message_refs(names: tuple[str, ...], transport: str) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/messages/{name}.{transport}"} for name in names}


def _messages(published: Mapping[str, type[msgspec.Struct]]) -> dict[str, Any]:
    messages: dict[str, Any] = {}
    for transport in _SERVERS:
        for event_type, event in _EVENTS.items():
            if transport != "nats" and event_type in _LIVE_ONLY:
                continue
            payload = "AudioChunk" if event_type == CHUNK_TYPE else published[event_type].__name__
            messages[f"{event_type}.{transport}"] = _message(event_type, event, payload, transport)
        messages[f"{STRUCTURED}.{transport}"] = {
            "name": STRUCTURED,
            "title": "An event in structured mode",
            "summary": "Any event of a producer as one JSON object, for clients that cannot set headers",
            "contentType": STRUCTURED_TYPE,
            "headers": {
                "type": "object",
                "properties": {CONTENT_TYPE_HEADER: {"type": "string", "pattern": "^application/cloudevents\\+json"}},
                "required": [CONTENT_TYPE_HEADER],
            },
            "payload": {"$ref": f"{SCHEMA_PREFIX}StructuredEvent"},
            **_key_binding(transport, of_a_call=True),
        }
    return messages


def _message(event_type: str, event: _Event, payload: str, transport: str) -> dict[str, Any]:
    message = {
        "name": event_type,
        "title": event_type,
        "summary": event.summary,
        "contentType": event.content_type,
        "headers": _headers(event_type, event, _ATTRIBUTE_PREFIX[transport]),
        "payload": {"$ref": SCHEMA_PREFIX + payload},
        **_key_binding(transport, of_a_call=event.of_a_call),
    }
    if event_type in _EXAMPLES:
        message["examples"] = [_EXAMPLES[event_type]]
    return message


def _key_binding(transport: str, *, of_a_call: bool) -> dict[str, Any]:
    if transport != "kafka":
        return {}
    key = (
        {
            "type": "string",
            "description": "The call id as UTF-8; for a tenant other than `default`: the tenant, U+001F and the call "
            "id, or the call id alone. Any partitioner will do that maps a key to one partition",
            "minLength": 1,
        }
        if of_a_call
        else {"type": "string", "description": "The key of the rejected record"}
    )
    return {"bindings": {"kafka": {"key": key, "bindingVersion": _KAFKA_BINDING}}}


def _headers(event_type: str, event: _Event, prefix: str) -> dict[str, Any]:
    """Return the schema of a message's headers. Events of producers and numbered outputs of stages have `callseq`."""
    from_producer = event_type in _LIVE_AUDIO_EVENTS
    attributes: dict[str, Any] = {
        "specversion": {"type": "string", "const": "1.0"},
        "id": {"type": "string", "minLength": 1, "description": "Together with the source, identifies the event"},
        "source": {"type": "string", "minLength": 1},
        "type": {"type": "string", "const": event_type},
    }
    required = [*attributes]
    if event.of_a_call:
        attributes["subject"] = {
            "type": "string",
            "description": "The call id" + ("; if absent, the key is the call id" if from_producer else ""),
            "minLength": 1,
            "maxLength": MAX_CALL_ID_LENGTH,
        }
        attributes["tenant"] = {
            "type": "string",
            "description": "A call is identified by tenant and call id",
            "pattern": "^[A-Za-z0-9_.-]{1,64}$",
            "default": DEFAULT_TENANT,
        }
        required += [] if from_producer else ["subject", "tenant"]
    if event.has_callseq:
        attributes["callseq"] = {
            "type": "string",
            "pattern": "^[0-9]{1,18}$",
            "description": "Number of the event in its call, from 0, in decimal",
        }
        required.append("callseq")
    if from_producer and event.has_callseq:
        attributes["callepoch"] = {
            "type": "string",
            "pattern": "^[0-9]{1,10}$",
            "default": "0",
            "description": _EPOCH,
        }
    if from_producer:
        attributes["time"] = {"type": "string", "format": "date-time", "description": "Time of the event"}
    others: dict[str, Any] = {
        "traceparent": {"type": "string", "description": "W3C Trace Context"},
        CONTENT_TYPE_HEADER: {"type": "string", "const": event.content_type},
    }
    return {
        "type": "object",
        "properties": {f"{prefix}{name}": schema for name, schema in attributes.items()} | others,
        "required": [f"{prefix}{name}" for name in required] + ([] if from_producer else [CONTENT_TYPE_HEADER]),
    }


def _schemas(published: Mapping[str, type[msgspec.Struct]]) -> dict[str, Any]:
    """Return the payload schemas, each struct once. In `schemas/json` each file is self-contained."""
    _, components = msgspec.json.schema_components(tuple(published.values()), ref_template=SCHEMA_PREFIX + "{name}")
    for schema in components.values():
        schema["description"] = " ".join(schema.get("description", "").split())
    return components | {"AudioChunk": _chunk(), "StructuredEvent": _structured_event()}


def _chunk() -> dict[str, Any]:
    return {
        "title": "AudioChunk",
        "type": "string",
        "format": "binary",
        "description": "Audio in the encoding of the call's start, channels interleaved; at most a second and "
        f"{MAX_CHUNK_BYTES} bytes",
    }


def _structured_event() -> dict[str, Any]:
    attributes = {
        "specversion": {"type": "string", "const": "1.0"},
        "id": {"type": "string", "minLength": 1},
        "source": {"type": "string", "minLength": 1},
        "type": {"type": "string", "enum": list(_LIVE_AUDIO_EVENTS)},
        "subject": {"type": "string", "minLength": 1, "maxLength": MAX_CALL_ID_LENGTH},
        "tenant": {"type": "string", "pattern": "^[A-Za-z0-9_.-]{1,64}$", "default": DEFAULT_TENANT},
        "callseq": {"type": "integer", "minimum": 0, "maximum": EPOCH_EVENTS - 1},
        "callepoch": {"type": "integer", "minimum": 0, "maximum": MAX_EPOCH, "default": 0, "description": _EPOCH},
        "time": {"type": "string", "format": "date-time"},
    }
    data = {
        STARTED_TYPE: {"data": {"$ref": SCHEMA_PREFIX + "CallStarted"}},
        CHUNK_TYPE: {"data_base64": {"type": "string", "contentEncoding": "base64"}},
        UPDATED_TYPE: {"data": {"$ref": SCHEMA_PREFIX + "CallUpdated"}},
        ENDED_TYPE: {"data": {"$ref": SCHEMA_PREFIX + "CallEnded"}},
        WATCHED_TYPE: {"data": {"$ref": SCHEMA_PREFIX + "CallWatched"}},
    }
    return {
        "title": "StructuredEvent",
        "description": "CloudEvents 1.0, JSON event format",
        "type": "object",
        "properties": attributes,
        "required": ["specversion", "id", "source", "type"],
        "oneOf": [
            {
                "properties": {"type": {"const": event_type}, **properties},
                "required": [*(["callseq"] if _EVENTS[event_type].has_callseq else []), *properties],
            }
            for event_type, properties in data.items()
        ],
    }


def _example(name: str, record: CallStarted | CallUpdated | CallEnded | CallWatched) -> dict[str, Any]:
    return {"name": name, "payload": msgspec.json.decode(msgspec.json.encode(record))}


_EXAMPLES: Final = {
    STARTED_TYPE: _example(
        "twoChannels",
        CallStarted(encoding="mulaw", sample_rate_hz=8000, channels=2, roles=["agent", "customer"]),
    ),
    UPDATED_TYPE: _example("handedOver", CallUpdated(language="es", hotwords=["Iberdrola"])),
    ENDED_TYPE: _example("hangup", CallEnded(events=302)),
    WATCHED_TYPE: _example("aMinute", CallWatched(seconds=60.0)),
}
