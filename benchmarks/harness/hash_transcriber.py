"""A transcribe worker whose text is a hash of its samples: the real command with another engine.

A lost, doubled or shifted sample, a wrong stretch of speech or beginning of the text, or a lost language vote changes
the text, and a worker is ready within a second. Each utterance takes a random time, so that utterances overtake each
other. The words of some rows end in the middle of the speech, and some second hearings give nothing, so transcripts
hold unheard speech too. While the file that CHAOS_DEVICE names exists, the engine fails whatever its input, as with a
device that has gone.

    python -m benchmarks.harness.hash_transcriber        # as `callstream worker transcribe`
"""

import contextlib
import hashlib
import os
import random
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest.mock import patch

from pipeline.cli.main import main
from pipeline.settings import Settings
from pipeline.telemetry.metrics import Metrics
from pipeline.wiring import engines
from schemas.segments import Word
from stages.transcribe.engine.protocol import EngineError, Row, SpeechEngine, Transcription
from stages.transcribe.engine.windows import SAMPLE_RATE_HZ

LANGUAGES = ("en", "de", "fr")
DELAY_S = (0.0, 0.25)
WORD_S = 0.35
DEVICE_VARIABLE = "CHAOS_DEVICE"


class HashEngine:
    """Transcribes each row as its digest. See `stages.transcribe.engine.protocol.SpeechEngine`.

    `hears_all`: no speech stays without words.
    """

    model_name = "hash"
    languages = frozenset(LANGUAGES)
    max_batch = 1

    def __init__(self, *, hears_all: bool = False) -> None:
        self._hears_all = hears_all

    def window_s(self, row: Row) -> int:  # noqa: ARG002  # the protocol's
        return 30

    def transcribe_batch(self, rows: Sequence[Row]) -> list[Transcription]:
        time.sleep(random.uniform(*DELAY_S))
        _use_device()
        return [_transcription(row, hears_all=self._hears_all) for row in rows]


def _use_device() -> None:
    """Raise while the device fails: what the engine reports itself, or an error of a library below it."""
    device = os.environ.get(DEVICE_VARIABLE)
    if device is None or not Path(device).exists():
        return
    with open(f"{device}.hits", "ab") as hits:
        hits.write(b".")
    raise random.choice((EngineError("the device has gone"), RuntimeError("CUDA error: unspecified launch failure")))


def _transcription(row: Row, *, hears_all: bool) -> Transcription:
    hashed = hashlib.sha256(row.audio.tobytes())
    hashed.update(repr((row.voiced, row.prefix)).encode())
    digest = hashed.digest()
    language = row.language
    if not isinstance(language, str):
        spoken = LANGUAGES[digest[0] % len(LANGUAGES)]
        language = language({code: 0.9 if code == spoken else 0.05 for code in LANGUAGES})
    length_s = len(row.audio) / SAMPLE_RATE_HZ
    n_words = min(len(digest) // 3, max(1, int(length_s / WORD_S)))
    known = row.prefix.split()
    step_s = length_s / (len(known) + n_words)
    n_heard = n_words if hears_all else _n_heard(row, digest, n_words)
    texts = [*known, *(digest[3 * index : 3 * index + 3].hex() for index in range(n_heard))]
    words = [
        Word(
            text=text,
            start_s=round(index * step_s, 3),
            end_s=round((index + 0.9) * step_s, 3),
            probability=round(0.5 + digest[index % len(digest)] / 512, 3),
        )
        for index, text in enumerate(texts)
    ]
    return Transcription(
        text=" ".join(word.text for word in words),
        words=words,
        language=language,
        average_logprob=-0.2,
        no_speech_probability=0.05,
    )


def _n_heard(row: Row, digest: bytes, n_words: int) -> int:
    """Return how many of a row's words are written: half of them for one row in four, and for one second hearing in two
    none."""
    if row.full_window:
        return n_words if digest[1] % 2 else 0
    return n_words if digest[1] % 4 else (n_words + 1) // 2


def load_hash_engine(_settings: Settings, _metrics: Metrics) -> SpeechEngine:
    return HashEngine()


@contextlib.contextmanager
def hashing() -> Iterator[None]:
    """Make workers in this process load `HashEngine`."""
    with patch.object(engines, "load_engine", load_hash_engine):
        yield


if __name__ == "__main__":
    sys.argv = ["callstream", "worker", "transcribe"]
    with hashing():
        main()
