"""The topics of a deployment, as they follow from the stages: who writes and reads each, how long it is kept, how much
it may hold.
"""

from collections.abc import Iterable
from typing import Final

import msgspec

from pipeline.bus.protocol import Subscription, TopicSpec
from pipeline.clock import SECONDS_PER_DAY
from pipeline.wiring.consumer_group import ConsumerGroup
from pipeline.wiring.stage import StageWiring, Topic
from pipeline.wiring.stage_list import STAGES
from schemas import topics

INCOMING: Final = (
    Topic(name=topics.AUDIO, share=0.28, frees=True),
    Topic(name=topics.AUDIO_BATCH, share=0.18, frees=True),
)
"""Written by producers. Together with the shares of utterances (0.2) and dead letters (0.04) they leave 0.3 of the
store to text, which is at most half as large as its audio (`pipeline.bus.nats.space`)."""
SHARED: Final = (
    Topic(name=topics.STATUS, outside_readers=("consumers",)),
    Topic(name=topics.DEAD_LETTERS, keep=4.0, share=0.04, drops_oldest=True, outside_readers=("operator",)),
)
"""Written by every stage."""


class TopicRow(msgspec.Struct, frozen=True):
    """A topic with its writers and readers, as an operator is shown it."""

    topic: Topic
    written_by: str
    read_by: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.topic.name


def topic_rows(stages: Iterable[StageWiring] = STAGES) -> list[TopicRow]:
    """Return all topics of a deployment with these stages, in the order of the data flow."""
    stages = tuple(stages)
    written = [
        *((topic, "producers") for topic in INCOMING),
        *((topic, stage.name) for stage in stages for topic in stage.writes),
        *((topic, "all stages") for topic in SHARED),
    ]
    return [
        TopicRow(topic, writer, (*_readers(topic.name, stages), *topic.outside_readers)) for topic, writer in written
    ]


def topic_specs(
    *, partitions: int, retention_days: float, store_bytes: int, stages: Iterable[StageWiring] = STAGES
) -> list[TopicSpec]:
    """Return what `Bus.ensure_topics` is given for a deployment. No record is kept for an optional stage to read."""
    stages = tuple(stages)
    reads = subscriptions(stages)
    awaited = subscriptions(stage for stage in stages if not stage.optional)
    return [
        TopicSpec(
            name=topic.name,
            partitions=partitions,
            retention_s=min(topic.keep_s, retention_days * topic.keep * SECONDS_PER_DAY),
            max_bytes=int(store_bytes * topic.share) if topic.share else None,
            groups=tuple(read.group for read in reads if read.progress_topic == topic.name),
            readers=tuple(read for read in awaited if topic.name in read.topics and topic.kept_unread),
            writers=tuple(read for read in awaited if read.progress_topic == topic.name),
            frees=topic.frees,
            drops_oldest=topic.drops_oldest,
        )
        for topic in (row.topic for row in topic_rows(stages))
    ]


def groups_of(stages: Iterable[StageWiring] = STAGES) -> list[ConsumerGroup]:
    return [group for stage in stages for group in stage.groups]


def subscriptions(stages: Iterable[StageWiring] = STAGES) -> list[Subscription]:
    """Return what all groups of the stages read, lane by lane."""
    return [group.subscription(lane) for group in groups_of(stages) for lane in group.lanes]


def _readers(topic: str, stages: tuple[StageWiring, ...]) -> list[str]:
    return [
        group.name
        for group in groups_of(stages)
        if any(topic in group.subscription(lane).topics for lane in group.lanes)
    ]
