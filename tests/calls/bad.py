"""Recordings that telephone systems produce and nobody wants: writers of files, which return the path, and signals."""

import itertools
import wave
from collections.abc import Iterable, Iterator
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

Pcm = npt.NDArray[np.int16]
"""Shape (n_samples, n_channels)."""

RATE_HZ = 8_000
DTMF_HZ = {
    "1": (697, 1209), "2": (697, 1336), "3": (697, 1477),
    "4": (770, 1209), "5": (770, 1336), "6": (770, 1477),
    "7": (852, 1209), "8": (852, 1336), "9": (852, 1477),
    "*": (941, 1209), "0": (941, 1336), "#": (941, 1477),
}  # fmt: skip
"""ITU-T Q.23."""

CODECS = {".mp3": "libmp3lame", ".flac": "flac", ".opus": "libopus", ".m4a": "aac"}
_CODEC_RATE_HZ = {".opus": 48_000, ".m4a": 16_000}


def read_wav(path: Path) -> tuple[Pcm, int]:
    """Samples and rate in Hz of a 16-bit WAV file."""
    with wave.open(str(path), "rb") as source:
        samples = np.frombuffer(source.readframes(source.getnframes()), dtype="<i2")
        return samples.reshape(-1, source.getnchannels()), source.getframerate()


def write_wav(path: Path, pieces: Iterable[Pcm], *, rate_hz: int = RATE_HZ, channels: int = 1) -> Path:
    """A 16-bit WAV file, written piece by piece: none is kept in memory."""
    with wave.open(str(path), "wb") as out:
        out.setnchannels(channels)
        out.setsampwidth(2)
        out.setframerate(rate_hz)
        for piece in pieces:
            out.writeframesraw(piece.astype("<i2").tobytes())
    return path


def encoded(path: Path, pcm: Pcm, *, rate_hz: int = RATE_HZ, bit_rate: int | None = None) -> Path:
    """The samples in the container and codec that `path`'s suffix names (see `CODECS`). One or two channels.

    `bit_rate` is in bit/s, of all channels together; None leaves it to the codec.
    """
    layout = "stereo" if pcm.shape[1] == 2 else "mono"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(CODECS[path.suffix], rate=_CODEC_RATE_HZ.get(path.suffix, rate_hz))
        stream.layout = layout
        if bit_rate is not None:
            stream.bit_rate = bit_rate
        resampler = av.AudioResampler(
            format=stream.format, layout=layout, rate=stream.rate, frame_size=stream.frame_size
        )
        whole = av.AudioFrame.from_ndarray(np.ascontiguousarray(pcm.reshape(1, -1)), format="s16", layout=layout)
        whole.sample_rate = rate_hz
        for frame in itertools.chain(resampler.resample(whole), resampler.resample(None)):
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def zero_bytes(path: Path) -> Path:
    path.write_bytes(b"")
    return path


def not_audio(path: Path) -> Path:
    """Text under an audio file's name."""
    path.write_text("Call recording failed: license expired.\n" * 50, encoding="utf-8")
    return path


def random_bytes(path: Path) -> Path:
    path.write_bytes(np.random.default_rng(1).bytes(20_000))
    return path


def truncated(path: Path, whole: Path, *, kept: float = 0.5) -> Path:
    """The first part of `whole`, whose header still promises the rest: a recorder that lost power."""
    content = whole.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    return path


def header_only(path: Path) -> Path:
    """A WAV file without one sample."""
    return write_wav(path, [])


def no_channels(path: Path) -> Path:
    """A WAV file whose header says 0 channels, which `wave` itself refuses to write."""
    content = bytearray(write_wav(path, [silence(1.0)]).read_bytes())
    content[22:24] = (0).to_bytes(2, "little")
    path.write_bytes(content)
    return path


def at_192_khz(path: Path, *, seconds: float = 2.0) -> Path:
    return write_wav(path, [tone(seconds, 440, rate_hz=192_000)], rate_hz=192_000)


def eight_channels(path: Path, *, seconds: float = 2.0) -> Path:
    """A different tone on each channel."""
    return write_wav(path, [np.hstack([tone(seconds, 200 + 100 * channel) for channel in range(8)])], channels=8)


def hour_long(path: Path, call: Path, *, seconds: float = 3600.0) -> Path:
    """`call` over and over until it lasts `seconds`, on disk only."""
    pcm, rate_hz = read_wav(call)

    def pieces() -> Iterator[Pcm]:
        left = round(seconds * rate_hz)
        while left > 0:
            yield pcm[:left]
            left -= len(pcm)

    return write_wav(path, pieces(), rate_hz=rate_hz, channels=pcm.shape[1])


def silence(seconds: float) -> Pcm:
    """Digital zeros, one channel."""
    return np.zeros((round(seconds * RATE_HZ), 1), dtype=np.int16)


def noise(seconds: float, *, level_db: float = -45.0) -> Pcm:
    """White line noise, one channel."""
    samples = np.random.default_rng(2).standard_normal((round(seconds * RATE_HZ), 1)) * 10 ** (level_db / 20)
    return _pcm(samples)


def tone(seconds: float, *frequencies_hz: float, rate_hz: int = RATE_HZ, level_db: float = -12.0) -> Pcm:
    """Sine waves together, one channel."""
    t = np.arange(round(seconds * rate_hz)) / rate_hz
    waves = [np.sin(2 * np.pi * frequency * t) for frequency in frequencies_hz]
    return _pcm(np.mean(waves, axis=0)[:, None] * 10 ** (level_db / 20))


def dtmf(digits: str) -> Pcm:
    """Keys pressed for 0.1 s with 0.1 s between, one channel."""
    return np.vstack([piece for digit in digits for piece in (tone(0.1, *DTMF_HZ[digit]), silence(0.1))])


def ringback(rings: int = 4) -> Pcm:
    """The North American ringing tone: 440 and 480 Hz, 2 s on and 4 s off, one channel."""
    return np.vstack([piece for _ in range(rings) for piece in (tone(2.0, 440, 480), silence(4.0))])


def clipped(pcm: Pcm, *, gain_db: float = 30.0) -> Pcm:
    """The samples far over full scale, flat at the top."""
    return _pcm(pcm / 32768 * 10 ** (gain_db / 20))


def mulaw(pcm: Pcm) -> bytes:
    """ITU-T G.711, channels interleaved."""
    magnitude = np.minimum(np.abs(pcm.astype(np.int32)), 32_635) + 132
    exponent = np.floor(np.log2(magnitude)).astype(np.int32) - 7
    mantissa = (magnitude >> (exponent + 3)) & 15
    codes = ~(np.where(pcm < 0, 128, 0) | (exponent << 4) | mantissa) & 255
    return bytes(codes.astype(np.uint8))


def _pcm(samples: npt.NDArray[np.float64]) -> Pcm:
    return np.clip(np.round(samples * 32767), -32768, 32767).astype(np.int16)
