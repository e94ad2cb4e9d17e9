"""Names of the topics. Partitions, retention and readers are in `pipeline.wiring.topology`."""

from typing import Final, Literal

AUDIO: Final = "calls.audio"
AUDIO_BATCH: Final = "calls.audio.batch"
UTTERANCES: Final = "calls.utterances"
UTTERANCES_BATCH: Final = "calls.utterances.batch"
SEGMENTS: Final = "calls.segments"
PARTIALS: Final = "calls.partials"
TRANSCRIPTS: Final = "calls.transcripts"
SUMMARIES: Final = "calls.summaries"
DEFERRED: Final = "calls.deferred"
STATUS: Final = "calls.status"
DEAD_LETTERS: Final = "calls.dead-letters"

Lane = Literal["live", "batch"]
"""Live calls and backfill. The audio and utterance topics exist once for each lane."""

_BATCH_OF: Final = {AUDIO: AUDIO_BATCH, UTTERANCES: UTTERANCES_BATCH}


def in_lane(topic: str, lane: Lane) -> str:
    """Return the topic for `topic`'s records in `lane`. Topics without lanes are returned as they are."""
    return _BATCH_OF.get(topic, topic) if lane == "batch" else topic


def lane_of(topic: str) -> Lane:
    """Return the lane of a topic; a topic that both lanes share counts as live."""
    return "batch" if topic in _BATCH_OF.values() else "live"
