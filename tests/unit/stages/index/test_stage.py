"""The index stage: windows of the records that merge publishes."""

from collections.abc import Sequence

import msgspec
import numpy as np
import pytest

from schemas.topics import TRANSCRIPTS
from schemas.transcripts import COMPLETED_TYPE, TURN_TYPE, TranscriptCompleted, Turn
from stages.adapters.embedding import Vectors
from stages.errors import RejectedInput, StageError
from stages.index.ranking import Filters, Hit, RecordWindows, Update
from stages.index.stage import IndexStage
from tests.unit.stages.summarize.calls import CALL, completed, turns


class CountingEmbedder:
    """The vector of a text is its number of words."""

    name, dimensions = "counting", 1

    def __init__(self) -> None:
        self.batches: list[int] = []

    def passages(self, texts: Sequence[str]) -> Vectors:
        self.batches.append(len(texts))
        return np.array([[len(text.split())] for text in texts], np.float32).reshape(len(texts), 1)

    def questions(self, texts: Sequence[str]) -> Vectors:
        return self.passages(texts)


class KeptIndex:
    def __init__(self) -> None:
        self.updates: list[Update] = []
        self.is_away = False

    def update(self, updates: Sequence[Update]) -> None:
        if self.is_away:
            raise StageError("away")
        self.updates += updates

    def search(self, vector: Vectors, words: str, filters: Filters, *, limit: int) -> list[Hit]:
        return []

    def count(self) -> int:
        return sum(len(update.windows) for update in self.updates)

    def close(self) -> None: ...


@pytest.fixture
def stage() -> IndexStage:
    return IndexStage(KeptIndex(), CountingEmbedder())


def found(stage: IndexStage, *records: Turn | TranscriptCompleted) -> list[RecordWindows | None]:
    kinds = {Turn: TURN_TYPE, TranscriptCompleted: COMPLETED_TYPE}
    return [
        stage.decode(TRANSCRIPTS, {"ce_type": kinds[type(record)]}, msgspec.json.encode(record), 3.0)
        for record in records
    ]


def test_live_turns_and_completed_transcripts_are_embedded_together(stage: IndexStage) -> None:
    live = msgspec.structs.replace(turns()[0], call_id="another")
    recorded = msgspec.structs.replace(turns()[1], lane="batch")
    whole = msgspec.structs.replace(completed(turns()), agent="Anna")
    records = found(stage, live, recorded, whole)
    assert records[1] is None
    assert stage.write(records) == []
    index, embedder = stage._index, stage._embedder
    assert isinstance(index, KeptIndex)
    assert isinstance(embedder, CountingEmbedder)
    assert [(update.call.call_id, update.part, len(update.windows)) for update in index.updates] == [
        ("another", 0, 1),
        (CALL.call_id, 1, 6),
    ]
    assert embedder.batches == [6]  # one of them is the same
    for update in index.updates:
        assert update.vectors[:, 0].tolist() == [len(window.spoken_text.split()) for window in update.windows]
    assert [update.windows[0].started_at for update in index.updates] == [3.0, 3.0 - whole.duration_s]
    assert index.updates[1].windows[0].agent == "Anna"


def test_windows_replaced_in_the_same_batch_are_not_embedded(stage: IndexStage) -> None:
    first = completed(turns())
    parts = [msgspec.structs.replace(first, revision=2, part=part, parts=2) for part in (1, 2)]
    late = msgspec.structs.replace(turns()[0], revision=2)
    stage.write(found(stage, turns()[0], first, parts[0], late, parts[1]))
    index = stage._index
    assert isinstance(index, KeptIndex)
    assert [(update.revision, update.part) for update in index.updates] == [(2, 1), (2, 2)]


def test_a_batch_that_the_index_refused_is_not_embedded_again(stage: IndexStage) -> None:
    index, embedder = stage._index, stage._embedder
    assert isinstance(index, KeptIndex)
    assert isinstance(embedder, CountingEmbedder)
    other = msgspec.structs.replace(turns()[0], call_id="another", text="one thing more")
    index.is_away = True
    for records in ((completed(turns()),), (completed(turns()), other)):
        with pytest.raises(StageError):
            stage.write(found(stage, *records))
    index.is_away = False
    stage.write(found(stage, completed(turns()), other))
    assert [batch for batch in embedder.batches if batch] == [6, 1]
    for update in index.updates:
        assert update.vectors[:, 0].tolist() == [len(window.spoken_text.split()) for window in update.windows]
    stage.write(found(stage, other))
    assert embedder.batches[-1] == 1


def test_a_call_without_words_removes_its_older_windows(stage: IndexStage) -> None:
    stage.write(found(stage, completed([])))
    index = stage._index
    assert isinstance(index, KeptIndex)
    [update] = index.updates
    assert (update.windows, update.vectors.shape) == ([], (0, 1))


@pytest.mark.parametrize(("kind", "value"), [("other", b"{}"), (TURN_TYPE, b"{"), (COMPLETED_TYPE, b'{"turns": 1}')])
def test_unreadable_records_are_rejected(stage: IndexStage, kind: str, value: bytes) -> None:
    with pytest.raises(RejectedInput):
        stage.decode(TRANSCRIPTS, {"ce_type": kind}, value, 3.0)
