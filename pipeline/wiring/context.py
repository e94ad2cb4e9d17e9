"""What stages are built from: a bus, the settings, the metrics, and the runners made of them."""

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import msgspec

from pipeline.bus.protocol import Bus, Subscription
from pipeline.runtime.batch_runner import BatchRunner, BatchStage
from pipeline.runtime.call_runner import StageRunner
from pipeline.runtime.movement import Health, Movement
from pipeline.runtime.publisher import Publisher
from pipeline.settings import Settings
from pipeline.telemetry.metrics import Metrics
from pipeline.wiring.consumer_group import ConsumerGroup
from schemas.topics import Lane
from stages.protocol import CallStage

if TYPE_CHECKING:
    from pipeline.wiring.warehouse import Warehouse

PREFETCH_BYTES: Final = 8_000_000
"""The most that a lane of a stage holds of records that the bus has brought and the stage has not taken, over all
partitions: a stage that was away finds every partition full."""
LEAST_PREFETCH_BYTES: Final = 128_000
"""Of one partition, however many there are: fewer records at a time cost a request each."""


class WiringContext(msgspec.Struct, frozen=True):
    """Passed to `StageWiring.run`. `warehouse` is there in the process that owns the data directory."""

    bus: Bus
    settings: Settings
    metrics: Metrics
    warehouse: "Warehouse | None" = None
    health: Health | None = None
    """Told of groups that stand still."""

    def call_runner(self, stage: CallStage[Any], group: ConsumerGroup, lane: Lane = "live") -> StageRunner:
        """Return the runner of a stage that works call by call."""
        assert group.decoder is not None, f"the group {group.name} has no decoder"
        return StageRunner(
            self.bus,
            stage,
            subscription=self._subscription(group, lane),
            decoder=group.decoder,
            publisher=self._publisher(stage.name, lane),
            metrics=self.metrics,
            budget_bytes=group.budget_bytes,
            movement=self._movement(group, lane),
        )

    def batch_runner(
        self, stage: BatchStage, group: ConsumerGroup, writer: ThreadPoolExecutor, *, max_records: int = 1_000
    ) -> BatchRunner:
        """Return the runner of a stage that takes records of all calls in batches. `writer` has one thread."""
        return BatchRunner(
            self.bus,
            stage,
            subscription=self._subscription(group, "live"),
            publisher=self._publisher(stage.name, "live"),
            metrics=self.metrics,
            budget_bytes=group.budget_bytes,
            writer=writer,
            max_records=max_records,
            movement=self._movement(group, "live"),
        )

    def _movement(self, group: ConsumerGroup, lane: Lane) -> Movement:
        name = group.subscription(lane).group
        return Movement(name, self.health or Health(self.metrics), standstill_s=group.standstill_s)

    def _subscription(self, group: ConsumerGroup, lane: Lane) -> Subscription:
        read = group.subscription(lane)
        share = PREFETCH_BYTES // (len(read.topics) * self.settings.partitions)
        return msgspec.structs.replace(read, prefetch_bytes=max(LEAST_PREFETCH_BYTES, share))

    def _publisher(self, stage: str, lane: Lane) -> Publisher:
        return Publisher(self.bus, stage=stage, lane=lane, metrics=self.metrics)
