"""Decoding of recorded files to PCM, block by block, for file producers and for `container` calls.

PyAV brings FFmpeg's decoders, so no program has to be installed. No file is ever held in memory as a whole.

Whatever a decoder raises is the file's fault. This module runs in the process that calls it; a file of unknown origin
goes to a process of its own (`stages.separate.decoding`), which may die of it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final, NoReturn

from schemas.audio import MAX_CHANNELS, MAX_SAMPLE_RATE_HZ, MIN_SAMPLE_RATE_HZ
from stages.errors import MachineFailure
from stages.separate.decoder import MAX_RATE_HZ, AudioFileError, Damage, DecodedAudio, DecodeLimits, Decoder
from stages.separate.formats import CODECS, READABLE, format_of

BLOCK_S: Final = 0.5
MAX_DAMAGES: Final = 100
"""Damages that are reported one by one. Further ones are left out."""

_UNKNOWN_RIFF_SIZE: Final = 0x7FFFF000
"""Programs that write WAV to a pipe put a size from here on, or 0, in its header."""


class LocalDecoder:
    """Decodes in this process. See `stages.separate.decoder.Decoder`."""

    at_once = 2

    def __init__(self, limits: DecodeLimits | None = None) -> None:
        self._limits = limits or DecodeLimits()

    def prepare(self) -> None:
        pass

    def open(self, source: BinaryIO, name: str) -> "AudioFile":
        return open_audio_stream(source, name, self._limits)


class AudioFile:
    """A file that is decoded in this process. See `stages.separate.decoder.DecodedAudio`."""

    def __init__(
        self, source: "_Source", container: Any, stream: Any, name: str, *, breaks_off: bool, limits: DecodeLimits
    ) -> None:
        context = stream.codec_context
        context.thread_count = 1
        self._source = source
        self._container = container
        self._stream = stream
        self._frames = 0
        self.name = name
        self.format: str = container.format.name
        self.codec: str = context.name
        self.source_rate_hz: int = context.sample_rate
        self.sample_rate_hz: int = min(self.source_rate_hz, MAX_RATE_HZ)
        self.channels: int = context.channels
        self.duration_s: float | None = container.duration / 1_000_000 if container.duration else None
        self.truncated = breaks_off
        self._max_frames = limits.max_frames(source.size, self.sample_rate_hz)
        self._audio_s = limits.audio_s
        self._resampler = _Resampler(stream.layout.name, self.channels, self.sample_rate_hz)
        self.damages: list[Damage] = []

    def close(self) -> None:
        self._container.close()
        self._source.close()

    def __iter__(self) -> Iterator[bytes]:
        block_bytes = int(self.sample_rate_hz * BLOCK_S) * self.channels * 2
        pending = bytearray()
        for part in self._within_limit():
            pending += part
            while len(pending) >= block_bytes:
                yield bytes(pending[:block_bytes])
                del pending[:block_bytes]
        if pending:
            yield bytes(pending)
        self._note_missing_end()

    @property
    def _decoded_s(self) -> float:
        return self._frames / self.sample_rate_hz

    def _note(self, error: BaseException | str) -> None:
        """Note a damage at the end of what has been decoded; once for each place. Raises what reading has raised."""
        self._source.check()
        self.truncated = True
        at_s = self._decoded_s
        if len(self.damages) < MAX_DAMAGES and not (self.damages and self.damages[-1].start_s == at_s):
            self.damages.append(Damage(at_s, at_s, error if isinstance(error, str) else _reason(error)))

    def _note_missing_end(self) -> None:
        """Note how much is missing at the end, if the file says how long it is. Joined files do not say it."""
        decoded_s = self._decoded_s
        said_s = self.duration_s if self._resampler.n_formats < 2 else None
        is_short = said_s is not None and decoded_s < said_s - max(1.0, 0.02 * said_s)
        if is_short or (self.truncated and self._frames and not self.damages):
            self._note("the file breaks off")
        if is_short and said_s is not None and self.damages[-1].start_s == decoded_s:
            end_s = max(decoded_s, min(said_s, self._audio_s))
            self.damages[-1] = Damage(decoded_s, end_s, self.damages[-1].reason)

    def _within_limit(self) -> Iterator[bytes]:
        """Yield parts up to the limit, with a position after each: `_frames`."""
        frame_bytes = self.channels * 2
        for part in self._decoded():
            left = self._max_frames - self._frames
            kept = part[: left * frame_bytes]
            self._frames += len(kept) // frame_bytes
            yield kept
            if len(kept) < len(part):
                self._note(f"more than {self._decoded_s:.0f} s of audio from {self._source.size} bytes")
                return

    def _decoded(self) -> Iterator[bytes]:
        """Yield resampled frames. A damaged packet in the middle is skipped; damage at the end ends the file."""
        for frames in self._packets():
            for frame in frames:
                try:
                    parts = self._resampler.resample(frame)
                except Exception as error:
                    self._note(error)
                else:
                    yield from parts
        try:
            parts = self._resampler.finish()
        except Exception as error:
            self._note(error)
        else:
            yield from parts

    def _packets(self) -> Iterator[list[Any]]:
        """Yield the frames of each packet, and at last those that the decoder still holds."""
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except Exception as error:
                self._note(error)
                packet = None
                packets = iter(())
                decode = self._stream.codec_context.decode  # flushes: no packet does it any more
            else:
                if packet is None:
                    return
                decode = packet.decode
            try:
                frames = decode()
            except Exception as error:
                self._note(error)
                continue
            yield frames


class _Resampler:
    """Brings frames to one rate and number of channels. A file may change both: joined MP3 and AAC do."""

    def __init__(self, layout: str, channels: int, rate_hz: int) -> None:
        self._layout = layout
        self._channels = channels
        self._rate_hz = rate_hz
        self.n_formats = 0
        self._resampler: Any = None
        self._taken: tuple[str, str, int] | None = None

    def resample(self, frame: Any) -> list[bytes]:
        """Return the frame as PCM, after what was left of frames of another format. Raises what PyAV raises."""
        import av

        source = (frame.format.name, frame.layout.name, frame.sample_rate)
        parts = []
        if source != self._taken:
            if not MIN_SAMPLE_RATE_HZ <= frame.sample_rate <= MAX_SAMPLE_RATE_HZ:
                raise ValueError(f"a sample rate of {frame.sample_rate} Hz")
            parts += self.finish()
            if frame.layout.nb_channels == self._channels:
                self._layout = frame.layout.name
            self._resampler = av.AudioResampler(format="s16", layout=self._layout, rate=self._rate_hz)
            self._taken = source
            self.n_formats += 1
        frame.pts = None
        return parts + [self._bytes(out) for out in self._resampler.resample(frame)]

    def finish(self) -> list[bytes]:
        """Return the last samples of the frames so far."""
        resampler, self._resampler, self._taken = self._resampler, None, None
        return [self._bytes(out) for out in resampler.resample(None)] if resampler is not None else []

    def _bytes(self, frame: Any) -> bytes:
        """Return a packed frame of 16-bit samples. A plane is longer than its samples."""
        if frame.layout.nb_channels != self._channels:
            raise ValueError(f"{frame.layout.nb_channels} channels that do not become {self._channels}")
        return bytes(memoryview(frame.planes[0])[: frame.samples * self._channels * 2])


class _Source:
    """The bytes of a file, as FFmpeg reads them. Tells a failing disk from a damaged file. Owns the stream."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._failure: OSError | None = None
        self.size = stream.seek(0, 2)

    def read(self, n: int) -> bytes:
        try:
            return self._stream.read(n)
        except OSError as error:
            self._failure = error
            raise

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def check(self) -> None:
        """Raise MachineFailure if a read has failed."""
        if self._failure is not None:
            raise MachineFailure(f"the file cannot be read: {_reason(self._failure)}") from self._failure

    def close(self) -> None:
        self._stream.close()


def open_audio_file(path: Path, decoder: Decoder | None = None) -> DecodedAudio:
    """Open a WAV, MP3, FLAC, Opus, M4A or other file. Raises AudioFileError with the reason if it is unusable."""
    if path.is_dir():
        raise AudioFileError(path.name, "is a directory")
    try:
        source = path.open("rb")
    except OSError as error:
        raise AudioFileError(path.name, error.strerror or str(error)) from error
    return (decoder or LocalDecoder()).open(source, path.name)


def open_audio_stream(stream: BinaryIO, name: str, limits: DecodeLimits | None = None) -> AudioFile:
    """Open a seekable stream, from its start, as `open_audio_file` opens a file. Owns it from now on."""
    source = _Source(stream)
    try:
        return _opened(source, stream, name, limits or DecodeLimits())
    except (AudioFileError, MachineFailure):
        source.close()
        raise
    except Exception as error:
        source.close()
        source.check()
        raise AudioFileError(name, f"not a readable audio file ({_reason(error)})") from error


def _opened(source: _Source, stream: BinaryIO, name: str, limits: DecodeLimits) -> AudioFile:
    import av

    if source.size == 0:
        raise AudioFileError(name, "the file is empty")
    try:
        format_name = format_of(stream, name)
        stream.seek(0)
        breaks_off = _wav_breaks_off(stream.read(12), source.size)
        stream.seek(0)
    except OSError as error:
        raise MachineFailure(f"the file cannot be read: {_reason(error)}") from error
    if format_name is None:
        raise AudioFileError(name, f"not a readable audio file ({READABLE})")
    container = av.open(
        source,
        mode="r",
        format=format_name,
        metadata_errors="replace",
        io_open=_refuse_to_open,
        container_options={
            "format_whitelist": format_name,
            "codec_whitelist": ",".join(sorted(CODECS)),
            "protocol_whitelist": "none",
        },
    )
    try:
        used = _usable_stream(container, name)
        return AudioFile(source, container, used, name, breaks_off=breaks_off, limits=limits)
    except BaseException:
        container.close()
        raise


def _refuse_to_open(url: str, _flags: int, _options: dict[str, str]) -> NoReturn:
    """Called by FFmpeg for files and addresses that a file names."""
    raise PermissionError(f"the file names another one: {url}")


def _usable_stream(container: Any, name: str) -> Any:
    """Return the first stream of audio. Raises AudioFileError if it cannot be used."""
    if not container.streams.audio:
        raise AudioFileError(name, "there is no audio in it")
    stream = container.streams.audio[0]
    context = stream.codec_context
    if context is None or context.name not in CODECS:
        found = context.name if context is not None else "unknown"
        raise AudioFileError(name, f"its audio is in a codec that is not read ({found})")
    if not context.sample_rate:
        raise AudioFileError(name, "its audio has no sample rate")
    if not 1 <= context.channels <= MAX_CHANNELS:
        raise AudioFileError(name, f"it has {context.channels} channels, 1 to {MAX_CHANNELS} can be used")
    if context.sample_rate < MIN_SAMPLE_RATE_HZ:
        raise AudioFileError(name, f"its sample rate of {context.sample_rate} Hz is below {MIN_SAMPLE_RATE_HZ} Hz")
    if context.sample_rate > MAX_SAMPLE_RATE_HZ:
        raise AudioFileError(name, f"its sample rate of {context.sample_rate} Hz is above {MAX_SAMPLE_RATE_HZ} Hz")
    return stream


def _wav_breaks_off(head: bytes, size: int) -> bool:
    """Return True if a WAV header announces more bytes than there are, which FFmpeg does not report."""
    promised = int.from_bytes(head[4:8], "little")
    return head[:4] == b"RIFF" and head[8:] == b"WAVE" and size - 8 < promised < _UNKNOWN_RIFF_SIZE


def _reason(error: BaseException) -> str:
    """Return what an error of FFmpeg or PyAV says, without the names of files that it adds."""
    import av

    said = error.strerror if isinstance(error, OSError | av.FFmpegError) else str(error)
    return said or type(error).__name__
