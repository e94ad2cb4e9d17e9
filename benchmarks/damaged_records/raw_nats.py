"""Publishing on NATS without a client library: the protocol itself, with the logins of a deployment."""

import asyncio
import base64
import contextlib
import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import nkeys

from benchmarks.damaged_records.events import Header, Sound
from benchmarks.damaged_records.mutants import Mutant, damaged
from benchmarks.damaged_records.outcome import STORED, Published
from pipeline.bus.keys import key_token, partition_of
from pipeline.bus.nats.logins import PRODUCER_INBOX
from pipeline.bus.nats.subjects import PRODUCER_TOPICS, subject_base

FORBIDDEN: Final = "refused: permission"
SILENT_FOR_S: Final = 2.0
"""A server that says nothing for so long answers no more."""
FRAMED_WITHIN_S: Final = 0.2
_MESSAGE: Final = re.compile(rb"(H?)MSG (\S+) (\S+) (?:\S+ )?(?:(\d+) )?(\d+)\r\n")
_MAX_LINE_BYTES: Final = 4_000
"""The server's limit is 4,096."""
_FIGURES: Final = re.compile(r":? ?\d+|: $")
_BREAKS_A_LINE: Final = re.compile(rb"[\s\x00]")
_FRAMES: Final = (
    b"PUB\r\n", b"PUB  \r\n", b"PUB %s 99999999999999999999\r\n", b"PUB %s -1\r\n", b"PUB %s 5\r\nabc\r\n",
    b"PUB %s 1 2 3 4\r\nx\r\n", b"pub %s 2\r\nhi\r\n", b"PUB %s 9000000\r\n", b"MSG %s 1 2\r\nhi\r\n",
    b"HPUB %s 0 0\r\n\r\n", b"HPUB %s 99 5\r\nabcde\r\n", b"HPUB %s 5 5\r\nabcde\r\n",
    b"HPUB %s 12 12\r\nNATS/1.0\r\n\r\n\r\n", b"HPUB %s 12 12\r\nNATS/9.9\r\n\r\n\r\n",
    b"HPUB %s -2 12\r\nNATS/1.0\r\n\r\n\r\n", b"+OK\r\n", b"INFO {}\r\n", b"CONNECT {\r\n", b"SUB > 9\r\n",
    b"SUB %s 9\r\nUNSUB 9 -1\r\n", b"\x00\r\n", b"GET / HTTP/1.1\r\n\r\n",
)  # fmt: skip


class Disconnected(Exception):
    """The server has closed the connection."""


class _Frame(NamedTuple):
    """A publish as it is on the wire. `number` is the last token of its reply subject."""

    number: int
    subject: bytes
    line_bytes: int
    data: bytes


class RawNats:
    """A connection as the login in `credentials`. Acknowledgements come under `inbox`."""

    def __init__(self, url: str, credentials: Path | None, *, inbox: str, partitions: int) -> None:
        self._address = url.removeprefix("nats://").rpartition(":")
        self._credentials = credentials
        self._inbox = inbox.encode() + b".damaged"
        self._partitions = partitions
        self._sent = 0
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter

    async def connect(self) -> None:
        host, _, port = self._address
        self._reader, self._writer = await asyncio.open_connection(host, int(port), limit=1 << 24)
        info = json.loads((await self._reader.readline()).removeprefix(b"INFO "))
        options: dict[str, object] = {"verbose": False, "pedantic": False, "headers": True, "no_responders": True}
        if self._credentials is not None:
            pair = nkeys.from_seed(bytearray(self._credentials.read_bytes().strip()))
            signed = base64.urlsafe_b64encode(pair.sign(info["nonce"].encode())).rstrip(b"=")
            options |= {"nkey": pair.public_key.decode(), "sig": signed.decode()}
        self._writer.write(b"CONNECT %b\r\nSUB %b.* 1\r\nPING\r\n" % (json.dumps(options).encode(), self._inbox))
        answer = await self._reader.readline()
        if answer != b"PONG\r\n":
            raise RuntimeError(f"nats-server lets nobody in: {answer!r}")

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def send(self, records: Sequence[Sound]) -> None:
        frames = [
            self._frame(self._subject(record.topic, record.key), record.headers, record.value) for record in records
        ]
        answers = await self._exchange(frames)
        if set(answers) != {STORED}:
            raise RuntimeError(f"nats-server does not take sound records: {answers}")

    async def publish(self, mutants: Sequence[Mutant], published: Published) -> None:
        """Publish all at once, except for those at which the server closes the connection for their long subject."""
        alone: list[tuple[Mutant, _Frame]] = []
        together: list[tuple[Mutant, _Frame]] = []
        for each in mutants:
            frame = self._frame(self._mutated_subject(each), each.headers, each.value)
            (alone if frame.line_bytes > _MAX_LINE_BYTES else together).append((each, frame))
        try:
            answers = await self._exchange([frame for _, frame in together])
        except Disconnected:
            published.resent += len(together)
            answers = [await self._singly(frame) for _, frame in together]
        for (each, _), answer in zip(together, answers, strict=True):
            published.note(each, answer)
        for each, frame in alone:
            published.note(each, await self._singly(frame))

    async def _singly(self, frame: _Frame) -> str:
        try:
            [answer] = await self._exchange([frame])
        except Disconnected:
            await self.connect_again()
            return "refused: connection closed"
        return answer

    async def publish_framing(self, each: Mutant, seed: int) -> str:
        """Publish with a damaged frame, on a connection that ends with it. Returns what the server did."""
        chance = random.Random(f"{seed}/{each.number}/frame")
        subject = self._mutated_subject(each)
        frame = self._frame(subject, each.headers, each.value).data
        if chance.random() < 0.5:
            made = chance.choice(_FRAMES)
            frame = made.replace(b"%s", subject)
        else:
            line, _, rest = frame.partition(b"\r\n")
            frame = damaged(line, chance) + chance.choice((b"\r\n", b"\n", b"", b"\r\n\r\n")) + rest
        self._writer.write(frame + b"\r\nPING\r\n")
        answer = b""
        try:
            async with asyncio.timeout(FRAMED_WITHIN_S):
                while b"PONG" not in answer:
                    more = await self._reader.read(65536)
                    if not more:
                        return "refused: connection closed"
                    answer += more
        except TimeoutError:
            return "refused: the frame has no end"
        except OSError:
            return "refused: connection closed"
        return "refused: protocol error" if b"-ERR" in answer else "taken or no record"

    async def connect_again(self) -> None:
        await self.close()
        await self.connect()

    def _subject(self, topic: str, key: bytes) -> bytes:
        token = key_token(key)
        if topic in PRODUCER_TOPICS:
            return f"{subject_base(topic)}.{token}".encode()
        return f"{subject_base(topic)}.{partition_of(token.encode(), self._partitions)}.{token}".encode()

    def _mutated_subject(self, each: Mutant) -> bytes:
        """Return the subject, without bytes that would end the line: those are for `publish_framing`."""
        if each.token is None:
            return self._subject(each.topic, each.key) if each.key else subject_base(each.topic).encode()
        token = _BREAKS_A_LINE.sub(b"_", each.token)
        if each.topic in PRODUCER_TOPICS:
            return subject_base(each.topic).encode() + b"." + token
        partition = (b"0", b"99", b"x", b"-1")[each.number % 4]
        return b"%b.%b.%b" % (subject_base(each.topic).encode(), partition, token)

    def _frame(self, subject: bytes, headers: Sequence[Header], value: bytes | None) -> _Frame:
        value = value or b""
        self._sent += 1
        reply = b"%b.%d" % (self._inbox, self._sent)
        if headers:
            lines = b"".join(b"%b: %b\r\n" % (_on_wire(name), text or b"") for name, text in headers)
            header = b"NATS/1.0\r\n%b\r\n" % lines
            line = b"HPUB %b %b %d %d\r\n" % (subject, reply, len(header), len(header) + len(value))
            value = header + value
        else:
            line = b"PUB %b %b %d\r\n" % (subject, reply, len(value))
        return _Frame(self._sent, subject, len(line), line + value + b"\r\n")

    async def _exchange(self, frames: Sequence[_Frame]) -> list[str]:
        """Publish frames together and return what the server did with each. Raises Disconnected."""
        answers: dict[int, str] = {}
        self._writer.write(b"".join(frame.data for frame in frames))
        waiting, unnamed = {frame.number for frame in frames}, 0
        by_subject: dict[bytes, list[int]] = {}
        for frame in reversed(frames):
            by_subject.setdefault(frame.subject, []).append(frame.number)
        try:
            while len(waiting) > unnamed:
                async with asyncio.timeout(SILENT_FOR_S):
                    number, answer = await self._answer(by_subject)
                if number is not None:
                    answers[number] = answer
                    waiting.discard(number)
                unnamed += number is None and answer == FORBIDDEN
        except TimeoutError:
            pass
        except (OSError, asyncio.IncompleteReadError) as error:
            raise Disconnected from error
        silent = FORBIDDEN if len(waiting) == unnamed else "no answer"
        return [answers.get(frame.number, silent) for frame in frames]

    async def _answer(self, by_subject: dict[bytes, list[int]]) -> tuple[int | None, str]:
        """Read a line with what follows it. Returns the number of a publish and what became of it.

        The number is None where it is not told: a refusal names the subject, and spells odd bytes otherwise.
        """
        line = await self._reader.readuntil(b"\r\n")
        if line == b"PING\r\n":
            self._writer.write(b"PONG\r\n")
        if line.startswith(b"-ERR 'Permissions Violation"):
            subject = line.partition(b'"')[2].rpartition(b'"')[0]
            numbers = by_subject.get(subject)
            return (numbers.pop() if numbers else None), FORBIDDEN
        found = _MESSAGE.fullmatch(line)
        if found is None:
            return None, "no answer"
        payload = (await self._reader.readexactly(int(found[5]) + 2))[:-2]
        written = found[2].rpartition(b".")[2]
        if not written.isdigit():  # the answer to another publish, whose damage made up its reply subject
            return None, "no answer"
        number = int(written)
        if found[1]:
            return number, "refused: no such stream"
        said = json.loads(payload)
        if "error" in said:
            return number, f"refused: {_FIGURES.sub('', said['error']['description'])}"
        return number, "dropped: a repeat for the broker" if said.get("duplicate") else STORED


def _on_wire(name: bytes) -> bytes:
    return b"ce-" + name[3:] if name.startswith(b"ce_") else name


class NatsOutsider:
    """A producer, and for the topics between stages one with the owner's login. See `outcome.Outsider`."""

    def __init__(self, url: str, producer: Path | None, owner: Path | None, *, partitions: int, seed: int) -> None:
        self._seed = seed
        self._made = {
            True: (url, producer, PRODUCER_INBOX),
            False: (url, owner, "_INBOX_outsider"),
        }
        self._partitions = partitions
        self._clients: dict[bool, RawNats] = {}

    async def connect(self) -> None:
        for is_producer in self._made:
            self._clients[is_producer] = self._client(is_producer)
            await self._clients[is_producer].connect()

    def _client(self, is_producer: bool) -> RawNats:
        url, credentials, inbox = self._made[is_producer]
        return RawNats(url, credentials, inbox=inbox, partitions=self._partitions)

    async def close(self) -> None:
        for client in self._clients.values():
            await client.close()

    async def send(self, records: Sequence[Sound]) -> None:
        await self._clients[True].send(records)

    async def publish(self, mutants: Sequence[Mutant], published: Published) -> None:
        framed = [each for each in mutants if each.framing]
        whole = [each for each in mutants if not each.framing]
        for is_producer, client in self._clients.items():
            mine = [each for each in whole if (each.topic in PRODUCER_TOPICS) == is_producer]
            if mine:
                await client.publish(mine, published)
        await asyncio.gather(*(self._publish_framed(each, published) for each in framed))

    async def _publish_framed(self, each: Mutant, published: Published) -> None:
        client = self._client(each.topic in PRODUCER_TOPICS)
        await client.connect()
        try:
            published.note(each, await client.publish_framing(each, self._seed))
        finally:
            await client.close()
