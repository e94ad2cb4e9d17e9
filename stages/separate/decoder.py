"""What the separate stage wants of a decoder of files, and what it gives back."""

from collections.abc import Iterator
from typing import BinaryIO, Protocol

import msgspec

MAX_RATE_HZ = 16_000
"""Highest rate of decoded audio and of utterances: Whisper reads no more."""


class AudioFileError(ValueError):
    """The file holds no usable audio. Carries its name and the reason."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name, self.reason = name, reason


class Damage(msgspec.Struct, frozen=True):
    """A place in a file that could not be decoded, in seconds of the decoded audio.

    `end_s` is after `start_s` only where the file says how much is missing: at its end.
    """

    start_s: float
    end_s: float
    reason: str

    def __str__(self) -> str:
        return f"damaged at {self.start_s:.1f} s ({self.reason})"


class DecodeLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What the decoded audio of a file may be. What is over a limit is cut off, and is a `Damage`.

    No codec of telephony gives more than 320 samples for a byte: AMR-WB's frames without data (RFC 4867). FLAC gives
    1,100 for digital silence, which is the case that this limits. Short files may be all silence.
    """

    samples_per_byte: int = 320
    """Per channel."""
    free_s: float = 600.0
    """Audio that a file of any size may hold."""
    audio_s: float = 24 * 3600.0

    def max_frames(self, size_bytes: int, rate_hz: int) -> int:
        by_size = max(self.samples_per_byte * size_bytes, round(self.free_s * rate_hz))
        return min(by_size, round(self.audio_s * rate_hz))


class DecodedAudio(Protocol):
    """An open file. Iterate once for blocks of 0.5 s, the last shorter, of interleaved signed 16-bit little-endian PCM.

    The same bytes always give the same blocks. `sample_rate_hz` is the file's, but at most 16 kHz. `duration_s` is what
    the file says; None if it says nothing. `truncated` and `damages` are valid after the iteration: part of the file
    is missing or could not be decoded.

    Iterating raises `stages.errors.MachineFailure`, and nothing that the file's bytes could cause.
    """

    @property
    def name(self) -> str: ...
    @property
    def format(self) -> str: ...
    @property
    def codec(self) -> str: ...
    @property
    def source_rate_hz(self) -> int: ...
    @property
    def sample_rate_hz(self) -> int: ...
    @property
    def channels(self) -> int: ...
    @property
    def duration_s(self) -> float | None: ...
    @property
    def truncated(self) -> bool: ...
    @property
    def damages(self) -> list[Damage]: ...
    def __iter__(self) -> Iterator[bytes]: ...
    def close(self) -> None: ...


class Decoder(Protocol):
    """Opens files. All methods are called from several threads."""

    at_once: int
    """The number of files that should be open at a time."""

    def prepare(self) -> None:
        """Called when a file is on its way, so that opening it takes less time. Returns at once."""
        ...

    def open(self, source: BinaryIO, name: str) -> DecodedAudio:
        """Open a seekable file, and own it from now on. `name` is for messages; its suffix may count.

        Raises AudioFileError if the bytes are no usable audio, and `stages.errors.MachineFailure`.
        """
        ...
