"""What the channels of a call have in common, from noise bursts with known levels, delays and polarity."""

import random
from pathlib import Path

import msgspec
import numpy as np
import pytest

from schemas.audio import AudioEvent, CallIdle
from schemas.utterances import Crosstalk, Utterance
from stages.separate.codecs import Samples
from stages.separate.crosstalk import CrosstalkMeter, CrosstalkState
from stages.separate.endpointing import EndpointingSettings
from stages.separate.stage import SeparateStage
from stages.separate.state import SeparateState
from tests.calls import bad
from tests.unit.stages.separate.scripted import (
    CALL,
    RATE_HZ,
    Arrival,
    LoudnessModel,
    bursts,
    call_events,
    feed,
    in_order,
    separate,
)


def mixed(*parts: tuple[float, Samples]) -> Samples:
    """Return the sum of signals, each with its gain."""
    return np.clip(np.rint(sum(gain * part.astype(float) for gain, part in parts)), -32768, 32767).astype(np.int16)


def later(samples: Samples, by_s: float, rate_hz: int = RATE_HZ) -> Samples:
    n = round(by_s * rate_hz)
    return np.concatenate([np.zeros(n, np.int16), samples[: len(samples) - n]])


def telephone(samples: Samples, rate_hz: int) -> Samples:
    """Return the samples without most of what lies above 1 kHz."""
    width = rate_hz // 2_000
    return np.convolve(samples, np.hanning(width + 2), "same").astype(np.int16)


async def utterances(*channels: Samples, rate_hz: int = RATE_HZ, chunk_s: float = 0.5) -> list[Utterance]:
    run = await separate(in_order(call_events(*channels, rate_hz=rate_hz, chunk_s=chunk_s)))
    return [record for record in run.records if isinstance(record, Utterance)]


def heard_in(entry: Crosstalk) -> list[int]:
    return [index for index, coherence in enumerate(entry.coherence) if coherence]


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 44_100])
@pytest.mark.parametrize(("gain", "delay_s"), [(1.0, 0.0), (-1.0, 0.0), (0.5, 0.02), (-0.1, 0.25), (1.0, 0.12)])
async def test_a_copy_is_told_by_its_level_delay_and_polarity(gain: float, delay_s: float, rate_hz: int) -> None:
    talk = telephone(bursts((1.0, 3.0), length_s=6.0, rate_hz=rate_hz), rate_hz)
    copy = mixed((gain, later(talk, delay_s, rate_hz)))
    for utterance in await utterances(talk, copy, rate_hz=rate_hz):
        (entry,) = utterance.crosstalk
        assert entry.channel == 1 - utterance.channel
        heard = heard_in(entry)
        assert len(heard) >= 4
        sign = 1 if utterance.channel == 0 else -1
        for index in heard[1:-1]:
            assert entry.coherence[index] * np.sign(gain) >= 80
            assert entry.level_db[index] == pytest.approx(-sign * 20 * np.log10(abs(gain)), abs=1)
            assert entry.delay_ms[index] == pytest.approx(-sign * 1000 * delay_s, abs=1)


async def test_strangers_have_nothing_in_common() -> None:
    pairs = await utterances(bursts((1, 3), length_s=8, seed=1), bursts((1.5, 4), (5, 6), length_s=8, seed=2))
    assert len(pairs) == 3
    assert [utterance.crosstalk for utterance in pairs] == [[], [], []]


async def test_the_last_word_of_a_call_is_compared_too() -> None:
    talk = bursts((1.0, 1.5), (4.0, 5.0), length_s=5.0)
    last = (await utterances(talk, talk))[-1]
    assert last.end_s == 5.0
    (entry,) = last.crosstalk
    assert entry.start_s + len(entry.coherence) * entry.step_s >= 5.0
    assert entry.coherence[-1] == 0 or entry.coherence[-1] > 90


@pytest.mark.parametrize("endpointing", [EndpointingSettings(), EndpointingSettings(pack_s=5.0, pack_span_s=12.0)])
async def test_chunks_do_not_change_what_is_found(endpointing: EndpointingSettings) -> None:
    agent, customer = bursts((1, 3), (9, 19), length_s=24, seed=1), bursts((4, 8), (12, 13), length_s=24, seed=2)
    channels = mixed((1, agent), (0.2, later(customer, 0.1))), mixed((1, customer), (-0.1, later(agent, 0.04)))
    found = []
    for chunk_s in (0.02, 0.13, 1.0):
        run = await separate(
            in_order(call_events(*channels, chunk_s=chunk_s)), SeparateStage(LoudnessModel(), endpointing)
        )
        made = [record for record in run.records if isinstance(record, Utterance)]
        found.append([one.crosstalk for one in sorted(made, key=lambda one: (one.first_sample, one.channel))])
    assert found[0] == found[1] == found[2]
    assert all(found[0])


async def test_a_crash_after_each_event_changes_nothing_that_is_found() -> None:
    """Also where the idle limit ends the call in the middle of speech."""
    agent, customer = bursts((1, 3), (9, 24), length_s=27, seed=1), bursts((4, 8), (12, 13), length_s=27, seed=2)
    channels = mixed((1, agent), (0.2, later(customer, 0.1))), mixed((1, customer), (-0.1, later(agent, 0.04)))
    events: list[AudioEvent] = call_events(*channels, chunk_s=0.9)
    history = in_order(events[:19])
    history.append(Arrival(19, 18, CallIdle(next_seq=19)))
    history += [Arrival(seq + 1, seq, record) for seq, record in enumerate(events) if seq >= 19]
    stage = SeparateStage(LoudnessModel())
    whole = await feed(stage.open(CALL, None), history)
    expected = {record.seq: record for record in whole.records if isinstance(record, Utterance)}
    assert all(record.crosstalk for record in expected.values())
    for at in range(2, len(history)):
        processor = stage.open(CALL, None)
        await feed(processor, history[:at])
        kept = processor.checkpoint()
        again = [item for item in history if item.seq >= kept.released]
        run = await feed(stage.open(CALL, kept.state), again)
        for record in run.records:
            if isinstance(record, Utterance):
                assert record == expected[record.seq]


async def test_a_state_of_a_version_without_comparison_is_continued() -> None:
    talk = bursts((1, 3), (6, 9), (12, 14), length_s=16)
    history = in_order(call_events(talk, talk, chunk_s=0.5))
    stage = SeparateStage(LoudnessModel())
    processor = stage.open(CALL, None)
    await feed(processor, history[:15])
    state = msgspec.msgpack.decode(processor.checkpoint().state, type=SeparateState)
    old = msgspec.structs.replace(state, crosstalk=msgspec.UNSET)
    released = min([old.next_seq, *(resume.seq for resume in old.channels)])
    run = await feed(stage.open(CALL, msgspec.msgpack.encode(old)), history[released:])
    found = [bool(record.crosstalk) for record in run.records if isinstance(record, Utterance)]
    assert found[-2:] == [True, True]


def test_silence_of_any_length_costs_a_few_windows_and_counts_as_silence() -> None:
    noise = np.random.default_rng(3).normal(0, 3000, (3 * RATE_HZ, 1)).astype(np.int16).repeat(2, axis=1)
    by_skip, by_samples = (CrosstalkMeter.begin(RATE_HZ, 2, seq=0, position=0) for _ in range(2))
    for meter in (by_skip, by_samples):
        meter.take(1, noise)
    by_skip.take_silence(2, 100 * RATE_HZ)
    by_samples.take(2, np.zeros((100 * RATE_HZ, 2), np.int16))
    for meter in (by_skip, by_samples):
        meter.take(3, noise)
        meter.flush()
    states = [meter.settle(4, b"", 0) for meter in (by_skip, by_samples)]
    assert states[0].found == states[1].found
    assert states[0].found[-1].window * 0.4 > 103


def test_the_state_holds_what_later_utterances_may_need_and_no_more() -> None:
    noise = np.random.default_rng(3).normal(0, 3000, (RATE_HZ // 2, 1)).astype(np.int16).repeat(8, axis=1)
    meter = CrosstalkMeter.begin(RATE_HZ, 8, seq=0, position=0)
    state: CrosstalkState | None = None
    for seq in range(1, 200):
        meter.take(seq, noise)
        state = meter.settle(seq + 1, b"", max(0, seq * RATE_HZ // 2 - 14 * RATE_HZ))
        assert seq + 1 - state.seq <= 3
    assert state is not None
    assert len(msgspec.msgpack.encode(state)) < 15_000


async def test_with_the_real_model_crosstalk_of_the_sample_call_is_found_in_every_line() -> None:
    samples, rate_hz = bad.read_wav(Path(bad.__file__).parent / "sample" / "sample.wav")
    dice = random.Random(1)
    left, right = samples[: 25 * rate_hz].T
    gain = 10 ** (-20 / 20)
    channels = mixed((1, left), (gain, later(right, 0.06))), mixed((1, right), (-gain, later(left, 0.03)))
    events = in_order(call_events(*channels, chunk_s=dice.choice([0.1, 0.5]), rate_hz=rate_hz))
    run = await separate(events)
    found = [record for record in run.records if isinstance(record, Utterance)]
    assert len({record.channel for record in found}) == 2
    for record in found:
        (entry,) = record.crosstalk
        heard = heard_in(entry)
        assert np.median(np.abs([entry.coherence[index] for index in heard])) >= 85
