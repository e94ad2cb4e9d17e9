"""The codecs of Kafka's record batches, with a bound on what comes out.

aiokafka decompresses whatever a batch holds: 60 kB of zstd may be 2 GB of zeros, and a block of snappy may state a
length that it never gets past.
"""

import struct
from collections.abc import Callable, Iterator
from gzip import GzipFile
from io import BytesIO
from itertools import accumulate
from mmap import mmap
from typing import Any, Final

import cramjam

MOST_BYTES: Final = 64 << 20
"""A broker takes batches of 1 MB by default, as they are sent. Audio and JSON compress to a twentieth at best, digital
silence to less."""

_XERIAL: Final = b"\x82SNAPPY\0"
"""What Java's library for snappy puts before blocks, each with its length, and before two numbers of 4 bytes."""
_XERIAL_BYTES: Final = 16
_BLOCK_LENGTH: Final = struct.Struct(">i")


class CannotDecompress(ValueError):
    """Bytes that are not of their codec, of no codec, or more than `MOST_BYTES`."""


def decompress(codec: int, data: bytes) -> bytes:
    """Return the records of a batch. `codec` is its number in the attributes of the batch: 1 to 4.

    Raises CannotDecompress.
    """
    name, decoder = _DECODERS.get(codec, (f"the unknown codec {codec}", _of_no_codec))
    try:
        return decoder(data)
    except MemoryError:
        raise
    except Exception as error:  # cramjam, gzip, zlib and struct each have errors of their own
        raise CannotDecompress(f"compressed with {name}: {error}") from error


def _of_no_codec(_: bytes) -> bytes:
    raise ValueError("Kafka has none of that number")


def _gzip(data: bytes) -> bytes:
    with GzipFile(fileobj=BytesIO(data)) as unpacked:
        return _bounded(unpacked.read(MOST_BYTES + 1))


def _snappy(data: bytes) -> bytes:
    blocks = [data] if not data.startswith(_XERIAL) else list(_xerial_blocks(data))
    for total in accumulate(map(cramjam.snappy.decompress_raw_len, blocks)):
        if total > MOST_BYTES:
            raise ValueError(_TOO_MUCH)
    return b"".join(bytes(cramjam.snappy.decompress_raw(block)) for block in blocks)


def _xerial_blocks(data: bytes) -> Iterator[bytes]:
    at = _XERIAL_BYTES
    while at < len(data):
        [length] = _BLOCK_LENGTH.unpack_from(data, at)
        begin = at + _BLOCK_LENGTH.size
        at = begin + length
        if not begin < at <= len(data):
            raise ValueError(f"a block of {length} bytes where {len(data) - begin} are left")
        yield data[begin:at]


def _by_frames(codec: Any) -> Callable[[bytes], bytes]:
    """Return a decoder of frames, which need not state how long their content is."""

    def decoder(data: bytes) -> bytes:
        with mmap(-1, MOST_BYTES + 1) as room:  # the kernel gives the pages that are written to
            return _bounded(room[: codec.decompress_into(data, room)])

    return decoder


def _bounded(content: bytes) -> bytes:
    if len(content) > MOST_BYTES:
        raise ValueError(_TOO_MUCH)
    return content


_TOO_MUCH: Final = f"more than {MOST_BYTES >> 20} MB"
_DECODERS: Final[dict[int, tuple[str, Callable[[bytes], bytes]]]] = {
    1: ("gzip", _gzip),
    2: ("snappy", _snappy),
    3: ("lz4", _by_frames(cramjam.lz4)),
    4: ("zstd", _by_frames(cramjam.zstd)),
}
