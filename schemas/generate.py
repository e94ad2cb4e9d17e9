"""Generates the JSON Schemas of published records and the AsyncAPI document: `python -m schemas.generate`.

The files are `schemas/json/*.json` and `schemas/asyncapi.json`. Tests compare them with the structs, so they cannot
become outdated.
"""

import json
from importlib import resources
from pathlib import Path
from typing import Any, Final

import msgspec

from schemas import asyncapi
from schemas.audio import (
    ENDED_TYPE,
    STARTED_TYPE,
    UPDATED_TYPE,
    WATCHED_TYPE,
    CallEnded,
    CallStarted,
    CallUpdated,
    CallWatched,
)
from schemas.partials import PARTIAL_TYPE, Partial
from schemas.segments import SEGMENT_TYPE, LiveSegment
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

PUBLISHED: Final[dict[str, type[msgspec.Struct]]] = {
    STARTED_TYPE: CallStarted,
    UPDATED_TYPE: CallUpdated,
    ENDED_TYPE: CallEnded,
    WATCHED_TYPE: CallWatched,
    PARTIAL_TYPE: Partial,
    SEGMENT_TYPE: LiveSegment,
    TURN_TYPE: Turn,
    COMPLETED_TYPE: TranscriptCompleted,
    SUMMARY_TYPE: Summary,
    JOB_TYPE: JobStatus,
    EXPIRED_TYPE: RecordsExpired,
    DEAD_LETTER_TYPE: DeadLetter,
    RESOLVED_TYPE: LetterResolved,
}
"""By CloudEvents type: the JSON values of `calls.audio`, `.partials`, `.transcripts`, `.summaries`, `.status`,
`.dead-letters`, and of the live subjects."""

ASYNCAPI_FILE: Final = "asyncapi.json"


def json_schema(event_type: str) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of an event type's value."""
    schema = msgspec.json.schema(PUBLISHED[event_type])
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": event_type, **schema}


def file_text(event_type: str) -> str:
    return json.dumps(json_schema(event_type), indent=2, ensure_ascii=False) + "\n"


def asyncapi_text() -> str:
    return json.dumps(asyncapi.document(PUBLISHED), indent=2, ensure_ascii=False) + "\n"


def file_name(event_type: str) -> str:
    return f"{event_type}.json"


def published_schema(event_type: str) -> dict[str, Any]:
    """Return the schema file of the package."""
    text = (resources.files("schemas") / "json" / file_name(event_type)).read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def main() -> None:
    folder = Path(__file__).parent / "json"
    folder.mkdir(exist_ok=True)
    for event_type in PUBLISHED:
        (folder / file_name(event_type)).write_text(file_text(event_type), encoding="utf-8")
    (folder.parent / ASYNCAPI_FILE).write_text(asyncapi_text(), encoding="utf-8")


if __name__ == "__main__":
    main()
