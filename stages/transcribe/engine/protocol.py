"""What the stage asks of a speech engine: rows of audio in, transcriptions out.

The implementations stand beside it: `whisper.Engine` on one device; `fallback`, `device_pool` and `alignment` wrap
another engine.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from schemas.segments import Word, WordSource
from stages.errors import StageError

HOTWORD_TOKENS: Final = 100
"""Whisper's decoder has 448 positions: up to 224 for the text, the rest for what comes before it."""

Audio = NDArray[np.float32]
Detection = Mapping[str, float]
LanguageChoice = Callable[[Detection], str]
"""From the probability of each language, as heard in the row, to the language to decode it in."""


class EngineError(StageError):
    """The model cannot be used on this device: the operator changes the device, driver or compute type."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """An utterance to transcribe.

    `audio`: float32, shape (n_samples,), mono, 16 kHz, at most 30 s. `voiced`: stretches of speech in seconds from the
    audio's start. `language`: an ISO 639-1 code, or the choice to make from the languages heard. `prefix`: what the
    text begins with, whatever is heard. `hotwords`: words that it may hold, the most important first, given to the
    decoder as text that came before; those beyond `HOTWORD_TOKENS` tokens are left out. An `interim` row is decoded
    cheaply, greedily and without word times: its utterance is still being spoken.
    """

    audio: Audio
    voiced: list[tuple[float, float]]
    language: str | LanguageChoice
    prefix: str = ""
    hotwords: tuple[str, ...] = ()
    interim: bool = False


class Transcription(msgspec.Struct, frozen=True, kw_only=True):
    """The text of a row; times are seconds from its start. `error` says why there is none."""

    text: str
    words: list[Word]
    language: str
    average_logprob: float
    no_speech_probability: float
    repeats: bool = False
    """The decoder still looped after it was given the full window."""
    word_source: WordSource = "attention"
    error: str | None = None

    @classmethod
    def failed(cls, language: str, error: str) -> "Transcription":
        return cls(text="", words=[], language=language, average_logprob=0.0, no_speech_probability=0.0, error=error)


class SpeechEngine(Protocol):
    """What the scheduler needs of an engine. `transcribe_batch` may be called from several threads at once."""

    model_name: str
    languages: frozenset[str]

    @property
    def max_batch(self) -> int:
        """How many rows are worth giving at once; more are taken too. It may change."""
        ...

    def window_s(self, row: Row) -> int:
        """Rows with the same window are cheap to decode in one batch. Raises ValueError for too long a row."""
        ...

    def transcribe_batch(self, rows: Sequence[Row]) -> list[Transcription]:
        """The rows' texts, in their order."""
        ...
