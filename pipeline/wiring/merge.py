"""The merge stage: segments in, turns and the completed transcript out."""

from typing import TYPE_CHECKING, Final

from pipeline.runtime.decoding import stage_records
from pipeline.wiring.consumer_group import ConsumerGroup
from pipeline.wiring.stage import Ready, StageWiring, Topic
from schemas import topics
from schemas.segments import SegmentRecord

if TYPE_CHECKING:
    from pipeline.wiring.context import WiringContext

GROUP: Final = ConsumerGroup(
    name="merge",
    reads=(topics.SEGMENTS,),
    decoder=stage_records(SegmentRecord),
    progress=topics.TRANSCRIPTS,
    budget_bytes=4_000_000,
)


async def run(context: "WiringContext", ready: Ready) -> None:
    from stages.merge.stage import MergeStage

    ready()
    await context.call_runner(MergeStage(), GROUP).run()


WIRING: Final = StageWiring(
    name="merge",
    groups=(GROUP,),
    writes=(Topic(name=topics.TRANSCRIPTS, outside_readers=("consumers",)),),
    in_order=True,
    run=run,
)
