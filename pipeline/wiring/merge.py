"""The merge stage: segments in, turns and the completed transcript out."""

from typing import TYPE_CHECKING, Final

from pipeline.runtime.decoding import decode_stage_record
from pipeline.wiring.stage import ConsumerGroup, Ready, StageWiring, Topic
from schemas import topics

if TYPE_CHECKING:
    from pipeline.wiring.context import WiringContext


async def run(context: "WiringContext", ready: Ready) -> None:
    from stages.merge.stage import MergeStage

    ready()
    await context.call_runner(WIRING, MergeStage()).run()


WIRING: Final = StageWiring(
    name="merge",
    groups=(
        ConsumerGroup(name="merge", reads=(topics.SEGMENTS,), decoder=decode_stage_record, progress=topics.TRANSCRIPTS),
    ),
    writes=(Topic(name=topics.TRANSCRIPTS, outside_readers=("consumers",)),),
    budget_bytes=4_000_000,
    in_order=True,
    run=run,
)
