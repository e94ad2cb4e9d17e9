"""Fallback, with engines whose memory is a number of rows."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from pipeline.wiring.weights import resolve_model
from stages.transcribe.engine.devices import CPU, GPU_BATCH, Device
from stages.transcribe.engine.fallback import FallbackEngine, Level, StepDown, levels_of
from stages.transcribe.engine.protocol import EngineError, Row, Transcription
from stages.transcribe.engine.whisper import Engine
from tests.unit.stages.transcribe.engines import FakeEngine, audio, until

GPU = Device("cuda")
LEVELS = levels_of(GPU, "auto")
FLOAT16, INT8, ON_CPU = LEVELS


def rows(*levels: int) -> list[Row]:
    return [Row(audio=audio(level), voiced=[(0.0, 1.0)], language="en") for level in levels]


class SmallEngine(FakeEngine):
    """Has memory for batches of up to `fits` rows."""

    def __init__(self, level: Level, fits: int) -> None:
        super().__init__()
        self.max_batch = level.device.max_batch
        self.fits = fits
        self.closed = False

    def close(self) -> None:
        assert not self.running
        self.closed = True

    def transcribe_batch(self, rows: Sequence[Row]) -> list[Transcription]:
        assert not self.closed
        done = super().transcribe_batch(rows)
        if len(rows) > self.fits:
            raise RuntimeError("CUDA failed with error out of memory")
        return done


class Machine:
    """Engines by level, with the rows that fit each; a level that is not named cannot be loaded."""

    def __init__(self, fits: dict[Level, int]) -> None:
        self.fits = fits
        self.loaded: list[Level] = []
        self.engines: dict[Level, SmallEngine] = {}
        self.steps: list[StepDown] = []
        self.used: dict[Level, int] = {}

    def load(self, level: Level) -> SmallEngine:
        assert all(engine.closed for engine in self.engines.values()), "two engines in memory"
        self.loaded.append(level)
        if level not in self.fits:
            raise EngineError(f"nothing runs on {level}")
        if self.fits[level] < 0:
            raise EngineError("cannot be loaded") from RuntimeError("CUDA failed with error out of memory")
        self.engines[level] = SmallEngine(level, self.fits[level])
        return self.engines[level]

    def engine(
        self, *, levels: Sequence[Level] = LEVELS, max_batch: int | None = None, on_any_error: bool = False
    ) -> FallbackEngine:
        return FallbackEngine(
            self.load, levels, max_batch=max_batch, on_any_error=on_any_error, stepped=self.steps.append, used=self._use
        )

    def _use(self, level: Level, n_rows: int) -> None:
        self.used[level] = self.used.get(level, 0) + n_rows


def texts(engine: FallbackEngine, *levels: int) -> list[str]:
    return [done.text for done in engine.transcribe_batch(rows(*levels))]


def said(*levels: int) -> list[str]:
    return [f"en {level}" for level in levels]


@pytest.mark.parametrize(
    ("compute_type", "expected"),
    [
        ("auto", ["cuda:0 as float16", "cuda:0 as int8_float16", "cpu as int8"]),
        ("float32", ["cuda:0 as float32", "cuda:0 as int8", "cpu as int8"]),
        ("int8_float16", ["cuda:0 as int8_float16", "cpu as int8"]),
        ("int8", ["cuda:0 as int8", "cpu as int8"]),
    ],
)
def test_the_levels_of_a_gpu_end_on_the_cpu(compute_type: str, expected: list[str]) -> None:
    assert [str(level) for level in levels_of(GPU, compute_type)] == expected


def test_a_cpu_has_one_level() -> None:
    assert levels_of(CPU, "auto") == [ON_CPU]
    assert levels_of(CPU, "float32") == [Level(CPU, "float32")]


def test_with_enough_memory_nothing_changes() -> None:
    machine = Machine({FLOAT16: 99})
    engine = machine.engine()
    assert texts(engine, *range(1, 21)) == said(*range(1, 21))
    assert [len(batch) for batch in machine.engines[FLOAT16].batches] == [GPU_BATCH, 4]
    assert (machine.steps, machine.used, engine.max_batch) == ([], {FLOAT16: 20}, GPU_BATCH)
    assert (engine.model_name, engine.level) == ("fake", FLOAT16)


def test_a_batch_that_does_not_fit_is_halved_and_the_size_remembered() -> None:
    machine = Machine({FLOAT16: 3})
    engine = machine.engine(max_batch=12)
    assert texts(engine, *range(1, 13)) == said(*range(1, 13))
    assert [len(batch) for batch in machine.engines[FLOAT16].batches] == [12, 6, 3, 3, 3, 3]
    assert [(step.kind, step.max_batch) for step in machine.steps] == [("batch", 6), ("batch", 3)]
    assert texts(engine, 1, 2, 3, 4) == said(1, 2, 3, 4)
    assert [len(batch) for batch in machine.engines[FLOAT16].batches[6:]] == [3, 1]
    assert engine.max_batch == 3
    assert machine.used == {FLOAT16: 16}


def test_rows_that_do_not_fit_alone_are_decoded_as_int8_in_larger_batches() -> None:
    machine = Machine({FLOAT16: 0, INT8: 99})
    engine = machine.engine(max_batch=2)
    assert texts(engine, 1, 2, 3) == said(1, 2, 3)
    assert machine.loaded == [FLOAT16, INT8]
    assert [(step.kind, step.level, step.max_batch) for step in machine.steps] == [
        ("batch", FLOAT16, 1), ("lighter", INT8, 2),
    ]  # fmt: skip
    assert machine.engines[INT8].batches == [[1, 2], [3]]
    assert machine.engines[FLOAT16].closed
    assert machine.used == {INT8: 3}


def test_rows_that_do_not_fit_the_gpu_are_decoded_on_the_cpu_one_by_one() -> None:
    machine = Machine({FLOAT16: 0, INT8: 0, ON_CPU: 99})
    engine = machine.engine(max_batch=4)
    assert texts(engine, 1, 2) == said(1, 2)
    assert [step.kind for step in machine.steps] == ["batch", "lighter", "batch", "cpu"]
    assert engine.level == ON_CPU
    assert engine.max_batch == 1
    assert machine.engines[ON_CPU].batches == [[1], [2]]


def test_a_level_that_cannot_be_loaded_is_skipped() -> None:
    machine = Machine({FLOAT16: 0, ON_CPU: 99})
    engine = machine.engine(max_batch=1)
    assert texts(engine, 1) == said(1)
    assert machine.loaded == [FLOAT16, INT8, ON_CPU]
    assert [step.kind for step in machine.steps] == ["cpu"]


def test_an_error_on_the_cpu_is_the_rows() -> None:
    machine = Machine({ON_CPU: 0})
    engine = machine.engine(levels=[ON_CPU])
    with pytest.raises(RuntimeError, match="out of memory"):
        engine.transcribe_batch(rows(1))
    assert machine.steps == []


def test_an_error_that_is_not_about_memory_changes_nothing() -> None:
    machine = Machine({FLOAT16: 99})
    engine = machine.engine()
    machine.engines[FLOAT16].broken = frozenset({2})
    with pytest.raises(RuntimeError, match="broken audio"):
        engine.transcribe_batch(rows(1, 2))
    assert texts(engine, 1, 3) == said(1, 3)
    assert machine.steps == []


def test_after_all_levels_failed_the_next_rows_try_again() -> None:
    machine = Machine({FLOAT16: 0})
    engine = machine.engine(max_batch=1)
    for _ in range(2):
        with pytest.raises(EngineError, match="nothing runs on cpu"):
            engine.transcribe_batch(rows(1))
        machine.fits.pop(FLOAT16, None)
    machine.fits[INT8] = 99
    assert texts(engine, 1) == said(1)
    assert machine.loaded == [FLOAT16, INT8, ON_CPU, FLOAT16, INT8, ON_CPU, FLOAT16, INT8]


def test_windows_are_known_while_there_is_no_engine() -> None:
    engine = Machine({FLOAT16: 0}).engine(max_batch=1)
    with pytest.raises(EngineError):
        engine.transcribe_batch(rows(1))
    assert engine.window_s(rows(1)[0]) == 10


async def test_of_several_threads_one_changes_the_level_for_all() -> None:
    """All are inside the engine when it runs out of memory; the weights are freed when the last one has left."""
    machine = Machine({FLOAT16: 0, INT8: 99})
    engine = machine.engine(max_batch=1)
    gate = machine.engines[FLOAT16].gate
    gate.clear()
    with ThreadPoolExecutor(4) as pool:
        work = [pool.submit(texts, engine, level) for level in range(1, 5)]
        try:
            await until(lambda: machine.engines[FLOAT16].running == 4)
        finally:
            gate.set()
        assert [each.result(10) for each in work] == [[text] for text in said(1, 2, 3, 4)]
    assert machine.loaded == [FLOAT16, INT8]
    assert machine.used == {INT8: 4}


def test_many_threads_lose_no_row_on_the_way_down() -> None:
    machine = Machine({FLOAT16: 2, INT8: 0, ON_CPU: 99})
    engine = machine.engine(max_batch=8)
    started = threading.Barrier(8)

    def hear(first: int) -> list[str]:
        started.wait(10)
        heard = texts(engine, *range(first, first + 20))
        machine.engines[FLOAT16].fits = 0
        return heard

    with ThreadPoolExecutor(8) as pool:
        firsts = [1 + 20 * number for number in range(8)]
        heard = list(pool.map(hear, firsts, timeout=30))
    assert heard == [said(*range(first, first + 20)) for first in firsts]
    assert sum(machine.used.values()) == 160
    assert texts(engine, 1, 2) == said(1, 2)
    assert engine.level == ON_CPU


def test_a_gpu_that_cannot_be_used_at_the_start_is_an_error() -> None:
    with pytest.raises(EngineError, match="nothing runs on cuda:0 as float16"):
        Machine({ON_CPU: 99}).engine()


def test_on_any_error_the_first_usable_level_is_loaded() -> None:
    machine = Machine({ON_CPU: 99})
    engine = machine.engine(max_batch=8, on_any_error=True)
    assert engine.level == ON_CPU
    assert engine.max_batch == 1
    assert [step.kind for step in machine.steps] == ["cpu"]


def test_without_a_usable_level_the_last_error_is_raised() -> None:
    with pytest.raises(EngineError, match="nothing runs on cpu"):
        Machine({}).engine(on_any_error=True)


def test_weights_that_do_not_fit_at_the_start_are_loaded_as_int8() -> None:
    machine = Machine({FLOAT16: -1, INT8: 99})
    assert machine.engine().level == INT8
    assert [step.kind for step in machine.steps] == ["lighter"]


class ExhaustedEngine(Engine):
    """The real engine, whose decoder runs out of memory."""

    def transcribe_batch(self, rows: Sequence[Row]) -> list[Transcription]:
        raise RuntimeError("CUDA failed with error out of memory")


@pytest.mark.slow
def test_the_real_engine_frees_its_weights_before_another_is_loaded(tmp_path: Path) -> None:
    model = resolve_model("base", tmp_path)
    high, low = Level(CPU, "float32"), Level(CPU, "int8")
    engines: list[Engine] = []

    def load(level: Level) -> Engine:
        kind = ExhaustedEngine if level == high else Engine
        engines.append(kind(model.path, name=model.name, compute_type=level.compute_type))
        return engines[-1]

    engine = FallbackEngine(load, [high, low])
    sound = (0.01 * np.random.default_rng(1).standard_normal(16_000)).astype(np.float32)
    row = Row(audio=sound, voiced=[(0.0, 1.0)], language="en")
    assert engine.transcribe_batch([row]) == engines[1].transcribe_batch([row])
    with pytest.raises(AttributeError):
        Engine.transcribe_batch(engines[0], [row])
    assert engine.window_s(row) == engines[0].window_s(row) == 10
