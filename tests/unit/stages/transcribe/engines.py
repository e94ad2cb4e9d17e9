"""An engine without a model: its text is a function of the audio, and it can be held, slowed and made to fail."""

import asyncio
import threading
from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from schemas.segments import Word
from stages.transcribe.engine.protocol import Audio, Row, Transcription
from stages.transcribe.engine.windows import SAMPLE_RATE_HZ

LANGUAGES = ("en", "de", "fr")


def audio(level: int, seconds: float = 1.0) -> Audio:
    """A constant level that the engine reads back: its hundreds choose the language, the rest is the text."""
    return np.full(int(seconds * SAMPLE_RATE_HZ), level / 1000, np.float32)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that an engine's thread does. Raises TimeoutError after 5 s."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - threads set no asyncio event
            await asyncio.sleep(0.001)


class FakeEngine:
    """Writes the level of the audio. `gate` holds all work back; levels in `broken` raise, as does a batch with one.

    Second hearings, which ask for the full window, give no words and are not recorded.
    """

    model_name = "fake"
    max_batch = 1

    def __init__(
        self,
        *,
        broken: frozenset[int] = frozenset(),
        languages: tuple[str, ...] = LANGUAGES,
        words: Sequence[tuple[float, float]] = ((0.1, 0.5),),
    ) -> None:
        """`words`: the times of all words that it writes."""
        self._words = words
        self.languages = frozenset(languages)
        self.gate = threading.Event()
        self.gate.set()
        self.broken = broken
        self.failure: Exception | None = None
        """Raised for every batch, as by a device that is gone."""
        self.batches: list[list[int]] = []
        self.hotwords: list[tuple[str, ...]] = []
        self.running = 0
        self.most_running = 0
        self._lock = threading.Lock()

    def window_s(self, row: Row) -> int:
        seconds = len(row.audio) / SAMPLE_RATE_HZ
        if seconds > 30:
            raise ValueError("too long")
        return 10 if seconds < 9 else 30

    def transcribe_batch(self, rows: Sequence[Row]) -> list[Transcription]:
        if all(row.full_window for row in rows):
            return [msgspec.structs.replace(self._say(row, 0), text="", words=[]) for row in rows]
        levels = [round(float(row.audio[0]) * 1000) for row in rows]
        with self._lock:
            self.batches.append(levels)
            self.hotwords += [row.hotwords for row in rows]
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        self.gate.wait(10)
        try:
            if self.failure is not None:
                raise self.failure
            if self.broken & set(levels):
                raise RuntimeError("broken audio")
            return [self._say(row, level) for row, level in zip(rows, levels, strict=True)]
        finally:
            with self._lock:
                self.running -= 1

    def detected(self, level: int) -> dict[str, float]:
        spoken = LANGUAGES[level // 100 % len(LANGUAGES)]
        return {code: 0.9 if code == spoken else 0.05 for code in LANGUAGES}

    def _say(self, row: Row, level: int) -> Transcription:
        language = row.language
        if not isinstance(language, str):
            language = language(self.detected(level))
        text = f"{language} {level}"
        return Transcription(
            text=text,
            words=[Word(text=text, start_s=start_s, end_s=end_s, probability=0.9) for start_s, end_s in self._words],
            language=language,
            average_logprob=-0.2,
            no_speech_probability=0.95 if level % 10 == 9 else 0.05,
        )
