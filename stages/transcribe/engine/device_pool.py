"""Several devices as one engine. One queue feeds them all, so no call waits for its device while another one is idle,
and tenants take turns at all of them together.
"""

import threading
from collections.abc import Sequence

from stages.transcribe.engine.protocol import Row, SpeechEngine, Transcription


class DevicePool:
    """Hands each batch to the engine that is least busy for the batches that it takes. See `SpeechEngine`.

    So a device that goes on with less, in smaller batches or on its CPU, gets less to do, and so does one that fails:
    it is quick to be free again, and would take the batches of all.
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
            number = min(range(len(self._engines)), key=self._load)
            self._running[number] += 1
        failed = self._failed[number] + 1
        try:
            done = self._engines[number].transcribe_batch(rows)
            failed = 0
            return done
        finally:
            with self._lock:
                self._running[number] -= 1
                self._failed[number] = failed

    def _load(self, number: int) -> float:
        """How busy an engine would be with one batch more; batches that failed since its last success count too."""
        return (self._running[number] + self._failed[number] + 1) / self._engines[number].max_batch
