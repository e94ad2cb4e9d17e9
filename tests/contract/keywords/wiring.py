"""The keyword stage, wired: all that the pipeline is told of it."""

from typing import Final

from pipeline.runtime.decoding import decode_transcript
from pipeline.wiring.consumer_group import ConsumerGroup
from pipeline.wiring.context import WiringContext
from pipeline.wiring.stage import Ready, StageWiring, Topic
from schemas import topics
from tests.contract.keywords.stage import KEYWORDS, KeywordStage

GROUP: Final = ConsumerGroup(
    name="keywords",
    reads=(topics.TRANSCRIPTS,),
    decoder=decode_transcript,
    progress=KEYWORDS,
    budget_bytes=1_000_000,
)


async def run(context: WiringContext, ready: Ready) -> None:
    ready()
    await context.call_runner(KeywordStage(("refund", "lawyer")), GROUP).run()


WIRING: Final = StageWiring(
    name="keywords",
    groups=(GROUP,),
    writes=(Topic(name=KEYWORDS, outside_readers=("consumers",)),),
    in_order=True,
    run=run,
)
