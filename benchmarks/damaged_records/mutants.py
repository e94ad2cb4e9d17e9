"""Mutants: sound records that are damaged by a seed. Mutant `number` follows from the seed and its number alone."""

import random
import re
from collections.abc import Callable
from typing import Final

import msgspec

from benchmarks.damaged_records.events import Header, Sound, sound_record
from schemas.calls import CallRef

BLOCK: Final = 1_000
"""Mutants of consecutive numbers that are records of the same few calls."""
CALLS: Final = 16
STARTED_CALLS: Final = 12
"""Calls of a block that get a sound start before its mutants."""

ODD: Final = (
    b"", b"0", b"-1", b"1e400", b"NaN", b"18446744073709551616", b"9" * 400, b"null", b"\x00", b"\xff\xfe",
    b"\xc3", b"\xed\xa0\x80", b" ", b"\t", b"\x1f", b"\x7f", b"../..", b"%s%n", b"\xe2\x80\xae",
    b"\xf0\x9f\x98\x80", b"a" * 5000, b"'; DROP TABLE calls; --", b"\x1b]0;x\x07", b"2147483648", b"\xd9\xa1",
)  # fmt: skip
ODD_NAMES: Final = (
    b"Nats-Msg-Id", b"Nats-Expected-Last-Subject-Sequence", b"Nats-Expected-Last-Msg-Id", b"Nats-Expected-Stream",
    b"Nats-Rollup", b"Nats-TTL", b"Nats-Schedule", b"Nats-Batch-Id", b"Nats-Batch-Commit", b"Nats-Incr",
    b"callstream-seq", b"callstream-released", b"callstream-state", b"callstream-state-at", b"callstream-group",
    b"traceparent", b"tracestate", b"Status", b"Description", b"ce_callepoch", b"ce_partitionkey", b"ce_", b"CE_ID",
    b"Ce_Type", b"", b":", b"\xff", b"\xc3\xa9", b"n" * 3000,
)  # fmt: skip

_NUMBER: Final = re.compile(rb"-?\d+(\.\d+)?")
_STRING: Final = re.compile(rb'"[^"]*"')
_JSON_ODD: Final = (
    b"-1", b"0", b"1e400", b"-0.0", b"NaN", b"1e30", b"9223372036854775808", b"18446744073709551616", b"9" * 500,
    b"null", b"true", b"{}", b"[]", b'""', b'"\\ud800"', b'"\\u0000"', b'"' + b"x" * 3000 + b'"', b"[" * 2000,
    b'{"a":' * 500, b"\xff", b'"\xff"',
)  # fmt: skip


class Mutant(msgspec.Struct, frozen=True):
    """A damaged record. `changed` says what was; `token` is the end of its NATS subject if that was, else None.

    `framing` asks for a publish whose frame is damaged below the record, on a connection of its own.
    """

    number: int
    changed: str
    form: str
    topic: str
    key: bytes
    headers: list[Header]
    value: bytes | None
    token: bytes | None = None
    framing: bool = False


def calls_of(seed: int, block: int) -> list[CallRef]:
    """Return the calls whose records the mutants of a block are."""
    return [CallRef("acme" if k % 4 == 3 else "default", f"damaged/{seed}/{block}/{k}") for k in range(CALLS)]


def mutant(seed: int, number: int, *, producers_only: bool = False) -> Mutant:
    chance = random.Random(f"{seed}/{number}")
    call = chance.choice(calls_of(seed, number // BLOCK))
    draft = _Draft(sound_record(call, chance.randrange(1, 40), chance, producers_only=producers_only))
    changed = []
    for _ in range(1 if chance.random() < 0.75 else 2):
        what = chance.choices(_KINDS, _WEIGHTS)[0]
        _CHANGES[what](draft, chance)
        changed.append(what)
    return draft.mutant(number, changed[0])


class _Draft:
    def __init__(self, sound: Sound) -> None:
        self.sound = sound
        self.key = sound.key
        self.headers = list(sound.headers)
        self.value: bytes | None = sound.value
        self.token: bytes | None = None
        self.framing = False

    def mutant(self, number: int, changed: str) -> Mutant:
        return Mutant(
            number,
            changed,
            self.sound.form,
            self.sound.topic,
            self.key,
            self.headers,
            self.value,
            self.token,
            self.framing,
        )


def damaged(data: bytes, chance: random.Random) -> bytes:
    """Return bytes with some overwritten, lost, repeated or added."""
    found = bytearray(data)
    match chance.randrange(7):
        case 0:
            for _ in range(chance.randint(1, 4)):
                if found:
                    found[chance.randrange(len(found))] = chance.randrange(256)
        case 1:
            for _ in range(chance.randint(1, 4)):
                if found:
                    found[chance.randrange(len(found))] ^= 1 << chance.randrange(8)
        case 2:
            del found[chance.randint(0, len(found)) :]
        case 3:
            at = chance.randint(0, len(found))
            del found[at : at + chance.randint(1, 20)]
        case 4:
            at = chance.randint(0, len(found))
            found[at:at] = chance.randbytes(chance.randint(1, 40))
        case 5:
            at = chance.randint(0, len(found))
            found[at:at] = found[at : at + chance.randint(1, 60)]
        case 6:
            return chance.choice(ODD)
    return bytes(found)


def _body_bytes(draft: _Draft, chance: random.Random) -> None:
    draft.value = damaged(draft.value or b"", chance)


def _body_value(draft: _Draft, chance: random.Random) -> None:
    """Replace a number or a string of a JSON body; damage the bytes of any other."""
    value = draft.value or b""
    places = list((_NUMBER if chance.random() < 0.5 else _STRING).finditer(value)) if value[:1] == b"{" else []
    if not places:
        _body_bytes(draft, chance)
        return
    place = chance.choice(places)
    draft.value = value[: place.start()] + chance.choice(_JSON_ODD) + value[place.end() :]


def _body_replaced(draft: _Draft, chance: random.Random) -> None:
    drawn = chance.random()
    if drawn < 0.25:
        draft.value = None
    elif drawn < 0.5:
        draft.value = b""
    elif drawn < 0.98:
        draft.value = chance.randbytes(chance.randint(1, 400))
    else:
        draft.value = chance.randbytes(50) * chance.randint(1_000, 6_000)


def _header_value(draft: _Draft, chance: random.Random) -> None:
    if not draft.headers:
        return
    at = chance.randrange(len(draft.headers))
    name, text = draft.headers[at]
    drawn = chance.random()
    changed = None if drawn < 0.1 else chance.choice(ODD) if drawn < 0.6 else damaged(text or b"", chance)
    draft.headers[at] = (name, changed)


def _header_name(draft: _Draft, chance: random.Random) -> None:
    if draft.headers:
        at = chance.randrange(len(draft.headers))
        name, text = draft.headers[at]
        draft.headers[at] = (chance.choice(ODD_NAMES) if chance.random() < 0.5 else damaged(name, chance), text)


def _header_absent(draft: _Draft, chance: random.Random) -> None:
    if chance.random() < 0.1:
        draft.headers = []
    elif draft.headers:
        del draft.headers[chance.randrange(len(draft.headers))]


def _header_more(draft: _Draft, chance: random.Random) -> None:
    """Repeat headers with the same or another value, or add ones that mean something to a broker or a bus."""
    for _ in range(chance.choice((1, 1, 2, 20))):
        if draft.headers and chance.random() < 0.5:
            name, text = chance.choice(draft.headers)
            added = (name, text if chance.random() < 0.5 else chance.choice(ODD))
        else:
            added = (chance.choice(ODD_NAMES), chance.choice(ODD))
        draft.headers.insert(chance.randint(0, len(draft.headers)), added)


def _key(draft: _Draft, chance: random.Random) -> None:
    draft.key = chance.choice(ODD) if chance.random() < 0.5 else damaged(draft.key, chance)


def _token(draft: _Draft, chance: random.Random) -> None:
    """Damage the subject's last token itself: it is no base64url any more, or more tokens than one."""
    drawn = chance.random()
    whole = draft.key.hex().encode()
    draft.token = (
        chance.choice((b"*", b">", b"a.b", b"=", b".", b"\xff\xfe", b"x" * 3000))
        if drawn < 0.4
        else damaged(whole, chance)
    )


def _framing(draft: _Draft, _chance: random.Random) -> None:
    draft.framing = True


_CHANGES: Final[dict[str, Callable[[_Draft, random.Random], None]]] = {
    "bytes of the body": _body_bytes,
    "a value in the body": _body_value,
    "another body": _body_replaced,
    "value of a header": _header_value,
    "name of a header": _header_name,
    "a header missing": _header_absent,
    "more headers": _header_more,
    "key": _key,
    "subject": _token,
    "framing": _framing,
}
_KINDS: Final = tuple(_CHANGES)
_WEIGHTS: Final = (28, 26, 8, 14, 5, 5, 6, 4, 3.7, 0.3)
KINDS: Final = _KINDS
