"""The sink: transcripts, summaries and the ledger into the warehouse. Its process owns the data directory."""

from typing import TYPE_CHECKING, Final

from pipeline.wiring.stage import ConsumerGroup, Ready, StageWiring
from schemas import topics

if TYPE_CHECKING:
    from pipeline.wiring.context import WiringContext


async def run(context: "WiringContext", ready: Ready) -> None:
    from stages.sink.stage import SinkStage

    warehouse = context.warehouse
    assert warehouse is not None
    runner = context.batch_runner(WIRING, SinkStage(warehouse.tables), warehouse.writer)
    ready()
    await runner.run()


WIRING: Final = StageWiring(
    name="sink",
    groups=(ConsumerGroup(name="sink", reads=(topics.TRANSCRIPTS, topics.SUMMARIES, topics.STATUS)),),
    budget_bytes=8_000_000,
    owns_data=True,
    run=run,
)
