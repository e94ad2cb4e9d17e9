"""Recordings in many containers and codecs, made in memory, and damaged ones made of them by a seed."""

import io
import itertools
import random
import struct
from typing import Final

import av
import numpy as np

from tests.calls.bad import Pcm

CONTAINERS: Final[dict[str, tuple[str, str, int, int]]] = {
    "wav": ("wav", "pcm_s16le", 8_000, 2),
    "mulaw": ("wav", "pcm_mulaw", 8_000, 1),
    "mp3": ("mp3", "libmp3lame", 16_000, 1),
    "ogg-opus": ("ogg", "libopus", 48_000, 1),
    "flac": ("flac", "flac", 8_000, 2),
    "m4a": ("ipod", "aac", 16_000, 1),
    "webm": ("webm", "libopus", 48_000, 1),
    "adts": ("adts", "aac", 16_000, 1),
    "amr": ("amr", "libopencore_amrnb", 8_000, 1),
    "aiff": ("aiff", "pcm_s16be", 8_000, 1),
    "au": ("au", "pcm_mulaw", 8_000, 1),
    "wma": ("asf", "wmav2", 16_000, 1),
    "caf": ("caf", "alac", 16_000, 1),
    "w64": ("w64", "pcm_s16le", 8_000, 1),
}
"""(FFmpeg's muxer, its encoder, rate in Hz, channels)."""


def recording(kind: str, *, seconds: float = 2.0, hz: float = 300.0) -> bytes:
    """A tone in the container of that name."""
    muxer, codec, rate_hz, channels = CONTAINERS[kind]
    return encoded(muxer, codec, rate_hz=rate_hz, channels=channels, seconds=seconds, hz=hz)


def encoded(
    muxer: str, codec: str, *, rate_hz: int, channels: int = 1, seconds: float = 2.0, hz: float = 300.0
) -> bytes:
    """A tone; silence if `hz` is 0, which FLAC makes very small."""
    t = np.arange(int(seconds * rate_hz)) / rate_hz
    tone = (np.sin(2 * np.pi * hz * t) * 9_000).astype(np.int16)
    return encoded_samples(muxer, codec, np.repeat(tone[:, None], channels, 1), rate_hz=rate_hz)


def encoded_samples(muxer: str, codec: str, pcm: Pcm, *, rate_hz: int) -> bytes:
    """One or two channels, shape (n_samples, n_channels)."""
    layout = "stereo" if pcm.shape[1] == 2 else "mono"
    out = io.BytesIO()
    with av.open(out, "w", format=muxer) as container:
        stream = container.add_stream(codec, rate=rate_hz)
        stream.layout = layout
        if codec == "wmav2":
            stream.bit_rate = 32_000
        if codec == "flac" and not pcm.any():
            stream.options = {"frame_size": "16384"}
        whole = av.AudioFrame.from_ndarray(np.ascontiguousarray(pcm.reshape(1, -1)), format="s16", layout=layout)
        whole.sample_rate = rate_hz
        resampler = av.AudioResampler(
            format=stream.format, layout=layout, rate=rate_hz, frame_size=stream.frame_size or 0
        )
        for frame in itertools.chain(resampler.resample(whole), resampler.resample(None)):
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return out.getvalue()


def wav_of_rate(rate_hz: int, *, frames: int = 8_000) -> bytes:
    """A WAV file of silence whose header says any rate."""
    data = bytes(2 * frames)
    header = struct.pack("<IHHIIHH", 16, 1, 1, rate_hz, 2 * rate_hz & 0xFFFFFFFF, 2, 16)
    body = b"WAVEfmt " + header + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def mutated(data: bytes, chance: random.Random) -> bytes:
    """The bytes with one kind of damage: cut, bytes overwritten anywhere or in the header, a piece lost or sent twice,
    numbers of the header at their limits, random from somewhere on. Half of the Ogg files get right checksums again:
    of a page with a wrong one a reader sees nothing.
    """
    damaged = _damaged(data, chance)
    return _with_page_checksums(damaged) if data[:4] == b"OggS" and chance.random() < 0.5 else damaged


def _with_page_checksums(data: bytes) -> bytes:
    """RFC 3533, section 6: the CRC of a page with zeros in its place."""
    out = bytearray(data)
    at = out.find(b"OggS")
    while 0 <= at <= len(out) - 27:
        table = out[at + 27 : at + 27 + out[at + 26]]
        end = at + 27 + len(table) + sum(table)
        out[at + 22 : at + 26] = bytes(4)
        out[at + 22 : at + 26] = _ogg_crc(bytes(out[at:end])).to_bytes(4, "little")
        at = out.find(b"OggS", max(end, at + 1))
    return bytes(out)


def _ogg_crc(page: bytes) -> int:
    crc = 0
    for byte in page:
        crc = (crc << 8 & 0xFFFFFFFF) ^ _OGG_CRC[crc >> 24 ^ byte]
    return crc


def _ogg_crc_of(byte: int) -> int:
    crc = byte << 24
    for _ in range(8):
        crc = (crc << 1 ^ 0x04C11DB7) & 0xFFFFFFFF if crc >> 31 else crc << 1
    return crc


_OGG_CRC: Final = tuple(map(_ogg_crc_of, range(256)))


def _damaged(data: bytes, chance: random.Random) -> bytes:
    out = bytearray(data)
    kind = chance.randrange(7)
    if kind == 0:
        return bytes(out[: chance.randrange(1, len(out))])
    if kind == 1:
        for _ in range(chance.choice((1, 3, 20))):
            out[chance.randrange(len(out))] = chance.randrange(256)
    elif kind == 2:
        for _ in range(chance.choice((1, 3))):
            out[chance.randrange(min(200, len(out)))] = chance.randrange(256)
    elif kind == 3:
        at = chance.randrange(len(out))
        del out[at : at + chance.randrange(1, 500)]
    elif kind == 4:
        at, to = sorted((chance.randrange(len(out)), chance.randrange(len(out))))
        out[at:at] = out[at : min(to, at + 2_000)]
    elif kind == 5:
        at = chance.randrange(4, max(5, min(400, len(out) - 4)))
        out[at : at + 4] = chance.choice((b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", bytes(4)))
    else:
        at = chance.randrange(len(out))
        out[at:] = chance.randbytes(len(out) - at)
    return bytes(out)
