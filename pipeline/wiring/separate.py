"""The separate stage: audio of calls in, utterances out. It also ends calls whose producer has gone away."""

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

from pipeline.runtime.decoding import decode_audio
from pipeline.wiring.consumer_group import ConsumerGroup
from pipeline.wiring.stage import Ready, StageWiring, Topic
from schemas import topics
from schemas.topics import Lane

if TYPE_CHECKING:
    from pipeline.wiring.context import WiringContext
    from stages.separate.decoder import Decoder
    from stages.separate.speech import VoiceActivityModel
    from stages.separate.stage import SeparateStage

GROUP: Final = ConsumerGroup(
    name="separate",
    reads=(topics.AUDIO,),
    decoder=decode_audio,
    progress=topics.UTTERANCES,
    budget_bytes=8_000_000,
)


async def run(context: "WiringContext", ready: Ready) -> None:
    from pipeline.runtime.idle_calls import IdleWatch
    from stages.separate.decoding.pool import DecoderPool
    from stages.separate.speech import load_voice_activity_model

    vad = await asyncio.to_thread(load_voice_activity_model)
    ready()
    settings = context.settings
    with contextlib.closing(DecoderPool()) as decoder:
        async with asyncio.TaskGroup() as group:
            for lane in GROUP.lanes:
                stage = separate_stage(vad, lane, decoder, late_s=settings.late_s)
                runner = context.call_runner(stage, GROUP, lane)
                watch = IdleWatch(context.bus, runner, idle_s=settings.idle_s, late_s=settings.late_s)
                group.create_task(runner.run())
                group.create_task(watch.run())


def separate_stage(vad: "VoiceActivityModel", lane: Lane, decoder: "Decoder", *, late_s: float) -> "SeparateStage":
    """Return the stage of a lane: utterances of recordings go out in packs."""
    from stages.separate.endpointing import RECORDED, EndpointingSettings
    from stages.separate.stage import SeparateStage

    endpointing = EndpointingSettings() if lane == "live" else RECORDED
    return SeparateStage(vad, endpointing, lane=lane, late_s=late_s, decoder=decoder)


WIRING: Final = StageWiring(
    name="separate",
    groups=(GROUP,),
    writes=(
        Topic(name=topics.UTTERANCES, share=0.1, frees=True),
        Topic(name=topics.UTTERANCES_BATCH, share=0.1, frees=True),
    ),
    run=run,
)
