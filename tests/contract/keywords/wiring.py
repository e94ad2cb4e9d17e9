"""The keyword stage, wired: all that the pipeline is told of it."""

from typing import Final

from pipeline.runtime.decoding import decode_transcript
from pipeline.wiring.context import WiringContext
from pipeline.wiring.stage import ConsumerGroup, Ready, StageWiring, Topic
from schemas import topics
from tests.contract.keywords.stage import KEYWORDS, KeywordStage


async def run(context: WiringContext, ready: Ready) -> None:
    ready()
    await context.call_runner(WIRING, KeywordStage(("refund", "lawyer"))).run()


WIRING: Final = StageWiring(
    name="keywords",
    groups=(ConsumerGroup(name="keywords", reads=(topics.TRANSCRIPTS,), decoder=decode_transcript, progress=KEYWORDS),),
    writes=(Topic(name=KEYWORDS, outside_readers=("consumers",)),),
    budget_bytes=1_000_000,
    in_order=True,
    run=run,
)
