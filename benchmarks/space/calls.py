"""Real speech as producers send it, in four encodings, and a producer that is patient with a full store."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

import msgspec
import numpy as np

from pipeline.bus.protocol import Bus, Outgoing
from pipeline.errors import StoreFullError
from schemas import cloudevents
from schemas.audio import AudioChunk, AudioEvent, CallEnded, CallStarted, Encoding
from schemas.calls import CallRef
from schemas.topics import AUDIO, in_lane
from tests.calls import bad

Codec = Literal["opus", "flac", "mulaw", "pcm"]
CODECS: Final[tuple[Codec, ...]] = ("opus", "flac", "mulaw", "pcm")
OPUS_BIT_RATE: Final = 24_000
"""Of both channels together: what telephone recordings are kept in."""
_CHUNK_BYTES: Final = 800_000
_AGAIN_S: Final = 0.2
_BIAS: Final = 33


class Recording(msgspec.Struct, frozen=True):
    """A call in one encoding, as the chunks that its producer sends."""

    codec: Codec
    encoding: Encoding
    rate_hz: int
    channels: int
    chunks: tuple[bytes, ...]

    @property
    def size_bytes(self) -> int:
        return sum(map(len, self.chunks))


class Sent(msgspec.Struct):
    """What became of an offered call. `refusals` counts the events that the full store refused, each time it did."""

    call: CallRef
    recording: Recording
    refusals: int = 0


def recording(codec: Codec, path: Path, folder: Path) -> Recording:
    """Return the call at `path`, a 16-bit WAV file, in an encoding. Files are written to `folder`."""
    pcm, rate_hz = bad.read_wav(path)
    channels = pcm.shape[1]
    if codec in ("opus", "flac"):
        bit_rate = OPUS_BIT_RATE if codec == "opus" else None
        data = bad.encoded(folder / f"call.{codec}", pcm, rate_hz=rate_hz, bit_rate=bit_rate).read_bytes()
        chunks = tuple(data[at : at + _CHUNK_BYTES] for at in range(0, len(data), _CHUNK_BYTES))
        return Recording(codec, "container", rate_hz, channels, chunks)
    seconds = (pcm[at : at + rate_hz] for at in range(0, len(pcm), rate_hz))
    if codec == "mulaw":
        return Recording(codec, "mulaw", rate_hz, channels, tuple(mulaw(second) for second in seconds))
    return Recording(codec, "pcm_s16le", rate_hz, channels, tuple(second.astype("<i2").tobytes() for second in seconds))


def mulaw(pcm: bad.Pcm) -> bytes:
    """Encode samples as G.711 µ-law, channels interleaved."""
    magnitude = np.minimum(np.abs(pcm.astype(np.int32)) // 4, 8158) + _BIAS
    exponent = np.floor(np.log2(magnitude)).astype(np.int32) - 5
    mantissa = (magnitude >> (exponent + 1)) & 0x0F
    coded = np.where(pcm < 0, 0x80, 0) | (exponent << 4) | mantissa
    data: bytes = (~coded).astype(np.uint8).tobytes()
    return data


def offers(recordings: list[Recording], total_bytes: int) -> Iterator[Sent]:
    """Yield calls in turn of their encodings until they have `total_bytes` together."""
    offered = number = 0
    while offered < total_bytes:
        given = recordings[number % len(recordings)]
        yield Sent(CallRef("default", f"{given.codec}-{number}"), given)
        offered += given.size_bytes
        number += 1


async def send(bus: Bus, sent: Sent) -> None:
    """Publish a call: live if it has no container. An event that the store refuses is sent again until it is taken."""
    given = sent.recording
    topic = in_lane(AUDIO, "batch" if given.encoding == "container" else "live")
    start = CallStarted(encoding=given.encoding, sample_rate_hz=given.rate_hz, channels=given.channels)
    chunks = (AudioChunk(data=data) for data in given.chunks)
    events: list[AudioEvent] = [start, *chunks, CallEnded(events=len(given.chunks) + 2)]
    for seq, event in enumerate(events):
        headers, value = cloudevents.encode_audio_event(event, call=sent.call, seq=seq, source="benchmark")
        outgoing = Outgoing(topic, sent.call.key, value, event_id=f"{sent.call.call_id}/{seq}", headers=headers)
        while True:
            try:
                await bus.publish(outgoing)
                break
            except StoreFullError:
                sent.refusals += 1
                await asyncio.sleep(_AGAIN_S)
