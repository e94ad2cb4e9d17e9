"""Telephone codecs: what arrives of int16 samples at 8 kHz after coding and decoding, with lost packets or without.

GSM full rate and G.729 are coded by Debian's `libgsm1` and `libbcg729-0` (unpacked into the cache: tools here, no part
of what is installed), AMR and G.723.1 by FFmpeg. G.729's decoder conceals lost frames itself; for G.711 the last
pitch period is repeated and faded out, as ITU-T G.711 Appendix I proposes.
"""

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.heard.clips import Samples
from benchmarks.heard.debian import unpacked
from benchmarks.speech.telephone import coded

FOLDER: Final = Path("~/.cache/callstream/codecs").expanduser()
PACKET: Final = 160
"""Samples of a packet: 20 ms."""
BURST: Final = 1.5
"""Mean number of packets that are lost together."""

_ALAW_CLIP: Final = 32635
_PITCH: Final = (40, 120)
_COMPARED: Final = 160
_FADE: Final = 480
"""A lost stretch is silent after so many samples."""

Lost = NDArray[np.bool_]


def lost_packets(n_samples: int, share: float, rng: np.random.Generator) -> Lost:
    """Return which packets are lost, a `share` of them, in bursts (Gilbert's model)."""
    n_packets = -(-n_samples // PACKET)
    leave = 1 / BURST
    enter = leave * share / (1 - share)
    lost, is_lost = np.zeros(n_packets, np.bool_), False
    for number, draw in enumerate(rng.random(n_packets)):
        is_lost = draw >= leave if is_lost else draw < enter
        lost[number] = is_lost
    return lost


def mulaw(samples: Samples) -> Samples:
    return np.asarray(coded(samples / 32767), np.int16)


def alaw(samples: Samples) -> Samples:
    """Return the samples after G.711 A-law."""
    magnitude = np.minimum(np.abs(samples.astype(np.int32)), _ALAW_CLIP)
    shift = np.maximum(0, np.floor(np.log2(np.maximum(magnitude, 1))).astype(np.int32) - 7)
    step = 1 << (np.maximum(shift, 1) + 3)
    value = magnitude // step * step + step // 2
    return np.asarray(np.sign(samples) * value, np.int16)


def concealed(samples: Samples, lost: Lost) -> Samples:
    """Return G.711 audio in which lost packets were replaced by the pitch period before them, ever softer."""
    out = samples.astype(np.float64)
    since = 0
    for number, is_lost in enumerate(lost):
        first = number * PACKET
        end = min(first + PACKET, len(out))
        if not is_lost:
            since = 0
        elif first < _COMPARED + _PITCH[1]:
            out[first:end] = 0
        else:
            before = out[: first - since]
            period = _period(before)
            repeated = np.resize(np.roll(before[-period:], -(since % period)), end - first)
            fade = np.clip(1 - (since + np.arange(end - first)) / _FADE, 0, 1)
            out[first:end] = repeated * fade
            since += end - first
    return np.round(out).astype(np.int16)


def gsm(samples: Samples) -> Samples:
    """Return the samples after GSM full rate (13 kbit/s)."""
    library = _library("libgsm1", "libgsm.so.1")
    library.gsm_create.restype = ctypes.c_void_p
    coder, decoder = (ctypes.c_void_p(library.gsm_create()) for _ in range(2))
    frame, packed = (ctypes.c_int16 * 160)(), (ctypes.c_uint8 * 33)()

    def through(block: Samples) -> Samples:
        ctypes.memmove(frame, block.tobytes(), 320)
        library.gsm_encode(coder, frame, packed)
        library.gsm_decode(decoder, packed, frame)
        return np.array(frame, np.int16)

    heard = _by_frames(samples, 160, through)
    library.gsm_destroy(coder)
    library.gsm_destroy(decoder)
    return heard


def g729(samples: Samples, lost: Lost | None = None) -> Samples:
    """Return the samples after G.729A (8 kbit/s), lost packets concealed by its decoder."""
    library = _library("libbcg729-0", "libbcg729.so.0")
    for make in (library.initBcg729EncoderChannel, library.initBcg729DecoderChannel):
        make.restype = ctypes.c_void_p
    coder = ctypes.c_void_p(library.initBcg729EncoderChannel(ctypes.c_uint8(0)))
    decoder = ctypes.c_void_p(library.initBcg729DecoderChannel())
    frame, packed, length = (ctypes.c_int16 * 80)(), (ctypes.c_uint8 * 10)(), ctypes.c_uint8(0)
    number = 0

    def through(block: Samples) -> Samples:
        nonlocal number
        ctypes.memmove(frame, block.tobytes(), 160)
        library.bcg729Encoder(coder, frame, packed, ctypes.byref(length))
        is_lost = lost is not None and bool(lost[number * 80 // PACKET])
        library.bcg729Decoder(decoder, packed, length, ctypes.c_uint8(is_lost), 0, 0, frame)
        number += 1
        return np.array(frame, np.int16)

    heard = _by_frames(samples, 80, through)
    library.closeBcg729EncoderChannel(coder)
    library.closeBcg729DecoderChannel(decoder)
    return heard


def amr(samples: Samples, bit_rate: int = 4750) -> Samples:
    """Return the samples after AMR narrow band (4.75 to 12.2 kbit/s; 12.2 is GSM's enhanced full rate)."""
    return _by_ffmpeg(samples, "amr_nb", bit_rate)


def g723(samples: Samples) -> Samples:
    """Return the samples after G.723.1 (6.3 kbit/s)."""
    return _by_ffmpeg(samples, "g723_1", 6300)


def _by_ffmpeg(samples: Samples, name: str, bit_rate: int) -> Samples:
    import av

    coder: Any = av.CodecContext.create(name, "w")
    coder.sample_rate, coder.layout, coder.format, coder.bit_rate = 8000, "mono", "s16", bit_rate
    coder.open()
    decoder: Any = av.CodecContext.create(name, "r")
    decoder.sample_rate, decoder.layout = 8000, "mono"
    size = coder.frame_size or PACKET
    padded = np.pad(samples, (0, -len(samples) % size + size))
    out = []
    for first in range(0, len(padded), size):
        frame = av.AudioFrame.from_ndarray(padded[None, first : first + size], format="s16", layout="mono")
        frame.sample_rate, frame.pts = 8000, first
        for packet in coder.encode(frame):
            out += [_samples(one) for one in decoder.decode(packet)]
    heard = np.concatenate(out)
    return np.pad(heard, (0, max(0, len(samples) - len(heard))))[: len(samples)]


def _samples(frame: Any) -> Samples:
    data = frame.to_ndarray().reshape(-1)
    if data.dtype.kind == "f":
        data = np.clip(np.round(data * 32767), -32768, 32767)
    return np.asarray(data, np.int16)


def _by_frames(samples: Samples, size: int, through: Callable[[Samples], Samples]) -> Samples:
    padded = np.pad(samples, (0, -len(samples) % size)).astype(np.int16)
    return np.concatenate([through(padded[first : first + size]) for first in range(0, len(padded), size)])[
        : len(samples)
    ]


def _period(before: NDArray[np.float64]) -> int:
    """Return the pitch period at the end, in samples, by the best normalised correlation."""
    recent = before[-_COMPARED:]
    best, period = -1.0, _PITCH[1]
    for lag in range(*_PITCH):
        earlier = before[-_COMPARED - lag : -lag]
        likeness = float(recent @ earlier) / (float(np.linalg.norm(recent) * np.linalg.norm(earlier)) + 1e-9)
        if likeness > best:
            best, period = likeness, lag
    return period


@functools.cache
def _library(package: str, name: str) -> Any:
    [path] = (unpacked([package], FOLDER) / "usr/lib").glob(f"*/{name}")
    return ctypes.CDLL(str(path))
