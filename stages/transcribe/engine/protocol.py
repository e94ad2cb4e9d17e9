"""The interface between the stage and a speech engine: rows of audio in, transcriptions out.

Implementations in this folder: `whisper.Engine` on one device; `fallback`, `device_pool` and `alignment` wrap another
engine.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from schemas.segments import Word, WordSource
from stages.errors import StageError

HOTWORD_TOKENS: Final = 100
"""Whisper's decoder has 448 positions: up to 224 for the text, the rest for the text before it."""

Audio = NDArray[np.float32]
Detection = Mapping[str, float]
LanguageChoice = Callable[[Detection], str]
"""From the probability of each language in the row's audio to the language to decode it in. Called from any thread."""


class EngineError(StageError):
    """The model cannot be used on this device: the operator changes the device, driver or compute type."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """An utterance to transcribe.

    - `audio`: float32, shape (n_samples,), mono, 16 kHz, at most 30 s.
    - `voiced`: stretches of speech in seconds from the audio's start.
    - `language`: an ISO 639-1 code, or the choice to make from the detected languages.
    - `prefix`: the beginning of the text, whatever the audio says.
    - `hotwords`: words that the audio is likely to hold, the most important first. The decoder sees them as text before
      the audio. Those beyond `HOTWORD_TOKENS` tokens are left out.
    - `interim`: the utterance is still being spoken, so it is decoded greedily and without word times.
    - `full_window`: decode it in Whisper's window of 30 s at once, whatever shorter one it fits.
    """

    audio: Audio
    voiced: list[tuple[float, float]]
    language: str | LanguageChoice
    prefix: str = ""
    hotwords: tuple[str, ...] = ()
    interim: bool = False
    full_window: bool = False


class Transcription(msgspec.Struct, frozen=True, kw_only=True):
    """The text of a row. Times are seconds from the row's start. `error` is the reason why there is no text."""

    text: str
    words: list[Word]
    language: str
    average_logprob: float
    no_speech_probability: float
    repeats: bool = False
    """The decoder still looped in the full window."""
    word_source: WordSource = "attention"
    error: str | None = None

    @classmethod
    def failed(cls, language: str, error: str) -> "Transcription":
        return cls(text="", words=[], language=language, average_logprob=0.0, no_speech_probability=0.0, error=error)


class SpeechEngine(Protocol):
    """An engine as the scheduler uses it. `transcribe_batch` may be called from several threads at once."""

    model_name: str
    languages: frozenset[str]

    @property
    def max_batch(self) -> int:
        """The number of rows that are worth decoding at once. More are accepted. It may change."""
        ...

    def window_s(self, row: Row) -> int:
        """Return the row's window. Rows with the same window are cheap to decode in one batch.

        Raises ValueError for a row that is too long.
        """
        ...

    def transcribe_batch(self, rows: Sequence[Row]) -> list[Transcription]:
        """Return the rows' texts, in their order."""
        ...
