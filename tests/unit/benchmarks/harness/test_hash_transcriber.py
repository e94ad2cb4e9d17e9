from pathlib import Path

import msgspec
import numpy as np
import pytest

from benchmarks.harness import hash_transcriber
from benchmarks.harness.hash_transcriber import HashEngine, hashing
from pipeline.bus.memory import MemoryBus
from pipeline.settings import Settings
from pipeline.telemetry.metrics import Metrics
from pipeline.wiring.context import WiringContext
from pipeline.wiring.transcribe import open_scheduler
from schemas.segments import Word
from stages.transcribe.engine.protocol import Row


def row(samples: list[float]) -> Row:
    return Row(audio=np.array(samples, np.float32), voiced=[(0.0, 1.0)], language="en")


async def test_a_worker_transcribes_with_the_hash_engine(tmp_path: Path) -> None:
    """And loads no weights: there are none in the folder."""
    settings = Settings(data=tmp_path, model=str(tmp_path))
    with hashing():
        async with open_scheduler(WiringContext(MemoryBus(), settings, Metrics())) as scheduler:
            assert isinstance(scheduler.engine, HashEngine)


def test_the_text_depends_on_every_sample() -> None:
    first, again, other = HashEngine().transcribe_batch([row([0.1] * 16_000), row([0.1] * 16_000), row([0.2] * 16_000)])
    assert first == again
    assert first.text != other.text
    after = HashEngine().transcribe_batch([msgspec.structs.replace(row([0.1] * 16_000), prefix="so far")])[0]
    assert after.text.startswith("so far ")
    assert after.text.removeprefix("so far ") != first.text
    assert all(isinstance(word, Word) for word in first.words)


def test_some_rows_end_in_the_middle_of_the_speech_and_some_second_hearings_give_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hash_transcriber, "DELAY_S", (0.0, 0.0))
    rows = [row([number / 1000] * 48_000) for number in range(1, 33)]
    n_words = {len(one.words) for one in HashEngine().transcribe_batch(rows)}
    assert n_words == {4, 8}
    again = [msgspec.structs.replace(one, full_window=True) for one in rows]
    assert {len(one.words) for one in HashEngine().transcribe_batch(again)} == {0, 8}
