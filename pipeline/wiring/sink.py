"""The sink: transcripts, summaries and the ledger into the warehouse. Its process owns the data directory."""

import asyncio
from typing import TYPE_CHECKING, Final

from pipeline.wiring.consumer_group import ConsumerGroup
from pipeline.wiring.stage import Ready, StageWiring
from schemas import topics

if TYPE_CHECKING:
    from pipeline.wiring.context import WiringContext

GROUP: Final = ConsumerGroup(
    name="sink",
    reads=(topics.TRANSCRIPTS, topics.SUMMARIES, topics.STATUS),
    budget_bytes=8_000_000,
)


async def run(context: "WiringContext", ready: Ready) -> None:
    from stages.sink.stage import SinkStage

    warehouse, health = context.warehouse, context.health
    assert warehouse is not None
    loop = asyncio.get_running_loop()

    def report_lost() -> None:
        if health is not None:
            loop.call_soon_threadsafe(health.report_lost, warehouse.tables.losses())

    await loop.run_in_executor(warehouse.writer, report_lost)
    runner = context.batch_runner(SinkStage(warehouse.tables, lost=report_lost), GROUP, warehouse.writer)
    ready()
    await runner.run()


WIRING: Final = StageWiring(
    name="sink",
    groups=(GROUP,),
    owns_data=True,
    run=run,
)
