"""What the settings load, on a machine with as many GPUs as a test says."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import ConfigurationError, ModelError
from pipeline.settings import Settings
from pipeline.telemetry.metrics import Metrics
from pipeline.wiring import engines
from pipeline.wiring.engines import asr_devices, load_engine
from pipeline.wiring.weights import ResolvedModel
from schemas.segments import Word
from stages.transcribe.engine.alignment import AligningEngine
from stages.transcribe.engine.devices import GPU_BATCH, Device, visible_gpus
from stages.transcribe.engine.protocol import EngineError, Row, Transcription
from tests.support.models.alignment import write_model

ROW = Row(audio=np.zeros(16_000, np.float32), voiced=[(0.0, 1.0)], language="en")


class FakeEngine:
    """In place of Whisper. `memory` holds how many rows fit each place at once; where none is named nothing runs."""

    languages = frozenset({"en"})
    memory: dict[str, int]

    def __init__(self, path: Path, *, name: str, device: Device, compute_type: str, **more: Any) -> None:
        self._place = f"{device} {compute_type}"
        if self._place not in self.memory:
            raise EngineError(f"nothing runs on {self._place}")
        self.model_name = name
        self.max_batch = device.max_batch

    def close(self) -> None: ...

    def window_s(self, row: Row) -> int:
        return 30

    def transcribe_batch(self, rows: Sequence[Row]) -> list[Transcription]:
        if len(rows) > self.memory[self._place]:
            raise RuntimeError("CUDA failed with error out of memory")
        word = Word(text="one", start_s=0.0, end_s=0.5, probability=0.9)
        said = Transcription(
            text="one", words=[word], language=str(rows[0].language), average_logprob=0.0, no_speech_probability=0.0
        )
        return [said] * len(rows)


Machine = Callable[[int, dict[str, int]], None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    """Say what the machine has: how many GPUs are seen, and how many rows fit into the memory of each place."""

    def has(n_gpus: int, memory: dict[str, int]) -> None:
        monkeypatch.setattr(engines, "visible_gpus", lambda: n_gpus)
        monkeypatch.setattr(engines, "Engine", type("Engine", (FakeEngine,), {"memory": memory}))

    model = ResolvedModel(path=tmp_path, name="base", source="a test", sha256="0" * 64, size_bytes=7, verified=True)
    monkeypatch.setattr(engines, "resolve_model", lambda name, cache: model)
    return has


def settings(tmp_path: Path, **values: Any) -> Settings:
    return Settings(data=tmp_path, **({"align_model": None} | values))


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"callstream_{name}", labels)


def test_a_cpu_transcribes_row_by_row_and_the_load_is_in_the_metrics(machine: Machine, tmp_path: Path) -> None:
    machine(0, {"cpu int8": 1})
    metrics = Metrics()
    engine = load_engine(settings(tmp_path), metrics)
    assert (engine.model_name, engine.max_batch) == ("base", 1)
    engine.transcribe_batch([ROW, ROW])
    assert value(metrics, "asr_rows_total", device="cpu", compute_type="int8") == 2
    assert value(metrics, "model_loads_total", model="base") == 1
    assert value(metrics, "model_bytes", model="base") == 7
    load_s = value(metrics, "model_load_seconds", model="base")
    assert load_s is not None
    assert load_s > 0


def test_a_batch_has_the_size_that_the_settings_name(machine: Machine, tmp_path: Path) -> None:
    machine(0, {"cuda:0 float16": 99})
    assert load_engine(settings(tmp_path, device="cuda"), Metrics()).max_batch == GPU_BATCH
    assert load_engine(settings(tmp_path, device="cuda", asr_batch=4), Metrics()).max_batch == 4


def test_several_gpus_share_the_rows(machine: Machine, tmp_path: Path) -> None:
    machine(3, {"cuda:0 float16": 99, "cuda:1 float16": 99, "cuda:2 float16": 99})
    assert [str(device) for device in asr_devices(settings(tmp_path, device="cuda:all"))] == [
        "cuda:0", "cuda:1", "cuda:2",
    ]  # fmt: skip
    metrics = Metrics()
    engine = load_engine(settings(tmp_path, device="cuda:1,cuda:2"), metrics)
    assert len(engine.transcribe_batch([ROW] * 5)) == 5
    assert value(metrics, "model_loads_total", model="base") == 2
    assert value(metrics, "asr_rows_total", device="cuda:1", compute_type="float16") == 5


def test_a_gpu_without_memory_goes_down_its_ladder_and_each_step_is_counted(machine: Machine, tmp_path: Path) -> None:
    machine(1, {"cuda:0 float16": 0, "cuda:0 int8_float16": 0, "cpu int8": 1})
    metrics = Metrics()
    engine = load_engine(settings(tmp_path, device="cuda", asr_batch=2), metrics)
    assert [done.text for done in engine.transcribe_batch([ROW, ROW, ROW])] == ["one"] * 3
    for step, times in {"batch": 2, "lighter": 1, "cpu": 1}.items():
        assert value(metrics, "asr_steps_down_total", device="cuda:0", step=step) == times
    assert value(metrics, "asr_rows_total", device="cpu", compute_type="int8") == 3
    assert value(metrics, "model_loads_total", model="base") == 3


def test_auto_makes_do_with_the_cpu_where_the_gpu_cannot_be_used(machine: Machine, tmp_path: Path) -> None:
    machine(1, {"cpu int8": 1})
    metrics = Metrics()
    assert load_engine(settings(tmp_path, device="auto"), metrics).max_batch == 1
    assert value(metrics, "asr_steps_down_total", device="cuda:0", step="cpu") == 1


@pytest.mark.slow
@pytest.mark.skipif(visible_gpus() > 0, reason="needs a machine without a GPU")
def test_the_real_engine_says_why_a_gpu_cannot_be_used_and_auto_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(EngineError, match="cannot be loaded on cuda:0 as float16: CUDA failed"):
        load_engine(settings(tmp_path, device="cuda"), Metrics())
    monkeypatch.setattr(engines, "visible_gpus", lambda: 1)
    metrics = Metrics()
    engine = load_engine(settings(tmp_path, device="auto"), metrics)
    assert [done.error for done in engine.transcribe_batch([ROW])] == [None]
    assert value(metrics, "asr_rows_total", device="cpu", compute_type="int8") == 1


def test_a_gpu_that_was_asked_for_and_cannot_be_used_is_an_error(machine: Machine, tmp_path: Path) -> None:
    machine(1, {"cpu int8": 1})
    with pytest.raises(EngineError, match="nothing runs on cuda:0 float16"):
        load_engine(settings(tmp_path, device="cuda"), Metrics())


@pytest.mark.parametrize(
    ("device", "align_model", "is_aligned"),
    [
        ("cuda", "gpu", True),
        ("cpu", "gpu", False),
        ("auto", "gpu", False),
        ("cuda", None, False),
        ("cpu", "auto", True),
    ],
)
def test_words_are_aligned_where_a_gpu_transcribes_unless_the_settings_say_otherwise(
    machine: Machine, tmp_path: Path, device: str, align_model: str | None, is_aligned: bool
) -> None:
    memory = {"cpu int8": 1} | ({"cuda:0 float16": 99} if device == "cuda" else {})
    machine(1, memory)
    engine = load_engine(settings(tmp_path, device=device, align_model=align_model), Metrics())
    assert isinstance(engine, AligningEngine) == is_aligned
    assert Settings(data=tmp_path).align_model == "gpu"


def test_the_engine_is_the_one_that_the_settings_name(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(0, {})
    monkeypatch.setattr(engines, "WhisperXEngine", type("WhisperXEngine", (FakeEngine,), {"memory": {"cpu int8": 1}}))
    assert load_engine(settings(tmp_path, engine="whisperx"), Metrics()).model_name == "base"
    with pytest.raises(EngineError, match="nothing runs"):
        load_engine(settings(tmp_path), Metrics())


def test_aligners_are_unloaded_for_one_another_within_the_memory_for_models(machine: Machine, tmp_path: Path) -> None:
    machine(1, {"cpu int8": 1})
    english, german = (str(write_model(tmp_path / language)) for language in ("en", "de"))
    size_bytes = (tmp_path / "en" / "model.safetensors").stat().st_size
    metrics = Metrics()
    aligned = settings(
        tmp_path, device="auto", align_model=f"en={english},de={german}", model_memory_gb=1.5 * size_bytes / 1e9
    )
    engine = load_engine(aligned, metrics)
    assert value(metrics, "model_bytes", model=english) == 0
    assert value(metrics, "model_unloads_total", model=english) == 1
    assert engine.transcribe_batch([ROW])[0].word_source == "alignment"
    assert value(metrics, "model_loads_total", model=english) == 2
    loaded_bytes = value(metrics, "model_bytes", model=english)
    assert loaded_bytes is not None
    assert 0.9 * size_bytes < loaded_bytes <= size_bytes
    assert value(metrics, "model_bytes", model=german) == 0


def test_unusable_weights_are_an_error_of_the_model(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"nothing")
    for device in ("cpu", "auto"):
        with pytest.raises(ModelError, match="not in CTranslate2's format") as caught:
            load_engine(settings(tmp_path, model=str(tmp_path), device=device), Metrics())
        assert caught.value.exit_code == 4


@pytest.mark.parametrize("named", [{"language": "yue"}, {"default_language": "yue"}])
def test_a_language_that_the_model_does_not_know_is_an_error(
    named: dict[str, str], machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(0, {"cpu int8": 1})
    load_engine(settings(tmp_path, **named), Metrics())  # an English model writes English whatever is asked
    monkeypatch.setattr(FakeEngine, "languages", frozenset({"en", "de"}))
    load_engine(settings(tmp_path, language="de"), Metrics())
    with pytest.raises(ConfigurationError, match="base does not know the language 'yue'"):
        load_engine(settings(tmp_path, **named), Metrics())
