"""Records as Kafka holds them, and how a stage's progress travels in them."""

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


def to_wire(headers: Mapping[str, str]) -> Headers:
    return [(name, text.encode()) for name, text in headers.items()]


def progress_to_wire(progress: Progress, group: str) -> Headers:
    """The headers of the output that carries `progress`; without a large state.

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
    """What `progress_to_wire` wrote for `group`, and whether the state is in there; None for any other record, also one
    of another program whose headers only look like ours.
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
def _shown(name: str) -> str | None:
    """How a header is named to stages; None for one of the bus itself."""
    if name.startswith(_OWN):
        return None
    lower = name.lower()
    return lower if lower.startswith("ce_") else name


def stored_record(stored: Any, timestamp_s: float, *, lag: int = 0) -> Record:
    """A record as aiokafka or Faust read it (their times have other units), without the headers of the bus itself.

    An absent key or value is empty, the names of CloudEvents attributes are in lower case, and text that is no UTF-8
    is read as far as it goes: what an outside producer sends is for the stage to judge.
    """
    headers = {}
    for name, raw in stored.headers or ():
        shown = _shown(name)
        if shown is not None:
            headers[shown] = (raw or b"").decode(errors="replace")
    return Record(
        topic=stored.topic,
        partition=stored.partition,
        position=stored.offset,
        key=stored.key or b"",
        value=stored.value or b"",
        headers=headers,
        timestamp_s=timestamp_s,
        lag=lag,
    )
