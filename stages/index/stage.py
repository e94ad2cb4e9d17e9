"""The index stage: fills the search index with turns of live calls and with completed transcripts, in batches."""

from collections.abc import Mapping
from itertools import accumulate
from typing import Final

import msgspec
import numpy as np

from schemas.calls import CallRef
from schemas.topics import TRANSCRIPTS
from schemas.transcripts import COMPLETED_TYPE, TURN_TYPE, TranscriptCompleted, Turn
from stages.adapters.embedding import Embedder, Vectors
from stages.errors import RejectedInput
from stages.index.ranking import RecordWindows, SearchIndex, Update, without_outdated
from stages.index.windows import windows_of, windows_of_turn
from stages.protocol import Output

NAME: Final = "index"

_KINDS: Final[dict[str, type[Turn] | type[TranscriptCompleted]]] = {
    TURN_TYPE: Turn,
    COMPLETED_TYPE: TranscriptCompleted,
}


class IndexStage:
    """Embeds and stores windows of turns. See `pipeline.runtime.batch_runner.BatchStage`."""

    name = NAME
    topics = (TRANSCRIPTS,)

    def __init__(self, index: SearchIndex, embedder: Embedder) -> None:
        self._index = index
        self._embedder = embedder
        self._failed: dict[str, Vectors] = {}
        """Vectors of texts that the index has not accepted yet: a failed batch is delivered again."""

    def decode(self, topic: str, headers: Mapping[str, str], value: bytes, timestamp_s: float) -> RecordWindows | None:
        """Return a record's windows; None for turns of recorded calls: those complete soon. Raises RejectedInput."""
        record_type = headers.get("ce_type", "")
        kind = _KINDS.get(record_type)
        if kind is None:
            raise RejectedInput(f"record type {record_type!r} is not known on {topic}")
        try:
            record: Turn | TranscriptCompleted = msgspec.json.decode(value, type=kind)
            call = CallRef.checked(record.tenant, record.call_id)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise RejectedInput(f"the value of {record_type} cannot be used: {error}") from error
        if isinstance(record, TranscriptCompleted):
            windows = windows_of(
                record.turns,
                revision=record.revision,
                part=record.part,
                agent=record.agent,
                started_at=timestamp_s - record.duration_s,
            )
            return RecordWindows(call, record.revision, record.part, windows)
        if record.lane != "live":
            return None
        return RecordWindows(call, record.revision, 0, windows_of_turn(record, at_s=timestamp_s))

    def write(self, records: list[RecordWindows | None]) -> list[Output]:
        """Embed and store the newest records of each call; on return they are durable. Call from one thread.

        Outdated records are dropped first: a worker that catches up need not embed turns whose transcript is in the
        same batch.
        """
        found = without_outdated([record for record in records if record is not None])
        vectors = self._embedded([window.spoken_text for record in found for window in record.windows])
        ends = list(accumulate(len(record.windows) for record in found))
        self._index.update(
            [
                Update(
                    record.call, record.revision, record.part, record.windows, vectors[end - len(record.windows) : end]
                )
                for record, end in zip(found, ends, strict=True)
            ]
        )
        self._failed.clear()
        return []

    def _embedded(self, texts: list[str]) -> Vectors:
        missing = [text for text in dict.fromkeys(texts) if text not in self._failed]
        self._failed |= zip(missing, self._embedder.passages(missing), strict=True)
        vectors = [self._failed[text] for text in texts]
        return np.array(vectors, np.float32).reshape(len(texts), self._embedder.dimensions)
