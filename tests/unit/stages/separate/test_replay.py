"""A crash at any time changes nothing: the outputs before and after it are those of an uninterrupted run."""

import random
from pathlib import Path

import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.audio import AudioChunk, AudioEvent, CallEnded, CallIdle, CallOverdue, CallStarted, CallUpdated
from schemas.event_numbers import event_number
from schemas.utterances import CallClosed, Utterance
from stages.separate.codecs import Samples
from stages.separate.endpointing import EndpointingSettings
from stages.separate.speech import load_voice_activity_model
from stages.separate.stage import SeparateStage
from tests.calls import bad
from tests.unit.stages.separate.scripted import (
    CALL,
    Arrival,
    LoudnessModel,
    after_crash,
    bursts,
    call_events,
    feed,
    in_order,
    overdue,
    separate,
    wire,
)


def random_channel(dice: random.Random, length_s: float, rate_hz: int) -> Samples:
    """Return bursts of 0.05 to 20 s with pauses of 0.05 to 2 s."""
    at, stretches = dice.uniform(0, 2), []
    while at < length_s:
        end = min(length_s, at + dice.choice([dice.uniform(0.05, 0.4), dice.uniform(0.3, 3), dice.uniform(5, 20)]))
        stretches.append((at, end))
        at = end + dice.choice([dice.uniform(0.05, 0.4), dice.uniform(0.3, 2)])
    return bursts(*stretches, length_s=length_s, rate_hz=rate_hz, seed=dice.randrange(1000))


def random_chunks(dice: random.Random, data: bytes, mean_bytes: int, *, any_size: bool) -> list[AudioChunk]:
    chunks, at = [], 0
    while at < len(data):
        size = dice.randrange(1, 2 * mean_bytes) if any_size else mean_bytes
        chunks.append(AudioChunk(data=data[at : at + size]))
        at += size
    return chunks


def random_history(dice: random.Random) -> list[Arrival]:
    """Return a call as a bad network delivers it: repeats, holes, early and late events, producers that fall silent.

    The start may be late too, but arrives before the others are rejected for lack of it.
    """
    rate_hz, n_channels = dice.choice([8000, 8000, 11025, 16000, 24000]), dice.choice([1, 2])
    length_s = dice.uniform(1, 40)
    channels = [random_channel(dice, length_s, rate_hz) for _ in range(n_channels)]
    leak = dice.choice([0.0, 0.3, -1.0])
    if n_channels == 2 and leak:  # the second channel carries the first one too
        channels[1] = (channels[1] * dice.choice([0, 1]) + leak * np.roll(channels[0], rate_hz // 20)).astype(np.int16)
    data = np.stack(channels, axis=1).astype("<i2").tobytes()
    mean_bytes = int(dice.choice([0.1, 0.3, 1.0]) * rate_hz) * n_channels * 2
    chunks = random_chunks(dice, data, mean_bytes, any_size=dice.random() < 0.3)
    start = CallStarted(encoding="pcm_s16le", sample_rate_hz=rate_hz, channels=n_channels)
    between: list[AudioEvent] = [*chunks]
    if dice.random() < 0.5:
        between.insert(dice.randrange(len(chunks) + 1), CallUpdated(language="es"))
    events: list[AudioEvent] = [start, *between, CallEnded(events=len(between) + 2 + dice.choice([0, 0, 0, 3]))]
    loss, repeat, delay = dice.choice([0, 0.1]), dice.choice([0, 0.1]), dice.choice([0, 0.2])
    delivered: list[tuple[float, int, AudioEvent]] = []
    for seq, record in enumerate(events):
        if 0 < seq < len(events) - 1 and dice.random() < loss:
            continue
        late = dice.random() < delay and (seq > 0 or len(events) > 10)
        delivered.append((seq + (dice.uniform(0, 6) if late else 0), seq, record))
        if dice.random() < repeat:
            delivered.append((seq + dice.uniform(0, 80), seq, record))
    delivered.sort(key=lambda item: item[0])
    history: list[Arrival] = []
    idle_chance, highest = dice.choice([0, 0.05]), -1
    for _, seq, record in delivered:
        history.append(Arrival(len(history), seq, record))
        highest = max(highest, seq)
        if dice.random() < idle_chance and any(item.seq == 0 for item in history):
            idle = CallIdle(next_seq=highest + dice.choice([1, 1, 1, 0]))
            history.append(Arrival(len(history), max(0, idle.next_seq - 1), idle))
    if dice.random() < 0.8:
        history.append(overdue(len(history), highest + 1))
    return history


def with_strangers(dice: random.Random, history: list[Arrival]) -> list[Arrival]:
    """Return the history with events of other producers, a restart in a new epoch, and steps of the bus's clock."""
    mixed: list[Arrival] = []
    for item in history:
        mixed.append(item)
        if dice.random() < 0.1:
            source, seq = dice.choice(["/pbx/7", "/pbx/8"]), dice.randrange(len(history))
            other: AudioEvent = AudioChunk(data=bytes([dice.randrange(256)] * 100))
            if dice.random() < 0.2 and any(one.seq == 0 for one in mixed):
                seq, other = 0, CallStarted(encoding="mulaw", sample_rate_hz=dice.choice([8000, 16_000]), channels=1)
            mixed.append(Arrival(0, seq, other, source))
    first = history[0]
    if dice.random() < 0.5 and isinstance(first.record, CallStarted):
        epoch = [Arrival(0, event_number(3, one.seq), one.record) for one in history]
        cut = dice.randrange(len(mixed))
        mixed = [*mixed[:cut], *(one for one in epoch if not isinstance(one.record, CallIdle | CallOverdue))]
        mixed.append(overdue(0, max(one.seq for one in mixed) + 1))
    step_s = dice.choice([0.0, 0.0, 3600.0, -3600.0])
    steps_at = [dice.randrange(len(mixed)) for _ in range(2)]
    return [
        msgspec.structs.replace(
            item, position=position, at_s=position + (step_s if min(steps_at) <= position < max(steps_at) else 0.0)
        )
        for position, item in enumerate(mixed)
    ]


async def check_all_crashes(history: list[Arrival], stage: SeparateStage, crashes: list[int] | None = None) -> None:
    whole = await feed(stage.open(CALL, None), history)
    assert [item.output.seq for item in whole.published] == list(range(len(whole.published)))
    expected, told = wire(whole), {output.event_id: output.record for output in whole.others}
    for n_published in range(len(whole.published) + 1) if crashes is None else crashes:
        for only_unreleased in (True, False):
            n = min(n_published, len(whole.published))
            again = await after_crash(history, whole, n, only_unreleased=only_unreleased, stage=stage)
            assert wire(again) == expected
            for output in again.others:
                assert told[output.event_id] == output.record
            assert again.rejected.items() <= whole.rejected.items()


PACKED = EndpointingSettings(pack_s=5.0, pack_span_s=12.0)


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.lists(st.integers(0, 60), min_size=3, max_size=3))
async def test_a_crash_after_any_output_of_any_history_changes_no_byte(seed: int, crashes: list[int]) -> None:
    await check_all_crashes(random_history(random.Random(seed)), SeparateStage(LoudnessModel()), crashes)


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.lists(st.integers(0, 30), min_size=3, max_size=3))
async def test_a_crash_while_utterances_wait_in_a_pack_changes_no_byte(seed: int, crashes: list[int]) -> None:
    await check_all_crashes(random_history(random.Random(seed)), SeparateStage(LoudnessModel(), PACKED), crashes)


@settings(max_examples=20)
@given(st.integers(0, 2**32), st.lists(st.integers(0, 60), min_size=3, max_size=3))
async def test_a_crash_amid_strangers_and_restarts_of_the_producer_changes_no_byte(
    seed: int, crashes: list[int]
) -> None:
    dice = random.Random(seed)
    await check_all_crashes(with_strangers(dice, random_history(dice)), SeparateStage(LoudnessModel()), crashes)


async def test_a_crash_after_each_output_of_a_long_monologue_changes_no_byte() -> None:
    talk = bursts((0.5, 33.0), length_s=34.0)
    listen = bursts((3.0, 3.4), (20.0, 22.0), length_s=34.0)
    history = in_order(call_events(talk, listen, chunk_s=0.9))
    whole = await separate(history)
    assert {record.cut for record in whole.of(Utterance)} >= {"hard", "pause"}  # type: ignore[attr-defined]
    await check_all_crashes(history, SeparateStage(LoudnessModel()))


async def test_an_idle_end_that_is_reopened_survives_a_crash_after_each_output() -> None:
    events = call_events(bursts((0.5, 2.0), (4.0, 6.0), length_s=8.0), chunk_s=0.5)
    for at in range(1, len(events)):
        history = in_order(events[:at])
        history.append(Arrival(at, at - 1, CallIdle(next_seq=at)))
        history += [Arrival(seq + 1, seq, record) for seq, record in enumerate(events) if seq >= at]
        whole = await separate(history)
        assert [closed.revision for closed in whole.of(CallClosed)] == [1, 2]  # type: ignore[attr-defined]
        if at in (1, 4, 6, 10, 16):
            await check_all_crashes(history, SeparateStage(LoudnessModel()))


async def test_what_is_released_is_never_needed_again() -> None:
    history = in_order(call_events(bursts((1, 3), (5, 6), (9, 30), length_s=32), bursts((4, 5), length_s=32)))
    whole = await separate(history)
    released = [item.released for item in whole.published]
    assert released == sorted(released)
    assert released[-1] == len(history)
    assert max(item.position + 1 - item.released for item in whole.published) * 0.5 <= 15.0


async def test_a_pack_holds_back_a_calls_checkpoint_for_its_span_at_most() -> None:
    nods = [(at + 0.5, at + 1.0) for at in range(2, 200, 8)]
    talk = [(at + 0.0, at + 3.0) for at in range(0, 200, 4)]
    history = in_order(call_events(bursts(*nods, length_s=210), bursts(*talk, length_s=210)))
    whole = await separate(history, SeparateStage(LoudnessModel(), EndpointingSettings(pack_s=14.0, pack_span_s=60.0)))
    assert max(len(record.parts) for record in whole.records if isinstance(record, Utterance)) == 8
    released = [item.released for item in whole.published]
    assert released == sorted(released)
    assert released[-1] == len(history)
    assert max(item.position + 1 - item.released for item in whole.published) * 0.5 <= 75.0
    assert max(len(item.state) for item in whole.published) < 60_000


async def test_a_state_stays_within_some_seconds_of_audio() -> None:
    talk = [bursts((0.0, 60.0), length_s=60.0, rate_hz=16_000, seed=seed) for seed in range(8)]
    whole = await separate(in_order(call_events(*talk, chunk_s=0.2, rate_hz=16_000)))
    assert max(len(item.state) for item in whole.published) < 600_000
    quiet = await separate(in_order(call_events(bursts((1, 2), (4, 5), (7, 8), length_s=60.0), chunk_s=0.5)))
    assert len(quiet.published[-3].state) < 20_000


async def test_with_the_real_model_a_crash_changes_no_byte_either() -> None:
    samples, rate_hz = bad.read_wav(Path(bad.__file__).parent / "sample" / "sample.wav")
    history = in_order(call_events(*samples[: 25 * rate_hz].T, chunk_s=0.5, rate_hz=rate_hz))
    await check_all_crashes(history, SeparateStage(load_voice_activity_model()), [1, 4, 7, 10, 13])


async def test_an_idle_end_amid_speech_survives_a_crash_with_the_real_model() -> None:
    samples, rate_hz = bad.read_wav(Path(bad.__file__).parent / "sample" / "sample.wav")
    events = call_events(*samples[: 20 * rate_hz].T, chunk_s=0.3, rate_hz=rate_hz)
    history = in_order(events[:21])
    history.append(Arrival(21, 20, CallIdle(next_seq=21)))
    history += [Arrival(seq + 1, seq, record) for seq, record in enumerate(events) if seq > 20]
    stage = SeparateStage(load_voice_activity_model())
    whole = await separate(history, stage)
    first_end = next(index for index, record in enumerate(whole.records) if isinstance(record, CallClosed))
    assert "end" in {record.cut for record in whole.records[:first_end] if isinstance(record, Utterance)}
    await check_all_crashes(history, stage, [2, first_end - 1, first_end, first_end + 1, first_end + 3])


async def test_a_restored_call_knows_how_far_it_was() -> None:
    events = in_order(call_events(bursts((1, 2), length_s=8), chunk_s=0.5))
    stage = SeparateStage(LoudnessModel())
    for at in range(1, len(events)):
        processor = stage.open(CALL, None)
        await feed(processor, [*events[:at], *events[at + 1 : at + 3]])
        assert stage.open(CALL, processor.checkpoint().state).next_seq == processor.next_seq
