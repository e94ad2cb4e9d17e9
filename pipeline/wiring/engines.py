"""Load the transcriber's speech engine from the settings. Load times and devices are in the metrics."""

import time
from functools import partial

import structlog

from pipeline.errors import ConfigurationError, ModelError
from pipeline.settings import Settings
from pipeline.telemetry.metrics import Metrics
from pipeline.wiring.weights import ResolvedModel, models_dir, resolve_model
from stages.transcribe.engine.alignment import Aligners, AligningEngine
from stages.transcribe.engine.architecture import WeightsError
from stages.transcribe.engine.device_pool import DevicePool
from stages.transcribe.engine.devices import Device, devices_of, visible_gpus
from stages.transcribe.engine.fallback import FallbackEngine, Level, LoadedEngine, StepDown, levels_of
from stages.transcribe.engine.model_cache import CacheObserver
from stages.transcribe.engine.protocol import SpeechEngine
from stages.transcribe.engine.whisper import Engine
from stages.transcribe.engine.whisperx import WhisperXEngine
from stages.transcribe.language import language_code


def asr_devices(settings: Settings) -> list[Device]:
    """Return the devices that transcribe. The transcriber's other models run on the first."""
    counted = settings.device in ("auto", "cuda:all")
    return devices_of(settings.device, visible_gpus() if counted else 0)


def load_engine(settings: Settings, metrics: Metrics) -> SpeechEngine:
    """Load the engine. Takes seconds: call it from a thread.

    Raises ModelError for unusable weights, EngineError for an unusable device (with `auto`, an unusable CPU), and
    ConfigurationError for a language that the model does not know.
    """
    model = resolve_model(settings.model, models_dir(settings.data))
    try:
        engines = [_with_fallback(settings, metrics, model, device) for device in asr_devices(settings)]
    except WeightsError as error:
        raise ModelError(str(error)) from error
    engine: SpeechEngine = engines[0] if len(engines) == 1 else DevicePool(engines)
    _check_languages(settings, engine)
    on = engines[0].level.device
    if settings.align_model is None or (settings.align_model == "gpu" and on.kind == "cpu"):
        return engine
    # Aligners follow the engine if it fell back from its GPU; otherwise torch decides what auto means.
    device = "auto" if settings.device == "auto" and on.kind == "cuda" else str(on)
    return AligningEngine(engine, _load_aligners(settings, metrics, device))


def _check_languages(settings: Settings, engine: SpeechEngine) -> None:
    """Refuse a language that a multilingual model does not know: it would write in any. Others write what they can."""
    for named in (settings.language, settings.default_language):
        if len(engine.languages) > 1 and named is not None and language_code(named, engine.languages) is None:
            raise ConfigurationError(
                f"the model {engine.model_name} does not know the language {named!r}: name another language or model"
            )


def _with_fallback(settings: Settings, metrics: Metrics, model: ResolvedModel, device: Device) -> FallbackEngine:
    return FallbackEngine(
        partial(_load_level, settings, metrics, model),
        levels_of(device, settings.compute_type),
        max_batch=settings.asr_batch,
        on_any_error=settings.device == "auto",
        stepped=partial(_count_step, metrics, device),
        used=partial(_count_rows, metrics),
    )


def _load_level(settings: Settings, metrics: Metrics, model: ResolvedModel, level: Level) -> LoadedEngine:
    began_s = time.monotonic()
    made = WhisperXEngine if settings.engine == "whisperx" else Engine
    engine = made(
        model.path,
        name=model.name,
        device=level.device,
        compute_type=level.compute_type,
        workers=settings.asr_workers,
        beam_size=settings.beam_size,
    )
    load_s = time.monotonic() - began_s
    MeteredModels(metrics).loaded(model.name, size_bytes=model.size_bytes, load_s=load_s)
    structlog.get_logger("callstream.engines").info(
        "model loaded", load_s=round(load_s, 1), on=str(level), said=model.sentence
    )
    return engine


def _count_step(metrics: Metrics, device: Device, step: StepDown) -> None:
    metrics.asr_steps_down.labels(str(device), step.kind).inc()


def _count_rows(metrics: Metrics, level: Level, n_rows: int) -> None:
    metrics.asr_rows.labels(str(level.device), level.compute_type).inc(n_rows)


def _load_aligners(settings: Settings, metrics: Metrics, device: str) -> Aligners:
    began_s = time.monotonic()
    models, budget_gb = settings.align_models(), settings.model_memory_gb
    aligners = Aligners(
        models,
        others=settings.align_model in ("auto", "gpu"),
        device=device,
        cache=models_dir(settings.data) / "alignment",
        budget_bytes=None if budget_gb is None else int(budget_gb * 1e9),
        observer=MeteredModels(metrics),
    )
    structlog.get_logger("callstream.engines").info(
        "alignment models loaded", models=models, load_s=round(time.monotonic() - began_s, 1)
    )
    return aligners


class MeteredModels(CacheObserver):
    """Reports loads and evictions to the metrics."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def loaded(self, name: str, *, size_bytes: int, load_s: float) -> None:
        self._metrics.model_loads.labels(name).inc()
        self._metrics.model_load_seconds.labels(name).set(load_s)
        self._metrics.model_bytes.labels(name).set(size_bytes)

    def unloaded(self, name: str) -> None:
        self._metrics.model_unloads.labels(name).inc()
        self._metrics.model_bytes.labels(name).set(0)
