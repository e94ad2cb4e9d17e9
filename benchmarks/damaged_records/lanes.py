"""The lanes that are fed with mutants, as a process of their own: a crash of it is seen by its end.

separate, transcribe (with a hash instead of a model), merge and sink, on an embedded server or on CALLSTREAM_BUS. Its
metrics have a counter of their own: how far the records of the audio topics came.

    CALLSTREAM_DATA=DIR python -m benchmarks.damaged_records.lanes
"""

import asyncio
import contextlib
import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final
from unittest.mock import patch

from prometheus_client import Counter

from benchmarks.harness import hash_transcriber
from benchmarks.harness.hash_transcriber import hashing
from pipeline.bus.nats import fair_share, leases
from pipeline.bus.opening import KAFKA
from pipeline.cli.signals import until_stopped
from pipeline.runtime.call_runner import StageRunner
from pipeline.settings import Settings
from pipeline.telemetry import logs
from pipeline.wiring.embedded import Embedded
from pipeline.wiring.stage_list import STAGES
from schemas import cloudevents
from stages.separate.admission import Admission

STAGE_NAMES: Final = ("separate", "transcribe", "merge", "sink")
LEASES_S: Final = 60.0
SESSION_S: Final = 35.0
"""Of the group on Kafka: below the timeout of a request, as Faust requires."""
STEPS: Final = "damaged_records_steps"


@contextlib.contextmanager
def counting(steps: Counter) -> Iterator[None]:
    """Count the steps of every record that the separate stage decodes and judges."""

    def counted(before: Callable[..., Any], entered: str, done: Callable[[Any], str | None]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            steps.labels(entered).inc()
            result = before(*arguments, **options)
            if (name := done(result)) is not None:
                steps.labels(name).inc()
            return result

        return call

    with contextlib.ExitStack() as stack:
        for owner, name, entered, done in (
            (cloudevents, "decode_audio_event", "record", lambda found: f"event {type(found.event).__name__}"),
            (cloudevents, "_structured", "body, structured", lambda _: None),
            (cloudevents, "_event", "body", lambda _: None),
            (Admission, "verdict", "judged", lambda verdict: f"verdict {verdict}"),
            (StageRunner, "reread", "read again", lambda _: None),
        ):
            stack.enter_context(patch.object(owner, name, counted(getattr(owner, name), entered, done)))
        yield


@contextlib.contextmanager
def patient(settings: Settings) -> Iterator[None]:
    """Let leases and sessions last a minute: where cores are short they would end without any mutant's doing."""
    lasting: list[tuple[Any, str, float]] = [
        (fair_share, "LEASE_S", LEASES_S),
        (leases, "LEASE_S", LEASES_S),
        (leases, "LAPSE_S", LEASES_S),
    ]
    if settings.bus is not None and settings.bus.startswith(KAFKA):
        from pipeline.bus.kafka import faust_app

        lasting = [(faust_app, "SESSION_S", SESSION_S)]
    with contextlib.ExitStack() as stack:
        for module, name, seconds in lasting:
            stack.enter_context(patch.object(module, name, seconds))
        yield


async def serve(settings: Settings) -> None:
    stages = tuple(stage for stage in STAGES if stage.name in STAGE_NAMES)
    embedded = Embedded(settings, stages=stages)
    steps = Counter(STEPS, "Steps of records of the audio topics", ["step"], registry=embedded.metrics.registry)
    with patient(settings), counting(steps), hashing(), patch.object(hash_transcriber, "DELAY_S", (0.0, 0.0)):
        async with embedded:
            await embedded.worker.wait()


def main() -> None:
    settings = Settings.load()
    logs.configure("json", "warning", sys.stderr)
    logging.getLogger("callstream.publisher").setLevel(logging.ERROR)  # a line for each letter
    asyncio.run(until_stopped(serve(settings)))


if __name__ == "__main__":
    main()
