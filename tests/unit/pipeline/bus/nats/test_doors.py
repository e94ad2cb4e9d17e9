"""What producers may fill of a store, given what else it holds."""

import pytest

from pipeline.bus.nats.space import MARGIN, TEXT_PER_AUDIO, Level, doors
from pipeline.bus.nats.subjects import stream_name
from pipeline.wiring import topology
from schemas import topics

STORE_BYTES = 20_000_000_000
SPECS = {
    stream_name(spec.name): spec
    for spec in topology.topic_specs(partitions=8, retention_days=7, store_bytes=STORE_BYTES)
}
SHARES = {"calls-audio": int(0.28 * STORE_BYTES), "calls-audio-batch": int(0.18 * STORE_BYTES)}
EMPTY = {name: Level(0, spec.max_bytes) for name, spec in SPECS.items()}


def holding(**held_bytes: float) -> dict[str, Level]:
    """Return the levels of a store that holds parts of its size on topics: `segments=0.1`."""
    changed = {
        f"calls-{topic}": Level(int(part * STORE_BYTES), SPECS[f"calls-{topic}"].max_bytes)
        for topic, part in held_bytes.items()
    }
    return EMPTY | changed


def test_an_empty_store_gives_producers_their_shares() -> None:
    assert doors(SPECS, EMPTY, STORE_BYTES) == SHARES


def test_the_shares_of_an_empty_store_leave_room_for_the_text_of_their_audio() -> None:
    limits = sum(spec.max_bytes or 0 for spec in SPECS.values())
    audio = sum(SHARES.values())
    assert limits + TEXT_PER_AUDIO * audio < (1 - MARGIN) * STORE_BYTES


@pytest.mark.parametrize("text", [0.1, 0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("topic", ["transcripts", "status", "segments"])
def test_full_doors_leave_room_for_the_text_of_their_audio(topic: str, text: float) -> None:
    levels = holding(**{topic: text})
    found = doors(SPECS, levels, STORE_BYTES)
    limits = sum(level.max_bytes or 0 for name, level in levels.items() if name not in found)
    audio = sum(found.values())
    assert audio < sum(SHARES.values())
    assert audio <= 2 or limits + text * STORE_BYTES + (1 + TEXT_PER_AUDIO) * audio <= STORE_BYTES


def test_what_producers_have_sent_does_not_close_their_door() -> None:
    assert doors(SPECS, holding(audio=0.28), STORE_BYTES) == SHARES


def test_a_topic_beyond_its_limit_counts_with_what_it_holds() -> None:
    assert doors(SPECS, holding(utterances=0.5), STORE_BYTES)["calls-audio"] < SHARES["calls-audio"]


def test_topics_that_outsiders_read_are_never_freed() -> None:
    freed = {spec.name for spec in SPECS.values() if spec.frees}
    assert freed == {
        topics.AUDIO,
        topics.AUDIO_BATCH,
        topics.UTTERANCES,
        topics.UTTERANCES_BATCH,
        topics.SEGMENTS,
    }


def test_records_wait_for_every_stage_that_calls_need_and_for_no_optional_one() -> None:
    readers = {spec.name: {reader.group for reader in spec.readers} for spec in SPECS.values()}
    assert readers[topics.AUDIO] == {"separate"}
    assert readers[topics.TRANSCRIPTS] == {"summarize", "sink"}
    assert readers[topics.STATUS] == {"sink"}
    assert readers[topics.DEFERRED] == readers[topics.PARTIALS] == readers[topics.DEAD_LETTERS] == set()
