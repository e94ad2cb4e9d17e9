"""Records as Kafka stores them, and the headers that carry a stage's progress."""

import base64
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from pipeline.bus.protocol import Progress, Record

Headers = list[tuple[str, bytes]]

_OWN: Final = "callstream-"
_GROUP: Final = "callstream-group"
_SEQ: Final = "callstream-seq"
_RELEASED: Final = "callstream-released"
_STATE: Final = "callstream-state"
_CREATE_TIME: Final = 0
"""`message.timestamp.type` of the topic when the record was stored: 0 is CreateTime, 1 LogAppendTime."""


def to_wire(headers: Mapping[str, str]) -> Headers:
    return [(name, text.encode()) for name, text in headers.items()]


def progress_to_wire(progress: Progress, group: str) -> Headers:
    """Return the headers that carry `progress`, without a large state (see `pipeline.bus.kafka.progress`).

    All are text: outside consumers print and decode every header.
    """
    headers = [
        (_GROUP, group.encode()),
        (_SEQ, str(progress.seq).encode()),
        (_RELEASED, str(progress.released).encode()),
    ]
    if not progress.is_large:
        headers.append((_STATE, base64.b64encode(progress.state)))
    return headers


def progress_from_wire(headers: Sequence[tuple[str, bytes]], group: str) -> tuple[Progress, bool] | None:
    """Return the progress of `group` in a record's headers, and True if its state is there too.

    Returns None for any other record, and for one of another program whose headers look like ours.
    """
    found = dict(headers)
    if found.get(_GROUP) != group.encode():
        return None
    state = found.get(_STATE)
    try:
        progress = Progress(
            seq=int(found[_SEQ]),
            released=int(found[_RELEASED]),
            state=b"" if state is None else base64.b64decode(state, validate=True),
        )
    except (KeyError, ValueError):
        return None
    return progress, state is not None


@lru_cache(maxsize=1024)
def _name_off_wire(name: str) -> str | None:
    """Return a header's name on any bus, None for a header of this bus."""
    if name.startswith(_OWN):
        return None
    lower = name.lower()
    return lower if lower.startswith("ce_") else name


def stored_record(stored: Any, timestamp_s: float, *, lag: int = 0) -> Record:
    """Return a record that aiokafka or Faust has read, without the headers of the bus. `timestamp_s`: Unix time.

    A missing key or value is empty. Names of CloudEvents attributes are in lower case. Bytes of headers that are not
    UTF-8 are replaced: it is for the stage to judge what an outside producer sends.
    """
    headers = {}
    for name, raw in stored.headers or ():
        own = _name_off_wire(name)
        if own is not None:
            headers[own] = (raw or b"").decode(errors="replace")
    return Record(
        topic=stored.topic,
        partition=stored.partition,
        position=stored.offset,
        key=stored.key or b"",
        value=stored.value or b"",
        headers=headers,
        timestamp_s=timestamp_s,
        lag=lag,
        producer_time=stored.timestamp_type == _CREATE_TIME,
    )
