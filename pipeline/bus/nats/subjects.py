"""Names on NATS: from topics, partitions and keys to streams, subjects and tokens, and header names both ways.

A subject is `<base>.<partition>.<token>`: the base is the topic with a lane's dot replaced, so that the subjects of
`calls.audio` (`calls.audio.>`) and of `calls.audio.batch` (`calls.audio_batch.>`) do not overlap; the token is the
key in base64url without padding, because a key may hold any byte and a subject token may not.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, NamedTuple

from pipeline.bus.keys import key_token
from pipeline.bus.protocol import Progress, Record
from schemas import topics

PRODUCER_TOPICS: Final = frozenset({topics.AUDIO, topics.AUDIO_BATCH})
"""Topics that clients of other make publish to, without a partition: the server adds it."""

_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]+={0,2}")
_TOKEN: Final = re.compile(r"[^\s.*>\x00-\x1f]+")

_SHORT_REPLY: Final = 9
"""Tokens of a delivery's reply subject, where it names no domain and account."""

EVENT_ID_HEADER: Final = "Nats-Msg-Id"
_SEQ_HEADER: Final = "callstream-seq"
_RELEASED_HEADER: Final = "callstream-released"
_STATE_HEADER: Final = "callstream-state"
PROGRESS_HEADERS: Final = frozenset({_SEQ_HEADER, _RELEASED_HEADER, _STATE_HEADER})


def padded_token(key: bytes) -> str:
    """The same with padding, as some producers spell it: the server may put it into another partition."""
    return base64.urlsafe_b64encode(key).decode()


@lru_cache(maxsize=4096)
def token_key(token: str) -> bytes:
    """The inverse; padding is accepted, and a token that is no base64url is the key itself, as bytes."""
    if _BASE64URL.fullmatch(token):
        bare = token.rstrip("=")
        try:
            return base64.urlsafe_b64decode(bare + "=" * (-len(bare) % 4))
        except binascii.Error:
            pass
    return token.encode()


def key_spellings(topic: str, key: bytes) -> list[str]:
    """All tokens that the key's records may have on `topic`: what others publish is stored as they spell it."""
    if topic not in PRODUCER_TOPICS:
        return [key_token(key)]
    spellings = [key_token(key), padded_token(key)]
    bare = key.decode(errors="ignore")
    if _TOKEN.fullmatch(bare) and token_key(bare) == key:
        spellings.append(bare)
    return list(dict.fromkeys(spellings))


@lru_cache(maxsize=1024)
def subject_base(topic: str) -> str:
    """`calls.audio.batch` gives `calls.audio_batch`: two tokens, whatever the topic's lanes."""
    root, *rest = topic.split(".")
    return f"{root}.{'_'.join(rest)}" if rest else root


def stream_name(topic: str) -> str:
    """`calls.audio.batch` gives `calls-audio-batch`: stream names have no dots."""
    return topic.replace(".", "-")


def subject(topic: str, partition: int, key: bytes) -> str:
    return f"{subject_base(topic)}.{partition}.{key_token(key)}"


def parse_subject(text: str) -> tuple[int, bytes]:
    """Partition and key of a stored record's subject."""
    _, partition, token = text.rsplit(".", 2)
    return int(partition), token_key(token)


def to_wire(headers: Mapping[str, str]) -> dict[str, str]:
    """CloudEvents attributes as NATS spells them: `ce_id` becomes `ce-id`."""
    return {_sent(name): text for name, text in headers.items()}


@lru_cache(maxsize=1024)
def _sent(name: str) -> str:
    return f"ce-{name[3:]}" if name.startswith("ce_") else name


def from_wire(headers: Mapping[str, str] | None) -> dict[str, str]:
    """The inverse, without the headers of NATS and of this bus itself. Names of attributes become lower case."""
    found = {}
    for name, text in (headers or {}).items():
        shown = _shown(name)
        if shown is not None:
            found[shown] = text
    return found


@lru_cache(maxsize=1024)
def _shown(name: str) -> str | None:
    lower = name.lower()
    if lower.startswith("ce-"):
        return f"ce_{lower[3:]}"
    return None if lower.startswith(("nats-", "callstream-")) else name


def progress_to_wire(progress: Progress) -> dict[str, str]:
    """The headers of the output that carries `progress`; without a large state (`pipeline.bus.nats.large_states`)."""
    headers = {_SEQ_HEADER: str(progress.seq), _RELEASED_HEADER: str(progress.released)}
    if not progress.is_large:
        headers[_STATE_HEADER] = base64.b64encode(progress.state).decode()
    return headers


def progress_from_wire(headers: Mapping[str, str] | None) -> tuple[Progress, bool] | None:
    """What `progress_to_wire` wrote, and whether the state is in there; None for a record without progress, also one of
    another program whose headers only look like ours.
    """
    if not headers or _SEQ_HEADER not in headers:
        return None
    state = headers.get(_STATE_HEADER)
    try:
        progress = Progress(
            seq=int(headers[_SEQ_HEADER]),
            released=int(headers[_RELEASED_HEADER]),
            state=b"" if state is None else base64.b64decode(state, validate=True),
        )
    except (KeyError, ValueError):
        return None
    return progress, state is not None


class Delivery(NamedTuple):
    """What the reply subject of a delivered record says. `number` counts the consumer's deliveries from 1."""

    number: int
    position: int
    timestamp_s: float
    behind: int


def delivery(message: Any) -> Delivery:
    """Of a nats-py `Msg`, whose own way to read it makes five objects.

    The subject is `$JS.ACK.<stream>.<consumer>.<times>.<position>.<number>.<time>.<behind>`, in its longer form with
    domain and account before the stream and another token at the end (ADR-15).
    """
    tokens = message.reply.split(".")
    _, position, number, time_ns, behind = tokens[4:9] if len(tokens) == _SHORT_REPLY else tokens[6:11]
    return Delivery(int(number), int(position), int(time_ns) // 1_000 / 1_000_000, int(behind))


def stored_record(topic: str, message: Any, delivered: Delivery) -> Record:
    """A record as a consumer delivers it (a nats-py `Msg`)."""
    partition, key = parse_subject(message.subject)
    return Record(
        topic=topic,
        partition=partition,
        position=delivered.position,
        key=key,
        value=message.data,
        headers=from_wire(message.headers),
        timestamp_s=delivered.timestamp_s,
        lag=delivered.behind,
    )


def direct_record(topic: str, message: Any) -> Record:
    """A record as a direct get answers with it: headers hold subject, position and time, in a batch also the lag."""
    headers = message.headers
    partition, key = parse_subject(headers["Nats-Subject"])
    return Record(
        topic=topic,
        partition=partition,
        position=int(headers["Nats-Sequence"]),
        key=key,
        value=message.data,
        headers=from_wire(headers),
        timestamp_s=datetime.fromisoformat(headers["Nats-Time-Stamp"]).timestamp(),
        lag=int(headers.get("Nats-Num-Pending", 0)),
    )
