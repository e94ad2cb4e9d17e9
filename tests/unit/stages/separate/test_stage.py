"""The separate stage on whole calls: good, damaged and invalid ones."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from schemas import topics
from schemas.audio import AudioChunk, AudioEvent, CallEnded, CallIdle, CallOverdue, CallStarted
from schemas.status import DeadLetter, JobStatus
from schemas.utterances import CallClosed, CallOpened, CallProgress, Channel, Utterance
from stages.errors import RejectedInput
from stages.separate.codecs import Samples
from stages.separate.event_order import LATE_S
from stages.separate.speech import VoiceActivityModel, load_voice_activity_model
from stages.separate.stage import CallSeparator, SeparateStage
from tests.calls import bad
from tests.unit.stages.separate.scripted import (
    CALL,
    RATE_HZ,
    Arrival,
    LoudnessModel,
    Published,
    Run,
    bursts,
    call_events,
    feed,
    in_order,
    overdue,
    separate,
)

SAMPLE = Path(bad.__file__).parent / "sample" / "sample.wav"


def utterances(run: Run) -> list[Utterance]:
    return [record for record in run.records if isinstance(record, Utterance)]


def closed(run: Run) -> CallClosed:
    return [record for record in run.records if isinstance(record, CallClosed)][-1]


def ledger(run: Run, status: str) -> list[dict[str, Any]]:
    entries = [output.record for output in run.others if output.topic == topics.STATUS]
    return [entry.detail for entry in entries if isinstance(entry, JobStatus) and entry.status == status]


def voiced(run: Run, channel: int) -> list[tuple[float, float]]:
    return [stretch for item in utterances(run) if item.channel == channel for stretch in item.voiced]


@pytest.fixture(scope="module")
def silero() -> VoiceActivityModel:
    return load_voice_activity_model()


async def test_a_call_is_opened_separated_and_closed() -> None:
    agent, customer = bursts((1, 3), (6, 7), length_s=9), bursts((4, 5.5), length_s=9)
    run = await separate(in_order(call_events(agent, customer)))
    opened = run.records[0]
    assert isinstance(opened, CallOpened)
    assert opened.channels == [Channel(0, "agent"), Channel(1, "customer")]
    assert [(item.channel, item.cut) for item in utterances(run)] == [(0, "pause"), (1, "pause"), (0, "pause")]
    for found, (start_s, end_s) in zip(voiced(run, 0) + voiced(run, 1), [(1, 3), (6, 7), (4, 5.5)], strict=True):
        assert found == pytest.approx((start_s, end_s), abs=0.1)
    end = closed(run)
    assert (end.revision, end.duration_s, end.utterances, end.gaps, end.provisional) == (1, 9.0, 3, [], False)
    assert end.speech_s == pytest.approx(4.5, abs=0.2)
    assert [record.seq for record in run.records] == list(range(len(run.records)))
    assert [output.event_id for output in run.others] == [
        "default/call-1/separate.1/started",
        "default/call-1/separate.1/completed/1",
    ]


async def test_an_utterance_carries_the_callers_own_samples_with_context() -> None:
    signal = bursts((1, 2), length_s=4)
    (only,) = utterances(await separate(in_order(call_events(signal, chunk_s=0.11))))
    samples = np.frombuffer(only.pcm, "<i2")
    assert np.array_equal(samples, signal[only.first_sample : only.first_sample + len(samples)])
    assert 0.6 <= only.start_s <= 0.85
    assert 2.1 <= only.end_s <= 2.4


@pytest.mark.parametrize("chunk_s", [0.02, 0.1, 0.73, 1.0])
async def test_the_size_of_the_chunks_does_not_change_the_utterances(chunk_s: float) -> None:
    channels = bursts((0.3, 9), (9.4, 12), length_s=16), bursts((3, 4), (10, 15.9), length_s=16)
    reference = utterances(await separate(in_order(call_events(*channels, chunk_s=0.5))))
    again = utterances(await separate(in_order(call_events(*channels, chunk_s=chunk_s))))
    without_seq = [[msgspec.structs.replace(item, seq=0) for item in found] for found in (reference, again)]
    assert sorted(without_seq[0], key=msgspec.msgpack.encode) == sorted(without_seq[1], key=msgspec.msgpack.encode)


async def test_nor_does_it_change_those_of_the_real_model(silero: VoiceActivityModel) -> None:
    channels = [channel[: 20 * RATE_HZ] for channel in sample_channels()]
    spoken = []
    for chunk_s in (1.0, 0.02, 0.37):
        run = await separate(in_order(call_events(*channels, chunk_s=chunk_s)), SeparateStage(silero))
        found = [msgspec.structs.replace(item, seq=0) for item in utterances(run)]
        spoken.append(sorted(found, key=msgspec.msgpack.encode))
    assert spoken[0] == spoken[1] == spoken[2] != []


async def test_utterances_carry_the_audio_beyond_a_hard_cut_and_only_there() -> None:
    signal = bursts((1, 30), (33, 35), length_s=37)
    found = utterances(await separate(in_order(call_events(signal, chunk_s=0.3))))
    assert [item.cut for item in found] == ["hard", "hard", "pause", "pause"]
    context = round(1.2 / 0.032) * 256
    for before, item in zip([None, *found], found, strict=False):
        first, last = item.first_sample, item.first_sample + len(item.pcm) // 2
        goes_on = before is not None and before.cut == "hard"
        assert np.array_equal(np.frombuffer(item.before, "<i2"), signal[first - context : first] if goes_on else [])
        is_hard = item.cut == "hard"
        assert np.array_equal(np.frombuffer(item.after, "<i2"), signal[last : last + context] if is_hard else [])


async def test_a_quiet_stretch_still_gives_progress() -> None:
    run = await separate(in_order(call_events(bursts((20, 25), length_s=30), chunk_s=0.5)))
    heard = [record.heard_to_s[0] for record in run.records if isinstance(record, CallProgress)]
    assert heard == sorted(heard)
    assert heard[0] > 1.0
    start_s = utterances(run)[0].start_s
    assert max(at_s for at_s in heard if at_s <= start_s + 1e-9) == pytest.approx(start_s, abs=0.01)
    for index, record in enumerate(run.records):
        later = [item.start_s for item in run.records[index:] if isinstance(item, Utterance)]
        if isinstance(record, CallProgress):
            assert all(start_s >= record.heard_to_s[0] for start_s in later)


async def test_the_ledgers_first_entry_describes_the_call() -> None:
    start = CallStarted(
        encoding="alaw", sample_rate_hz=8000, channels=3, roles=["agent"], language="de", metadata={"filename": "a.wav"}
    )
    run = await separate(in_order([start, CallEnded(events=2)]))
    assert ledger(run, "started") == [
        {
            "channels": 3,
            "roles": ["agent", "channel-1", "channel-2"],
            "sample_rate_hz": 8000,
            "encoding": "alaw",
            "language": "de",
            "partials": False,
            "metadata": {"filename": "a.wav"},
        }
    ]
    assert closed(run).duration_s == 0.0


async def test_missing_chunks_become_silence_and_times_stay_right() -> None:
    events = in_order(call_events(bursts((1, 2), (6, 7), length_s=9), chunk_s=0.5))
    run = await separate([*(item for item in events if item.seq not in (7, 8, 9)), overdue(500, len(events))])
    end = closed(run)
    assert [(gap.start_s, gap.end_s, gap.events) for gap in end.gaps] == [(3.0, 4.5, 3)]
    assert voiced(run, 0)[1] == pytest.approx((6, 7), abs=0.1)
    assert end.duration_s == 9.0
    assert ledger(run, "gap") == [{"start_s": 3.0, "end_s": 4.5, "events": 3, "first_event": 7}]
    assert ledger(run, "completed")[0]["received_s"] == 7.5


async def test_a_missing_tail_shows_by_the_number_of_events() -> None:
    events = in_order(call_events(bursts((1, 2), length_s=4), chunk_s=0.5))
    end = events[-1]
    shortened = [*events[:-3], Arrival(end.position, events[-3].seq, end.record)]
    run = await separate(shortened)
    assert closed(run).gaps[0].events == 2
    assert closed(run).duration_s == 4.0


async def test_hours_of_missing_audio_cost_seconds_of_work_and_keep_the_time() -> None:
    events = call_events(bursts((1, 2), (4, 5), length_s=6), chunk_s=0.5)
    jump = 20_000
    arrivals = [Arrival(at, at + (jump if at > 6 else 0), record) for at, record in enumerate(events)]
    run = await separate([*arrivals, overdue(500, len(events) + jump)])
    assert closed(run).gaps[0].end_s == 3.0 + jump * 0.5
    assert voiced(run, 0)[1] == pytest.approx((4 + jump * 0.5, 5 + jump * 0.5), abs=0.1)
    assert len(run.records) < 20


async def test_repeats_and_early_chunks_change_nothing() -> None:
    events = in_order(call_events(bursts((1, 2), (3, 4.5), length_s=6), chunk_s=0.25))
    plain = await separate(events)
    order = [0, 2, 1, 1, 5, 4, 3, 0, *range(6, 20), 24, 23, 22, 21, 20, 19, 25]
    mixed = await separate([Arrival(position, seq, events[seq].record) for position, seq in enumerate(order)])
    assert utterances(mixed) == utterances(plain)
    assert closed(mixed) == closed(plain)
    assert mixed.rejected == {}


async def test_a_chunk_that_comes_after_its_place_was_filled_is_rejected() -> None:
    events = in_order(call_events(bursts((1, 2), length_s=40), chunk_s=0.5))
    late = Arrival(1000, 3, events[3].record)
    run = await separate([*events[:3], *events[4:], late])
    assert "filled with silence" in run.rejected[1000]
    in_time = next(at for at, item in enumerate(events) if item.position >= 4 + LATE_S)
    before_end = [*events[:3], *events[4 : in_time + 1], late, *events[in_time + 1 :]]
    assert "filled with silence" in (await separate(before_end)).rejected[1000]


async def test_a_hole_is_given_up_once_the_bus_time_has_passed_the_limit() -> None:
    events = in_order(call_events(bursts((1, 2), length_s=60), chunk_s=0.5))
    run = await separate([*events[:3], *events[4:100]])
    assert ledger(run, "gap")[0]["first_event"] == 3
    given_up = next(item for item in run.published if item.position >= 4 and isinstance(item.output.record, Utterance))
    assert given_up.position == 4 + LATE_S


async def test_chunks_after_the_end_are_rejected() -> None:
    events = in_order(call_events(bursts((1, 2), length_s=3), chunk_s=0.5))
    after = Arrival(500, len(events), AudioChunk(data=b"\0" * 100))
    run = await separate([*events, after, events[3], events[-1]])
    assert list(run.rejected) == [500]
    assert "after the call's end" in run.rejected[500]
    assert len([record for record in run.records if isinstance(record, CallClosed)]) == 1


async def test_chunks_held_beyond_the_end_become_dead_letters() -> None:
    events = in_order(call_events(bursts((1, 2), length_s=3), chunk_s=0.5))
    beyond = Arrival(500, len(events) + 2, AudioChunk(data=b"\1\2" * 100))
    run = await separate([*events[:-1], beyond, events[-1]])
    [(letter_id, letter)] = [(o.event_id, o.record) for o in run.others if isinstance(o.record, DeadLetter)]
    assert letter.value == b"\1\2" * 100
    assert (letter.topic, letter.partition, letter.position, letter.key) == (topics.AUDIO_BATCH, 3, 500, CALL.key)
    assert letter_id == "separate/calls.audio.batch/3/500"
    assert run.published[-1].released == beyond.seq + 1


async def test_chunks_without_a_start_wait_for_it() -> None:
    events = in_order(call_events(bursts((1, 2), length_s=3), chunk_s=0.5))
    run = await separate([*events[1:4], events[0], *events[4:]])
    plain = await separate(events)
    assert utterances(run) == utterances(plain)


@pytest.mark.parametrize("ending", ["overdue", "idle", "late"])
async def test_chunks_whose_start_never_comes_are_kept_as_dead_letters(ending: str) -> None:
    chunks = [Arrival(seq, seq, AudioChunk(data=bytes([seq] * 10))) for seq in range(1, 12)]
    last: dict[str, list[Arrival]] = {
        "overdue": [*chunks[:3], Arrival(98, 4, CallEnded(events=5), at_s=5.0), overdue(99, 5)],
        "idle": [*chunks[:4], Arrival(99, 4, CallIdle(next_seq=5))],
        "late": chunks,
    }
    processor = SeparateStage(LoudnessModel()).open(CALL, None)
    run = await feed(processor, last[ending])
    letters = [output.record for output in run.others if isinstance(output.record, DeadLetter)]
    assert len(letters) == (11 if ending == "late" else 4)
    assert letters[0].value == b"\1" * 10
    assert letters[0].headers["ce_callseq"] == "1"
    assert len(ledger(run, "rejected")) == len(letters)
    assert run.records == []
    assert processor.finished
    assert processor.checkpoint().state == b""
    assert processor.checkpoint().released == processor.next_seq


async def test_an_idle_call_is_closed_for_now_and_reopened_by_its_next_chunk() -> None:
    events = in_order(call_events(bursts((1, 2), (2.4, 3.6), (5, 6), length_s=8), chunk_s=0.5))
    processor = SeparateStage(LoudnessModel()).open(CALL, None)
    first = await feed(processor, [*events[:7], Arrival(90, 6, CallIdle(next_seq=7))])
    assert isinstance(first.records[-1], CallClosed)
    assert (closed(first).revision, closed(first).reason, closed(first).provisional) == (1, "idle", True)
    assert utterances(first)[-1].cut == "end"
    assert utterances(first)[-1].end_s == pytest.approx(3.0, abs=0.001)
    assert processor.finished
    assert processor.checkpoint().released == 7
    second = await feed(processor, [Arrival(91, 6, CallIdle(next_seq=7)), *events[7:]])
    assert (closed(second).revision, closed(second).provisional) == (2, False)
    assert closed(second).utterances == len(utterances(first)) + len(utterances(second))
    assert utterances(second)[0].first_sample >= 2.96 * RATE_HZ


async def test_a_call_that_has_moved_on_ignores_the_idle_record() -> None:
    events = in_order(call_events(bursts((1, 2), length_s=4), chunk_s=0.5))
    plain = await separate(events)
    run = await separate([*events[:6], Arrival(90, 3, CallIdle(next_seq=4)), *events[6:]])
    assert run.records == plain.records


@pytest.mark.parametrize("timer", [CallIdle(next_seq=5), CallIdle(next_seq=0), CallOverdue(below=40)])
@pytest.mark.parametrize("before", [0, 5])
async def test_a_timer_with_a_number_that_no_event_has_is_refused(timer: CallIdle | CallOverdue, before: int) -> None:
    events = in_order(call_events(bursts((1, 2), length_s=4), chunk_s=0.5))
    plain = await separate(events)
    run = await separate([*events[:before], Arrival(90, 38, timer), *events[before:]])
    assert run.rejected == {90: "a timer has the number 38, which no event has yet"}
    assert run.records == plain.records


async def test_events_rejected_before_the_start_do_not_count_as_arrived() -> None:
    events = in_order(call_events(bursts((1, 2), length_s=4), chunk_s=0.5))
    early = [Arrival(1, 30, AudioChunk(data=bytes(1600))), Arrival(2, 39, CallEnded(events=40))]
    processor = SeparateStage(LoudnessModel()).open(CALL, None)
    refused = await feed(processor, [*early, Arrival(3, 39, CallIdle(next_seq=40))])
    assert len(refused.others) > 0
    assert processor.checkpoint().released == 40
    whole = [Arrival(arrival.position + 10, arrival.seq, arrival.record) for arrival in events[:-1]]
    run = await feed(processor, whole)
    assert processor.idle_position == len(whole)
    run = await feed(processor, [Arrival(90, len(whole) - 1, CallIdle(next_seq=len(whole)))])
    assert closed(run).provisional
    assert processor.finished
    assert run.published[-1].released == len(whole), "the timer, too, is released"


async def test_a_producer_that_vanishes_in_a_word_loses_none_of_it() -> None:
    events = in_order(call_events(bursts((1, 9), length_s=9), chunk_s=0.5))
    run = await separate([*events[:6], *events[7:9], Arrival(90, 8, CallIdle(next_seq=9))])
    assert closed(run).duration_s == 4.0
    assert closed(run).gaps[0].events == 1
    assert utterances(run)[-1].end_s == pytest.approx(4.0, abs=0.001)


async def test_a_wrong_number_is_refused_before_it_does_harm() -> None:
    events = in_order(call_events(bursts((1, 2), length_s=3), chunk_s=0.5))
    wrong: list[Arrival] = [
        Arrival(100, 5, events[0].record),
        Arrival(101, 0, AudioChunk(data=b"")),
    ]
    run = await separate([*events[:3], *wrong, *events[3:]])
    assert sorted(run.rejected) == [100, 101]
    assert run.records == (await separate(events)).records


@pytest.mark.parametrize("data", [b"", b"\xff", b"\x00" * 333, bytes(range(256)) * 3500])
async def test_a_garbled_chunk_breaks_nothing(data: bytes) -> None:
    events = call_events(bursts((1, 2), (5, 6), length_s=8), chunk_s=0.5)
    events[7] = AudioChunk(data=data)
    run = await separate(in_order(events))
    assert closed(run).duration_s == pytest.approx(7.5 + len(data) // 2 / RATE_HZ, abs=0.001)
    shift_s = len(data) // 2 / RATE_HZ - 0.5
    assert voiced(run, 0)[-1] == pytest.approx((5 + shift_s, 6 + shift_s), abs=0.1)


@pytest.mark.parametrize("rate_hz", [4000, 11025, 16_000, 44_100, 192_000])
async def test_utterances_keep_the_rate_up_to_16_khz(rate_hz: int) -> None:
    events = call_events(bursts((1, 2), length_s=3, rate_hz=rate_hz), chunk_s=0.3, rate_hz=rate_hz)
    (only,) = utterances(await separate(in_order(events)))
    assert only.sample_rate_hz == min(rate_hz, 16_000)
    assert only.voiced[0] == pytest.approx((1, 2), abs=0.1)


async def test_eight_channels_are_kept_apart() -> None:
    channels = [bursts((0.5 + 0.2 * index, 1.5 + 0.2 * index), length_s=4, seed=index) for index in range(8)]
    run = await separate(in_order(call_events(*channels)))
    for index in range(8):
        assert voiced(run, index) == [pytest.approx((0.5 + 0.2 * index, 1.5 + 0.2 * index), abs=0.1)]


def as_container(path: Path, size: int = 60_000) -> list[AudioEvent]:
    data = path.read_bytes()
    start = CallStarted(encoding="container", sample_rate_hz=48_000, channels=1, roles=["agent", "customer"])
    chunks = [AudioChunk(data=data[at : at + size]) for at in range(0, len(data), size)]
    return [start, *chunks, CallEnded(events=len(chunks) + 2)]


async def test_a_container_is_decoded_at_its_end_as_it_is_and_not_as_announced(tmp_path: Path) -> None:
    channels = np.stack([bursts((1, 2), length_s=6), bursts((3, 4.5), length_s=6)], axis=1)
    run = await separate(in_order(as_container(bad.encoded(tmp_path / "call.flac", channels))))
    opened = run.records[0]
    assert isinstance(opened, CallOpened)
    assert [channel.role for channel in opened.channels] == ["agent", "customer"]
    assert opened.sample_rate_hz == 8000
    plain = await separate(in_order(call_events(*channels.T)))
    assert [(item.channel, item.first_sample, item.pcm) for item in utterances(run)] == [
        (item.channel, item.first_sample, item.pcm) for item in utterances(plain)
    ]
    assert {item.released for item in run.published[:-1]} == {0}
    assert ledger(run, "started")[1]["channels"] == 2


async def test_a_container_whose_producer_vanishes_is_decoded_as_far_as_it_goes(tmp_path: Path) -> None:
    path = bad.write_wav(tmp_path / "call.wav", [bursts((1, 2), (6, 7), length_s=9)[:, None]])
    events = in_order(as_container(path, 10_000))
    run = await separate([*events[:6], Arrival(90, 5, CallIdle(next_seq=6))])
    assert closed(run).provisional is False
    assert 2 < closed(run).duration_s < 4
    assert ledger(run, "completed")[0]["truncated"] is True
    assert len(utterances(run)) == 1


@pytest.mark.parametrize("write", [bad.zero_bytes, bad.not_audio, bad.random_bytes])
async def test_an_undecodable_container_closes_as_failed(write, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    run = await separate(in_order(as_container(write(tmp_path / "call.wav"))))
    assert [type(record) for record in run.records] == [CallOpened, CallClosed]
    assert closed(run).reason.startswith("undecodable: ")
    assert ledger(run, "failed")[0]["reason"] == closed(run).reason
    assert ledger(run, "completed") == []


@pytest.mark.parametrize(
    "signal",
    [
        bad.silence(20),
        bad.noise(20),
        bad.noise(20, level_db=-20),
        bad.dtmf("0123456789*#" * 4),
        bad.ringback(),
        bad.tone(20, 1000),
        bad.clipped(bad.tone(20, 50)),
    ],
    ids=["silent", "noise", "loud noise", "dtmf", "ringback", "tone", "hum"],
)
async def test_sounds_that_are_no_speech_make_no_utterance(signal: bad.Pcm, silero: VoiceActivityModel) -> None:
    run = await separate(in_order(call_events(signal[:, 0])), SeparateStage(silero))
    assert utterances(run) == []
    assert closed(run).speech_s == 0.0
    assert closed(run).duration_s == pytest.approx(len(signal) / 8000)


def lines(channel: int) -> list[dict[str, Any]]:
    script = msgspec.json.decode(SAMPLE.with_name("script.json").read_bytes())
    return [line for line in script["lines"] if line["channel"] == channel]


def sample_channels() -> list[Samples]:
    pcm, rate_hz = bad.read_wav(SAMPLE)
    assert rate_hz == RATE_HZ
    return [pcm[:, 0], pcm[:, 1]]


async def test_the_sample_calls_lines_are_found_where_the_script_has_them(silero: VoiceActivityModel) -> None:
    run = await separate(in_order(call_events(*sample_channels())), SeparateStage(silero))
    for channel in (0, 1):
        found = voiced(run, channel)
        for line in lines(channel):
            inside = [s for s in found if s[1] > line["start_s"] - 0.2 and s[0] < line["end_s"] + 0.2]
            assert inside, line["text"]
            assert inside[0][0] == pytest.approx(line["start_s"], abs=0.2)
            assert inside[-1][1] == pytest.approx(line["end_s"], abs=0.2)


async def test_clipped_speech_is_still_found(silero: VoiceActivityModel) -> None:
    pcm, _ = bad.read_wav(SAMPLE)
    part = bad.clipped(pcm[: 20 * RATE_HZ])
    run = await separate(in_order(call_events(part[:, 0], part[:, 1])), SeparateStage(silero))
    for channel in (0, 1):
        spoken_s = sum(end_s - start_s for start_s, end_s in voiced(run, channel))
        said_s = sum(end_s - start_s for line in lines(channel) for start_s, end_s in line["speech"] if end_s < 20)
        assert spoken_s == pytest.approx(said_s, rel=0.3)


async def given_up(events: list[AudioEvent], separator: CallSeparator | None = None) -> tuple[Run, CallSeparator]:
    """Feed all events but the last, which is given up."""
    separator = separator or SeparateStage(LoudnessModel()).open(CALL, None)
    arrivals = in_order(events)
    run = await feed(separator, arrivals[:-1])
    async for output in separator.give_up(arrivals[-1].record, arrivals[-1].event, reason="failed 3 times"):
        if output.seq is None:
            run.others.append(output)
        else:
            run.published.append(Published(output, len(events) - 1, b"", 0))
    return run, separator


async def test_a_call_whose_end_cannot_be_worked_on_is_closed_as_failed() -> None:
    run, separator = await given_up(call_events(bursts((1, 2), (3, 3.9), length_s=4)))
    end = closed(run)
    assert (end.reason, end.provisional, end.duration_s) == ("failed: failed 3 times", False, 4.0)
    assert [round(gap.start_s) for gap in end.gaps] == [3]
    assert [record.seq for record in run.records] == list(range(len(run.records)))
    assert ledger(run, "failed")[0]["reason"] == end.reason
    assert separator.finished
    assert separator.checkpoint().released == len(call_events(bursts(length_s=4)))


async def test_a_container_that_cannot_be_worked_on_is_closed_as_failed() -> None:
    start = CallStarted(encoding="container", sample_rate_hz=8_000, channels=1)
    run, separator = await given_up([start, AudioChunk(data=b"RIFF" * 100), CallEnded(events=3)])
    assert [type(record) for record in run.records] == [CallOpened, CallClosed]
    assert closed(run).reason == "failed: failed 3 times"
    assert separator.finished
    assert separator.checkpoint().released == 3


async def test_a_chunk_that_is_given_up_becomes_a_gap() -> None:
    events = call_events(bursts((1, 2), length_s=4))
    separator = SeparateStage(LoudnessModel()).open(CALL, None)
    arrivals = in_order(events)
    await feed(separator, arrivals[:3])
    with pytest.raises(RejectedInput):
        separator.give_up(arrivals[3].record, arrivals[3].event, reason="failed 3 times")
    run = await feed(separator, [*arrivals[4:], overdue(500, len(events))])
    assert [gap.events for gap in closed(run).gaps] == [1]
