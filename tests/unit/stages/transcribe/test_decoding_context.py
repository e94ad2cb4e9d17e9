"""The context of a call's utterances: settings in force, votes and overlaps that earlier utterances leave."""

import asyncio

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from schemas.utterances import CallChanged, Utterance
from stages.transcribe.decoding_context import (
    MAX_SETTINGS,
    CallContext,
    DecodingSettings,
    Pending,
    in_force,
    still_needed,
    with_newest,
)
from stages.transcribe.hard_cuts import NO_OVERLAP, Overlap
from stages.transcribe.language import LanguageVote
from tests.unit.stages.transcribe.records import CALL

settings_lists = st.lists(st.floats(0, 100), max_size=6).map(
    lambda times: [DecodingSettings(), *map(DecodingSettings, sorted(times))]
)


def test_the_settings_in_force_are_the_last_before_speech_begins() -> None:
    settings = [DecodingSettings(), DecodingSettings(5.0), DecodingSettings(9.0)]
    assert [in_force(settings, begin_s) for begin_s in (0.0, 4.9, 5.0, 8.0, 9.0, 100.0)] == [0, 0, 1, 1, 2, 2]


def test_of_two_changes_without_audio_between_them_the_later_one_counts() -> None:
    assert in_force([DecodingSettings(), DecodingSettings(5.0), DecodingSettings(5.0)], 6.0) == 2


@given(settings_lists, st.lists(st.floats(0, 100), min_size=1, max_size=3), st.floats(0, 100))
def test_settings_that_are_forgotten_concern_no_speech_that_can_follow(
    settings: list[DecodingSettings], heard_to_s: list[float], more_s: float
) -> None:
    kept = still_needed(settings, heard_to_s)
    begin_s = min(heard_to_s) + more_s
    assert kept[in_force(kept, begin_s)] == settings[in_force(settings, begin_s)]
    assert kept[-1] == settings[-1]


def test_only_so_many_settings_are_kept() -> None:
    settings = [DecodingSettings()]
    for second in range(1, 100):
        settings = with_newest(settings, DecodingSettings(float(second)))
    assert [one.from_s for one in settings] == [float(second) for second in range(100 - MAX_SETTINGS, 100)]


async def test_a_pending_value_reaches_all_that_wait_and_does_not_change() -> None:
    pending: Pending[int] = Pending()
    waiting = [asyncio.create_task(pending.get()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    assert pending.known(0) == 0
    pending.set(1)
    pending.set(2)
    assert await asyncio.gather(*waiting[1:]) == [1, 1]
    assert (pending.known(0), await Pending.of(3).get()) == (1, 3)


def context() -> CallContext:
    languages = frozenset({"en", "de"})
    return CallContext([DecodingSettings()], {}, languages=languages, language=None, hotwords=("Northwind",))


def utterance(start_s: float, *, channel: int = 0, after: bytes = b"") -> Utterance:
    return Utterance(
        call=CALL,
        seq=1,
        channel=channel,
        first_sample=int(start_s * 8000),
        sample_rate_hz=8000,
        pcm=b"\0\0" * 8000,
        voiced=[(start_s, start_s + 1.0)],
        cut="hard" if after else "pause",
        after=after,
    )


async def test_an_utterance_gets_the_vote_and_the_overlap_of_the_one_before() -> None:
    call = context()
    first, second = call.take(utterance(1.0, after=b"\0\0")), call.take(utterance(2.0))
    vote, overlap = LanguageVote("de"), Overlap(16_000, 1.5, "so far")
    first.next_vote.set(vote)
    first.next_overlap.set(overlap)
    assert (await second.vote.get(), await second.overlap.get()) == (vote, overlap)


async def test_an_overlap_is_for_the_next_utterance_of_its_channel_alone() -> None:
    call = context()
    call.take(utterance(1.0, after=b"\0\0"))
    assert await call.take(utterance(2.0, channel=1)).overlap.get() == NO_OVERLAP
    call.take(utterance(2.0))
    assert await call.take(utterance(3.0)).overlap.get() == NO_OVERLAP


async def test_a_vote_concerns_only_the_settings_that_it_was_made_in() -> None:
    call = context()
    call.change(CallChanged(call=CALL, seq=1, from_s=5.0, language="en"))
    late = call.take(utterance(1.0))
    late.next_vote.set(LanguageVote("de"))
    assert await call.take(utterance(6.0)).vote.get() == LanguageVote("en")
    assert await call.take(utterance(2.0)).vote.get() == LanguageVote("de")


async def test_a_snapshot_does_not_change_with_later_inputs() -> None:
    call = context()
    first = call.take(utterance(1.0, after=b"\0\0"))
    snapshot = call.snapshot()
    call.take(utterance(2.0)).next_vote.set(LanguageVote("en"))
    overlap = Overlap(16_000, 1.5, "so far")
    first.next_vote.set(LanguageVote("de"))
    first.next_overlap.set(overlap)
    assert [one.vote for one in snapshot.settings()] == [LanguageVote("de")]
    assert snapshot.overlaps() == {0: overlap}


def test_settings_are_encoded_as_in_earlier_checkpoints() -> None:
    stored = msgspec.msgpack.encode({"from_s": 5.0, "vote": {"locked": "de"}, "hotwords": ["Northwind"]})
    assert msgspec.msgpack.decode(stored, type=DecodingSettings) == DecodingSettings(
        5.0, LanguageVote("de"), ("Northwind",)
    )
