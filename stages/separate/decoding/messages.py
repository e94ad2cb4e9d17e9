"""What the process that decodes and the process that wants the audio say to each other, over a Unix socket.

A message is its length, four bytes, and msgpack. With a `Job` goes the file's descriptor.

    parent                         child
                                   Ready              once, when it has decoded a known file
    Job ─────────────────────────►
                                   Opened, Block…, Done
                                   or Refused         the file is at fault
                                   or Unreadable      the disk is
"""

import socket
from typing import Annotated, Final

import msgspec

from schemas.audio import MAX_CHANNELS, MAX_SAMPLE_RATE_HZ, MIN_SAMPLE_RATE_HZ
from stages.separate.decoder import MAX_RATE_HZ, Damage, DecodeLimits

_LENGTH_BYTES: Final = 4
_MAX_BYTES: Final = 16_000_000


class ChildLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a decoding process may use.

    `memory_bytes` is address space above what it has when it is ready. The index of an M4A of 24 h takes about 130 MB.
    `stall_cpu_s` is CPU time from one block of audio to the next, which takes milliseconds. A process that says nothing
    for `silence_s`, and has used less CPU time than that, is stopped or waits for a disk.
    """

    memory_bytes: int = 512_000_000
    stall_cpu_s: int = 10
    open_files: int = 16
    silence_s: float = 120.0


class Ready(msgspec.Struct, frozen=True, tag=True):
    pass


class Job(msgspec.Struct, frozen=True, tag=True):
    """Decode the file. Blocks before frame `from_frame` were received already; they are not sent again."""

    name: str
    from_frame: int
    decode: DecodeLimits


class Opened(msgspec.Struct, frozen=True, tag=True):
    format: str
    codec: str
    source_rate_hz: Annotated[int, msgspec.Meta(ge=MIN_SAMPLE_RATE_HZ, le=MAX_SAMPLE_RATE_HZ)]
    sample_rate_hz: Annotated[int, msgspec.Meta(ge=MIN_SAMPLE_RATE_HZ, le=MAX_RATE_HZ)]
    channels: Annotated[int, msgspec.Meta(ge=1, le=MAX_CHANNELS)]
    duration_s: float | None


class Block(msgspec.Struct, frozen=True, tag=True):
    """PCM from frame `first_frame` on."""

    first_frame: int
    pcm: bytes


class Done(msgspec.Struct, frozen=True, tag=True):
    truncated: bool
    damages: list[Damage]


class Refused(msgspec.Struct, frozen=True, tag=True):
    reason: str


class Unreadable(msgspec.Struct, frozen=True, tag=True):
    reason: str


Answer = Ready | Opened | Block | Done | Refused | Unreadable

_ANSWERS: Final[msgspec.msgpack.Decoder[Answer]] = msgspec.msgpack.Decoder(Answer)
_JOBS: Final[msgspec.msgpack.Decoder[Job]] = msgspec.msgpack.Decoder(Job)


class Disconnected(Exception):
    """The other process is gone."""


def send(connection: socket.socket, message: Answer) -> None:
    connection.sendall(_framed(message))


def receive(connection: socket.socket) -> Answer:
    """Wait for the next answer. Raises Disconnected, and TimeoutError after the socket's timeout."""
    return _ANSWERS.decode(_exactly(connection, int.from_bytes(_exactly(connection, _LENGTH_BYTES))))


def send_job(connection: socket.socket, job: Job, descriptor: int) -> None:
    try:
        message = _framed(job)
        sent = socket.send_fds(connection, [message], [descriptor])
        connection.sendall(message[sent:])
    except (BrokenPipeError, ConnectionResetError) as error:
        raise Disconnected from error


def receive_job(connection: socket.socket) -> tuple[Job, int]:
    """Wait for the next job and the descriptor of its file. Raises Disconnected."""
    head, descriptors, _, _ = socket.recv_fds(connection, _LENGTH_BYTES, 1)
    if len(head) < _LENGTH_BYTES or not descriptors:
        raise Disconnected
    return _JOBS.decode(_exactly(connection, int.from_bytes(head))), descriptors[0]


def _framed(message: Answer | Job) -> bytes:
    body = msgspec.msgpack.encode(message)
    return len(body).to_bytes(_LENGTH_BYTES) + body


def _exactly(connection: socket.socket, n: int) -> bytes:
    """Read `n` bytes. A damaged child may say any length: more than a block has is no message."""
    if n > _MAX_BYTES:
        raise Disconnected
    got = bytearray()
    while len(got) < n:
        try:
            part = connection.recv(n - len(got))
        except ConnectionResetError as error:
            raise Disconnected from error
        if not part:
            raise Disconnected
        got += part
    return bytes(got)
