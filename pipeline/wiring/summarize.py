"""The summarize stage: transcripts in, summaries out; and what it put off while no language model answered."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Final

import msgspec

from pipeline.bus.protocol import Bus
from pipeline.runtime.decoding import decode_transcript, stage_records
from pipeline.wiring.consumer_group import ConsumerGroup
from pipeline.wiring.stage import Ready, StageWiring, Topic
from schemas import topics
from schemas.summaries import SummaryDeferred
from schemas.transcripts import COMPLETED_TYPE, TranscriptCompleted

if TYPE_CHECKING:
    from pipeline.wiring.context import WiringContext

GROUP: Final = ConsumerGroup(
    name="summarize",
    reads=(topics.TRANSCRIPTS,),
    decoder=decode_transcript,
    progress=topics.SUMMARIES,
    budget_bytes=8_000_000,
    standstill_s=900.0,  # a long call takes several answers of the language model
)
DEFERRED: Final = ConsumerGroup(
    name="summarize-again",
    reads=(topics.DEFERRED,),
    decoder=stage_records(SummaryDeferred),
    budget_bytes=500_000,  # some 1,400 calls of 6.7 KB in memory; further ones wait on the bus
    standstill_s=inf,  # it waits for the language model's server
)


async def run(context: "WiringContext", ready: Ready) -> None:
    from pipeline.wiring.llm import open_writer
    from stages.summarize.deferred import DeferredSummaryStage
    from stages.summarize.stage import SummarizeStage

    async with open_writer(context.settings, context.metrics) as writer:
        ready()
        stage = SummarizeStage(writer, rolling_turns=context.settings.summary_rolling)
        deferred = DeferredSummaryStage(writer, partial(_stored_transcripts, context.bus))
        async with asyncio.TaskGroup() as group:
            group.create_task(context.call_runner(stage, GROUP).run())
            group.create_task(context.call_runner(deferred, DEFERRED).run())


async def _stored_transcripts(bus: Bus, deferred: SummaryDeferred) -> AsyncIterator[TranscriptCompleted]:
    """See `stages.summarize.deferred.StoredTranscripts`."""
    start = (deferred.partition, deferred.position)
    async for record in bus.stored(topics.TRANSCRIPTS, key=deferred.call.key, start=start):
        if record.headers.get("ce_type") == COMPLETED_TYPE:
            try:
                completed = msgspec.json.decode(record.value, type=TranscriptCompleted)
            except (ValueError, RecursionError):  # rejected when the stage read it
                continue
            yield completed


WIRING: Final = StageWiring(
    name="summarize",
    groups=(GROUP, DEFERRED),
    writes=(
        Topic(name=topics.SUMMARIES, outside_readers=("consumers",)),
        Topic(name=topics.DEFERRED, kept_unread=False),
    ),
    in_order=True,
    run=run,
)
