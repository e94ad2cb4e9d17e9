"""The records of a dump, decoded by the `schemas` of the imported version.

    PYTHONPATH=CHECKOUT python tests/compatibility/decoding.py DUMP    # prints a JSON line for each record of a call

Field names are those on the wire. More than 64 bytes are replaced by their length and SHA-256.
"""

import base64
import hashlib
import json
import lzma
import sys
from collections.abc import Mapping
from typing import Any

import msgspec

from schemas import cloudevents, envelope
from schemas.partials import PARTIAL_TYPE, Partial
from schemas.status import (
    DEAD_LETTER_TYPE,
    EXPIRED_TYPE,
    JOB_TYPE,
    RESOLVED_TYPE,
    DeadLetter,
    JobStatus,
    LetterResolved,
    RecordsExpired,
)
from schemas.summaries import SUMMARY_TYPE, Summary
from schemas.transcripts import COMPLETED_TYPE, TURN_TYPE, TranscriptCompleted, Turn

PUBLISHED: dict[str, type[msgspec.Struct]] = {
    PARTIAL_TYPE: Partial,
    TURN_TYPE: Turn,
    COMPLETED_TYPE: TranscriptCompleted,
    SUMMARY_TYPE: Summary,
    JOB_TYPE: JobStatus,
    EXPIRED_TYPE: RecordsExpired,
    DEAD_LETTER_TYPE: DeadLetter,
    RESOLVED_TYPE: LetterResolved,
}


def decode(topic: str, headers: Mapping[str, str], key: bytes, value: bytes) -> Any:
    """Decode a record; one of an audio topic with call and number, or as the reason why it is unusable.

    `headers` are named as in CloudEvents' Kafka binding.
    """
    if topic.startswith("calls.audio"):
        try:
            return cloudevents.decode_audio_event(headers, key, value)
        except ValueError as error:
            return str(error)
    kind = PUBLISHED.get(headers["ce_type"])
    return envelope.decode(value) if kind is None else msgspec.json.decode(value, type=kind)


def encode(content: Any) -> bytes:
    """Encode the value of a record of the product."""
    return envelope.encode(content) if isinstance(content, envelope.StageRecord) else msgspec.json.encode(content)


def described(content: Any) -> Any:
    """Return the content as JSON values."""
    return _shortened(msgspec.to_builtins(content, builtin_types=(bytes,)))


def _shortened(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _shortened(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_shortened(inner) for inner in value]
    if isinstance(value, bytes):
        if len(value) <= 64:
            return {"base64": base64.b64encode(value).decode()}
        return {"bytes": len(value), "sha256": hashlib.sha256(value).hexdigest()}
    return value


def neutral(line: Mapping[str, Any]) -> tuple[str, dict[str, str], bytes, bytes] | None:
    """Return topic, headers, key and value of a dump's line; None for records that a bus keeps for itself."""
    topic = line["topic"].replace("calls-", "calls.", 1).replace("-batch", ".batch")
    if not topic.startswith("calls."):
        return None
    headers = {
        f"ce_{name[3:]}" if name.lower().startswith("ce-") else name: text
        for name, text in line["headers"].items()
        if not name.lower().startswith(("nats-", "callstream-"))
    }
    if "subject" in line:
        token = line["subject"].rpartition(".")[2]
        key = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    else:
        key = bytes.fromhex(line["key"])
    return topic, headers, key, bytes.fromhex(line["value"])


def main() -> None:
    with lzma.open(sys.argv[1], "rt") as lines:
        for line in map(json.loads, lines):
            record = neutral(line)
            if record is not None:
                content = described(decode(*record))
                print(json.dumps({"topic": line["topic"], "position": line["position"], "content": content}))


if __name__ == "__main__":
    main()
