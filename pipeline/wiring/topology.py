"""The one table of topics: who writes and reads each, how long it is kept, how much it may hold."""

from math import inf
from typing import Final

import msgspec

from pipeline.bus.protocol import Subscription, TopicSpec
from schemas import topics
from schemas.topics import Lane

STAGES: Final = ("separate", "transcribe", "merge", "summarize", "sink")
SUMMARIZE_AGAIN: Final = "summarize-again"
"""The group in which the summarize stage reads what it put off."""
INDEX: Final = "index"
"""Fills the search index: not one of the five that a call needs."""
READERS: Final = (*STAGES, SUMMARIZE_AGAIN, INDEX)
LANES: Final[tuple[Lane, ...]] = ("live", "batch")


class TopicRow(msgspec.Struct, frozen=True):
    """One topic. `share` is its part of the store; the rest is left to topics without a share of their own.

    Only the audio topics are limited: they are where outsiders write. When they are full a producer is refused, and
    the stages behind them still have room to finish what was accepted.
    """

    name: str
    written_by: str
    read_by: tuple[str, ...]
    share: float | None = None
    keep: float = 1.0
    """Retention as a factor of the deployment's."""
    keep_s: float = inf
    """The longest retention in seconds, whatever the deployment's."""


TOPICS: Final = (
    TopicRow(topics.AUDIO, "producers", ("separate",), share=0.35),
    TopicRow(topics.AUDIO_BATCH, "producers", ("separate",), share=0.25),
    TopicRow(topics.UTTERANCES, "separate", ("transcribe",)),
    TopicRow(topics.UTTERANCES_BATCH, "separate", ("transcribe",)),
    TopicRow(topics.SEGMENTS, "transcribe", ("merge",)),
    TopicRow(topics.PARTIALS, "transcribe", ("consumers",), keep_s=3_600.0),
    TopicRow(topics.TRANSCRIPTS, "merge", ("summarize", "sink", INDEX, "consumers")),
    TopicRow(topics.SUMMARIES, "summarize", ("sink", "consumers")),
    TopicRow(topics.DEFERRED, "summarize", (SUMMARIZE_AGAIN,)),
    TopicRow(topics.STATUS, "all stages", ("sink", "consumers")),
    TopicRow(topics.DEAD_LETTERS, "all stages", ("operator",), keep=4.0),
)

_SECONDS_PER_DAY: Final = 86_400.0


def topic_specs(*, partitions: int, retention_days: float, store_bytes: int) -> list[TopicSpec]:
    """What `Bus.ensure_topics` is given for a deployment."""
    return [
        TopicSpec(
            name=row.name,
            partitions=partitions,
            retention_s=min(row.keep_s, retention_days * row.keep * _SECONDS_PER_DAY),
            max_bytes=int(store_bytes * row.share) if row.share else None,
            groups=tuple(read.group for read in subscriptions() if read.progress_topic == row.name),
        )
        for row in TOPICS
    ]


def subscription(stage: str, lane: Lane) -> Subscription:
    """What `stage`, one of `READERS`, reads in `lane`; behind the transcriber it reads both lanes' calls as `live`."""
    read = tuple(row.name for row in TOPICS if stage in row.read_by and topics.lane_of(row.name) == lane)
    written = next((row.name for row in TOPICS if row.written_by == stage and topics.lane_of(row.name) == lane), None)
    if stage == "transcribe":
        written = topics.SEGMENTS
    return Subscription(group=stage if lane == "live" else f"{stage}-{lane}", topics=read, progress_topic=written)


def subscriptions() -> list[Subscription]:
    """What all of `READERS` read, lane by lane."""
    return [subscription(stage, lane) for stage in READERS for lane in lanes_of(stage)]


def lanes_of(stage: str) -> tuple[Lane, ...]:
    """The lanes in which a stage has topics of its own."""
    return tuple(lane for lane in LANES if subscription(stage, lane).topics)
