"""Decoding of recorded files to PCM, block by block, for file producers and for `container` calls.

PyAV brings FFmpeg's decoders, so no program has to be installed. No file is ever held in memory as a whole.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

from schemas.audio import MAX_CHANNELS, MIN_SAMPLE_RATE_HZ
from stages.separate.channel import MAX_RATE_HZ

BLOCK_S: Final = 0.5

_UNKNOWN_RIFF_SIZE: Final = 0x7FFFF000
"""Programs that write WAV to a pipe put a size from here on, or 0, in its header."""


class AudioFileError(ValueError):
    """The file holds no usable audio. Carries its name and the reason."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name, self.reason = name, reason


class AudioFile:
    """An open file. Iterate once for blocks of at most 0.5 s of interleaved signed 16-bit little-endian PCM.

    `sample_rate_hz` is the file's, but at most 16 kHz. `duration_s` is the container's; None if it gives none.
    `truncated` is valid after the iteration: the file is incomplete, or its last part cannot be decoded.
    """

    def __init__(self, container: Any, name: str, *, breaks_off: bool) -> None:
        self._container = container
        self._stream = container.streams.audio[0]
        context = self._stream.codec_context
        self.name = name
        self.format: str = container.format.name
        self.codec: str = context.name
        self.source_rate_hz: int = context.sample_rate
        self.sample_rate_hz = min(self.source_rate_hz, MAX_RATE_HZ)
        self.channels: int = context.channels
        self.duration_s: float | None = container.duration / 1_000_000 if container.duration else None
        self.truncated = breaks_off

    def close(self) -> None:
        self._container.close()

    def __iter__(self) -> Iterator[bytes]:
        block_bytes = int(self.sample_rate_hz * BLOCK_S) * self.channels * 2
        pending = bytearray()
        decoded_bytes = 0
        for part in self._decoded():
            pending += part
            decoded_bytes += len(part)
            while len(pending) >= block_bytes:
                yield bytes(pending[:block_bytes])
                del pending[:block_bytes]
        if pending:
            yield bytes(pending)
        decoded_s = decoded_bytes / (2 * self.channels * self.sample_rate_hz)
        if self.duration_s is not None and decoded_s < self.duration_s - max(1.0, 0.02 * self.duration_s):
            self.truncated = True

    def _decoded(self) -> Iterator[bytes]:
        """Yield resampled frames. A damaged packet in the middle is skipped; damage at the end ends the file."""
        import av

        resampler = av.AudioResampler(format="s16", layout=self._stream.layout, rate=self.sample_rate_hz)
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
                if packet is None:
                    break
                frames = packet.decode()
            except (av.FFmpegError, OSError):
                self.truncated = True
                if packet is None:
                    break
                continue
            for frame in frames:
                if frame.layout.nb_channels != self.channels:
                    self.truncated = True
                    return
                frame.pts = None
                yield from (_bytes(out) for out in resampler.resample(frame))
        yield from (_bytes(out) for out in resampler.resample(None))


def open_audio_file(path: Path) -> AudioFile:
    """Open a WAV, MP3, FLAC, Opus, M4A or other file. Raises AudioFileError with the reason if it is unusable."""
    if path.is_dir():
        raise AudioFileError(path.name, "is a directory")
    try:
        size = path.stat().st_size
    except OSError as error:
        raise AudioFileError(path.name, error.strerror or str(error)) from error
    if size == 0:
        raise AudioFileError(path.name, "the file is empty")
    with path.open("rb") as file:
        breaks_off = _wav_breaks_off(file.read(12), size)
    return _open(str(path), path.name, breaks_off=breaks_off)


def open_audio_stream(stream: BinaryIO, name: str) -> AudioFile:
    """Open a seekable stream, from its start, as `open_audio_file` opens a file."""
    size = stream.seek(0, 2)
    if size == 0:
        raise AudioFileError(name, "there is no data")
    stream.seek(0)
    breaks_off = _wav_breaks_off(stream.read(12), size)
    stream.seek(0)
    return _open(stream, name, breaks_off=breaks_off)


def _wav_breaks_off(head: bytes, size: int) -> bool:
    """Return True if a WAV header announces more bytes than there are, which FFmpeg does not report."""
    promised = int.from_bytes(head[4:8], "little")
    return head[:4] == b"RIFF" and head[8:] == b"WAVE" and size - 8 < promised < _UNKNOWN_RIFF_SIZE


def _open(source: str | BinaryIO, name: str, *, breaks_off: bool) -> AudioFile:
    import av

    try:
        container = av.open(source, mode="r", metadata_errors="replace")
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise AudioFileError(name, f"not a readable audio file ({reason})") from error
    try:
        _check(container, name)
        return AudioFile(container, name, breaks_off=breaks_off)
    except BaseException:
        container.close()
        raise


def _check(container: Any, name: str) -> None:
    if not container.streams.audio:
        raise AudioFileError(name, "there is no audio in it")
    context = container.streams.audio[0].codec_context
    if context is None or not context.sample_rate:
        raise AudioFileError(name, "its audio has no sample rate")
    if not 1 <= context.channels <= MAX_CHANNELS:
        raise AudioFileError(name, f"it has {context.channels} channels, 1 to {MAX_CHANNELS} can be used")
    if context.sample_rate < MIN_SAMPLE_RATE_HZ:
        raise AudioFileError(name, f"its sample rate of {context.sample_rate} Hz is below {MIN_SAMPLE_RATE_HZ} Hz")


def _bytes(frame: Any) -> bytes:
    return np.ascontiguousarray(frame.to_ndarray()).astype("<i2").tobytes()
