"""Names on NATS: streams, subjects and tokens of topics, partitions and keys, and header names both ways.

A subject is `<base>.<partition>.<token>`. The base is the topic with the dot of its lane replaced, so that the subjects
of `calls.audio` (`calls.audio.>`) and of `calls.audio.batch` (`calls.audio_batch.>`) do not overlap. The token is the
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
"""Topics that outside producers publish to without a partition: the server adds it."""

_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]+={0,2}")
_TOKEN: Final = re.compile(r"[^\s.*>\x00-\x1f]+")

_PARTITION: Final = re.compile(r"[0-9]{1,9}")
NO_PARTITION: Final = -1

_SHORT_REPLY: Final = 9
"""Tokens of a delivery's reply subject without domain and account."""

EVENT_ID_HEADER: Final = "Nats-Msg-Id"
SEQ_HEADER: Final = "callstream-seq"
RELEASED_HEADER: Final = "callstream-released"
_STATE_HEADER: Final = "callstream-state"
_STATE_AT_HEADER: Final = "callstream-state-at"
PROGRESS_HEADERS: Final = frozenset({SEQ_HEADER, RELEASED_HEADER, _STATE_HEADER, _STATE_AT_HEADER})


def padded_token(key: bytes) -> str:
    """Return the key in base64url with padding, as some producers spell it. Its partition may be another one."""
    return base64.urlsafe_b64encode(key).decode()


@lru_cache(maxsize=4096)
def token_key(token: str) -> bytes:
    """Return the key of a token, with or without padding. A token that is not base64url is the key itself.

    Bytes of the token that are no UTF-8 are lone surrogates in `token`, and themselves again in the key.
    """
    if _BASE64URL.fullmatch(token):
        bare = token.rstrip("=")
        try:
            return base64.urlsafe_b64decode(bare + "=" * (-len(bare) % 4))
        except binascii.Error:
            pass
    return token.encode(errors="surrogateescape")


def key_spellings(topic: str, key: bytes) -> list[str]:
    """Return all tokens that the key's records may have on `topic`: producers' spellings are stored as they are."""
    if topic not in PRODUCER_TOPICS:
        return [key_token(key)]
    spellings = [key_token(key), padded_token(key)]
    bare = key.decode(errors="ignore")
    if _TOKEN.fullmatch(bare) and token_key(bare) == key:
        spellings.append(bare)
    return list(dict.fromkeys(spellings))


@lru_cache(maxsize=1024)
def subject_base(topic: str) -> str:
    """Return `calls.audio_batch` for `calls.audio.batch`: two tokens, whatever the topic's lane."""
    root, *rest = topic.split(".")
    return f"{root}.{'_'.join(rest)}" if rest else root


def stream_name(topic: str) -> str:
    """Return `calls-audio-batch` for `calls.audio.batch`: stream names have no dots."""
    return topic.replace(".", "-")


def subject(topic: str, partition: int, key: bytes) -> str:
    return f"{subject_base(topic)}.{partition}.{key_token(key)}"


def parse_subject(text: str) -> tuple[int, bytes]:
    """Return the partition and the key of a stored record's subject."""
    _, partition, token = text.rsplit(".", 2)
    return partition_number(partition), token_key(token)


def partition_number(token: str) -> int:
    """Return the partition that a token of a subject names.

    An outsider may write any token there: one that is no number is `NO_PARTITION`, which no stage reads.
    """
    return int(token) if _PARTITION.fullmatch(token) else NO_PARTITION


def to_wire(headers: Mapping[str, str]) -> dict[str, str]:
    """Return headers with CloudEvents attributes as NATS spells them: `ce_id` becomes `ce-id`."""
    return {_name_on_wire(name): text for name, text in headers.items()}


@lru_cache(maxsize=1024)
def _name_on_wire(name: str) -> str:
    return f"ce-{name[3:]}" if name.startswith("ce_") else name


def from_wire(headers: Mapping[str, str] | None) -> dict[str, str]:
    """Return the headers of a record, without those of NATS and of this bus. Attribute names become lower case."""
    found = {}
    for name, text in (headers or {}).items():
        own = _name_off_wire(name)
        if own is not None:
            found[own] = text
    return found


@lru_cache(maxsize=1024)
def _name_off_wire(name: str) -> str | None:
    """Return a header's name on any bus, None for a header of NATS or of this bus."""
    lower = name.lower()
    if lower.startswith("ce-"):
        return f"ce_{lower[3:]}"
    return None if lower.startswith(("nats-", "callstream-")) else name


class KeyLocation(NamedTuple):
    """The subject of a key's records."""

    topic: str
    partition: int
    token: str

    @property
    def publish_subject(self) -> str:
        base = subject_base(self.topic)
        return f"{base}.{self.token}" if self.topic in PRODUCER_TOPICS else f"{base}.{self.partition}.{self.token}"

    @property
    def last_record_subject(self) -> str:
        """The subject on which the server answers with the key's last record."""
        base = subject_base(self.topic)
        return f"$JS.API.DIRECT.GET.{stream_name(self.topic)}.{base}.{self.partition}.{self.token}"


def progress_to_wire(progress: Progress, place: str | None = None) -> dict[str, str]:
    """Return the headers that carry `progress`; of a large state its place (`pipeline.bus.nats.large_states`)."""
    headers = {SEQ_HEADER: str(progress.seq), RELEASED_HEADER: str(progress.released)}
    if not progress.is_large:
        headers[_STATE_HEADER] = base64.b64encode(progress.state).decode()
    elif place is not None:
        headers[_STATE_AT_HEADER] = place
    return headers


def progress_from_wire(headers: Mapping[str, str] | None) -> tuple[Progress, bool] | None:
    """Return the progress in a record's headers, and True if its state is there too.

    Returns None for a record without progress, and for one of another program whose headers look like ours.
    """
    if not headers or SEQ_HEADER not in headers:
        return None
    state = headers.get(_STATE_HEADER)
    try:
        progress = Progress(
            seq=int(headers[SEQ_HEADER]),
            released=int(headers[RELEASED_HEADER]),
            state=b"" if state is None else base64.b64decode(state, validate=True),
        )
    except (KeyError, ValueError):
        return None
    return progress, state is not None


def state_place(headers: Mapping[str, str] | None) -> str | None:
    """Return the place of the large state that a record's headers name, None if they name none."""
    return (headers or {}).get(_STATE_AT_HEADER)


class Delivery(NamedTuple):
    """The reply subject of a delivered record. `number` counts the consumer's deliveries from 1."""

    number: int
    position: int
    timestamp_s: float
    lag: int
    """Records of the consumer after this one."""


def delivery(message: Any) -> Delivery:
    """Parse the reply subject of a nats-py `Msg`, whose own parser makes five objects.

    The subject is `$JS.ACK.<stream>.<consumer>.<times>.<position>.<number>.<time>.<lag>`. Its longer form has domain
    and account before the stream, and another token at the end (ADR-15).
    """
    tokens = message.reply.split(".")
    _, position, number, time_ns, lag = tokens[4:9] if len(tokens) == _SHORT_REPLY else tokens[6:11]
    return Delivery(int(number), int(position), int(time_ns) // 1_000 / 1_000_000, int(lag))


def stored_record(topic: str, message: Any, delivered: Delivery) -> Record:
    """Return a record as a consumer delivers it (a nats-py `Msg`)."""
    partition, key = parse_subject(message.subject)
    return Record(
        topic=topic,
        partition=partition,
        position=delivered.position,
        key=key,
        value=message.data,
        headers=from_wire(message.headers),
        timestamp_s=delivered.timestamp_s,
        lag=delivered.lag,
    )


def direct_record(topic: str, message: Any) -> Record:
    """Return a record from the answer to a direct get, whose headers have subject, position, time and maybe lag."""
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
