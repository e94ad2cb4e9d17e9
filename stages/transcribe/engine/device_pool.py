"""Several devices as one engine. One queue feeds them all, so no row waits for one device while another is idle, and
tenants take turns on all of them together.
"""

import threading
from collections.abc import Sequence

from stages.transcribe.engine.protocol import Row, SpeechEngine, Transcription


class DevicePool:
    """Gives each batch to the engine with the least load for its batch size. See `SpeechEngine`.

    So a device that fell back, to smaller batches or to its CPU, gets less work. A device that fails gets less too:
    otherwise it would take all batches, for it is free again at once.
    """

    def __init__(self, engines: Sequence[SpeechEngine]) -> None:
        """`engines`: at least one, all with the same model."""
        self._engines = list(engines)
        self._running = [0] * len(engines)
        self._failed = [0] * len(engines)
        self._lock = threading.Lock()
        self.model_name = engines[0].model_name
        self.languages = engines[0].languages

    @property
    def max_batch(self) -> int:
        return max(engine.max_batch for engine in self._engines)

    def window_s(self, row: Row) -> int:
        return self._engines[0].window_s(row)

    def transcribe_batch(self, rows: Sequence[Row]) -> list[Transcription]:
        with self._lock:
            index = min(range(len(self._engines)), key=self._load)
            self._running[index] += 1
        failed = self._failed[index] + 1
        try:
            done = self._engines[index].transcribe_batch(rows)
            failed = 0
            return done
        finally:
            with self._lock:
                self._running[index] -= 1
                self._failed[index] = failed

    def _load(self, index: int) -> float:
        """Return an engine's load with one more batch. Failed batches since its last success count as running."""
        return (self._running[index] + self._failed[index] + 1) / self._engines[index].max_batch
