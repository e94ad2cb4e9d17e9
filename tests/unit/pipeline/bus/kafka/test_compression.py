"""What producers compress is decompressed within a bound; what is not of its codec is an error and nothing else."""

import random
from collections.abc import Callable

import cramjam
import pytest
from aiokafka import codec

from pipeline.bus.kafka import compression
from pipeline.bus.kafka.compression import CannotDecompress, decompress

SPEECH = random.Random(1).randbytes(4_000) * 20
ENCODERS: dict[int, Callable[[bytes], bytes]] = {
    1: codec.gzip_encode,
    2: codec.snappy_encode,
    3: codec.lz4_encode,
    4: codec.zstd_encode,
}
GZIP, SNAPPY, LZ4, ZSTD = ENCODERS


@pytest.mark.parametrize("number", ENCODERS)
def test_every_codec_gives_back_what_was_compressed(number: int) -> None:
    for content in (b"", b"a", SPEECH):
        assert decompress(number, ENCODERS[number](content)) == content


def test_snappy_without_blocks_is_read_too() -> None:
    assert decompress(SNAPPY, bytes(cramjam.snappy.compress_raw(SPEECH))) == SPEECH


@pytest.mark.parametrize("number", ENCODERS)
def test_more_than_the_bound_is_refused(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "MOST_BYTES", 1 << 20)
    assert decompress(number, ENCODERS[number](bytes(1 << 20))) == bytes(1 << 20)
    bomb = ENCODERS[number](bytes((1 << 20) + 1))
    with pytest.raises(CannotDecompress):
        decompress(number, bomb)


@pytest.mark.parametrize(
    "length", [b"\xff\xff\xff\xfc", b"\x00\x00\x00\x00", b"\x7f\xff\xff\xff"], ids=["back", "nowhere", "past the end"]
)
def test_a_block_of_snappy_leads_on_within_its_batch(length: bytes) -> None:
    """aiokafka reads a block of -4 bytes for ever."""
    header = codec.snappy_encode(b"")
    with pytest.raises(CannotDecompress, match="a block of"):
        decompress(SNAPPY, header + length + b"rest")


@pytest.mark.parametrize("number", [5, 6, 7])
def test_a_codec_that_kafka_does_not_have_is_refused(number: int) -> None:
    with pytest.raises(CannotDecompress, match=f"unknown codec {number}"):
        decompress(number, SPEECH)


@pytest.mark.parametrize("number", ENCODERS)
def test_damaged_bytes_raise_nothing_else(number: int) -> None:
    chance = random.Random(number)
    sound = ENCODERS[number](SPEECH[:4_000] + bytes(4_000))
    refused = 0
    for _ in range(500):
        damaged = bytearray(sound)
        for _ in range(chance.randint(1, 4)):
            damaged[chance.randrange(len(damaged))] = chance.choice([0, 127, 128, 255, chance.randrange(256)])
        try:
            decompress(number, bytes(damaged[: chance.choice([len(damaged), chance.randrange(len(damaged))])]))
        except CannotDecompress:
            refused += 1
    assert refused > 100
