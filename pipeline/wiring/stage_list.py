"""The stages of callstream, in the order of the data flow."""

from typing import Final

from pipeline.errors import InputError
from pipeline.settings import Settings
from pipeline.wiring import index, merge, separate, sink, summarize, transcribe
from pipeline.wiring.stage import StageWiring

STAGES: Final[tuple[StageWiring, ...]] = (
    separate.WIRING,
    transcribe.WIRING,
    merge.WIRING,
    summarize.WIRING,
    sink.WIRING,
    index.WIRING,
)
REQUIRED: Final = tuple(wiring for wiring in STAGES if not wiring.optional)
"""The stages that every call needs."""
REQUIRED_NAMES: Final = tuple(wiring.name for wiring in REQUIRED)


def enabled_stages(settings: Settings) -> tuple[StageWiring, ...]:
    """Return the stages that `up` runs. Raises ConfigurationError for one that must run and cannot."""
    return tuple(wiring for wiring in STAGES if wiring.enabled is None or wiring.enabled(settings))


def stage_named(name: str) -> StageWiring:
    """Raises InputError, naming the stages that there are."""
    for wiring in STAGES:
        if wiring.name == name:
            return wiring
    raise InputError(f"there is no stage {name!r}: it is one of {', '.join(wiring.name for wiring in STAGES)}")
