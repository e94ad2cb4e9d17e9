"""Decoding of telephone audio: G.711, PCM and float. Stateless apart from the bytes of an incomplete frame.

A frame is one sample of every channel. All encodings become signed 16-bit, which holds G.711 exactly and is the form of
utterances. Integers also keep the later filters exact (see `stages.separate.resampling`).
"""

from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from schemas.audio import Encoding

Samples = NDArray[np.int16]
"""Mono samples of shape (n,), or interleaved frames of shape (n, channels)."""

_SAMPLE_BYTES: Final[dict[str, int]] = {"pcm_s16le": 2, "mulaw": 1, "alaw": 1, "f32le": 4}
_TOO_SHORT_TO_COMPARE: Final = 16


def frame_bytes(encoding: Encoding, channels: int) -> int:
    """Return the size of one frame in bytes. Raises KeyError for `container`, which has no frames."""
    return _SAMPLE_BYTES[encoding] * channels


def decode_frames(encoding: Encoding, channels: int, carry: bytes, data: bytes) -> tuple[Samples, bytes]:
    """Return the frames of `carry + data`, shape (n, channels), and the bytes of the last, incomplete frame.

    A producer may cut its byte stream anywhere, so left-over bytes begin the next chunk. Should a chunk be cut short in
    transit, they would shift everything after it. So where a chunk consists of whole frames by itself, the carried
    bytes are used only if the signal is smoother with them.
    """
    size = frame_bytes(encoding, channels)
    joined = carry + data
    whole = len(joined) // size * size
    frames = _samples(encoding, joined[:whole]).reshape(-1, channels)
    if carry and len(data) % size == 0 and len(data) >= _TOO_SHORT_TO_COMPARE * size:
        alone = _samples(encoding, data).reshape(-1, channels)
        if _roughness(alone) < _roughness(frames):
            return alone, b""
    return frames, joined[whole:]


def _roughness(frames: Samples) -> float:
    """Return the mean absolute step between samples; misaligned bytes make it many times larger."""
    return float(np.abs(np.diff(frames.astype(np.float64), axis=0)).mean())


def _samples(encoding: Encoding, data: bytes) -> Samples:
    if encoding == "pcm_s16le":
        return np.frombuffer(data, "<i2").astype(np.int16)
    if encoding == "f32le":
        values: NDArray[np.float32] = np.nan_to_num(np.frombuffer(data, "<f4"), nan=0.0, posinf=1.0, neginf=-1.0)
        return np.rint(np.clip(values.astype(np.float64) * 32768.0, -32768.0, 32767.0)).astype(np.int16)
    table = mulaw_table() if encoding == "mulaw" else alaw_table()
    return table[np.frombuffer(data, np.uint8)]


@cache
def mulaw_table() -> Samples:
    """Return the 256 values of G.711 μ-law at 16 bits (ITU-T G.711, table 2a; 14-bit values times 4)."""
    code = ~np.arange(256, dtype=np.int32) & 0xFF
    magnitude = ((((code & 0x0F) << 3) + 0x84) << ((code >> 4) & 7)) - 0x84
    return np.where(code & 0x80, -magnitude, magnitude).astype(np.int16)


@cache
def alaw_table() -> Samples:
    """Return the 256 values of G.711 A-law at 16 bits (ITU-T G.711, table 1a; 13-bit values times 8)."""
    code = np.arange(256, dtype=np.int32) ^ 0x55
    step, exponent = (code & 0x0F) << 4, (code >> 4) & 7
    magnitude = np.where(exponent == 0, step + 8, (step + 0x108) << np.maximum(exponent - 1, 0))
    return np.where(code & 0x80, magnitude, -magnitude).astype(np.int16)
