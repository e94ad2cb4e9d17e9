"""The sink stage with the real tables."""

import random
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from schemas.status import EXPIRED_TYPE, JobState, JobStatus, RecordsExpired
from schemas.topics import STATUS, SUMMARIES, TRANSCRIPTS
from schemas.transcripts import ChannelUnheard
from stages.errors import RejectedInput
from stages.sink.batch import Arrival
from stages.sink.losses import Loss
from stages.sink.stage import SinkStage
from stages.sink.tables import Tables
from tests.unit.stages.sink.calls import CallScript, dump, read, stage_without_store


@pytest.fixture
def tables(tmp_path: Path) -> Iterator[Tables]:
    with Tables(tmp_path / "calls.duckdb") as opened:
        yield opened


def test_a_whole_call_is_stored_with_all_its_rows(tables: Tables) -> None:
    script = CallScript("call-1")
    SinkStage(tables).write(script.whole(4))
    assert read(tables, "SELECT filename, duration, channels, sample_rate, status, roles FROM audio_sessions") == [
        ("call.wav", 12.0, 2, 8000, "completed", '["agent","customer"]')
    ]
    assert read(tables, "SELECT call_id, turns, words, gaps, summary, summary_method, reason FROM calls") == [
        ("call-1", 4, 20, 1, "They talked.", "extractive", "hangup")
    ]
    assert read(tables, "SELECT count(*), min(start_time), max(end_time) FROM words") == [(20, 0.0, 11.4)]
    assert read(tables, "SELECT speaker FROM turns ORDER BY start_s") == [("agent",), ("customer",)] * 2
    jobs = read(tables, "SELECT job_type, status FROM processing_jobs ORDER BY ALL")
    assert ("separate", "gap") in jobs
    assert ("separate", "completed") in jobs
    assert jobs.count(("sink", "completed")) == 2, "its transcript and its summary are stored"
    assert len(jobs) == 7


def test_confidence_is_the_mean_word_probability_and_null_without_words(tables: Tables) -> None:
    script = CallScript("call-1")
    turn, silent = script.turns(1)[0], script.turns(1, first=1, words=0)[0]
    SinkStage(tables).write([script.arrival(turn), script.arrival(silent)])
    expected = sum(word.probability for word in turn.words) / len(turn.words)
    assert read(tables, "SELECT confidence FROM transcript_segments ORDER BY start_time") == [(expected,), (None,)]


def test_the_ledger_says_when_transcript_and_summary_are_stored(tables: Tables) -> None:
    outputs = SinkStage(tables).write(CallScript("call-1").whole(4, parts=2))
    details = [output.record.detail for output in outputs if isinstance(output.record, JobStatus)]
    assert details == [
        {"stored": "transcript", "revision": 0, "turns": 4, "parts": 2},
        {"stored": "summary", "revision": 0, "method": "extractive", "seq": 1},
    ]
    assert {output.topic for output in outputs} == {STATUS}
    assert len({output.event_id for output in outputs}) == 2


def test_a_replayed_batch_returns_the_same_ledger_entries(tables: Tables) -> None:
    records = CallScript("call-1").whole(4, parts=3)
    stage = SinkStage(tables)
    first = stage.write(records)
    assert stage.write(records) == first
    assert stage.write(records[-4:]) == first


def test_nothing_is_said_about_a_transcript_whose_parts_are_not_all_there(tables: Tables) -> None:
    script = CallScript("call-1")
    parts = [script.arrival(part) for part in script.completed(script.turns(6), parts=3)]
    stage = SinkStage(tables)
    assert stage.write(parts[:2]) == []
    assert read(tables, "SELECT status FROM audio_sessions") == [("in_progress",)]
    assert len(stage.write(parts[2:])) == 1
    assert read(tables, "SELECT status FROM audio_sessions") == [("completed",)]
    assert read(tables, "SELECT count(*) FROM transcript_segments") == [(6,)]


def test_the_sinks_own_entries_are_stored_with_their_rows_and_only_once(
    tables: Tables,
) -> None:
    script = CallScript("call-1")
    stage = SinkStage(tables)
    outputs = stage.write(script.whole(2))
    stored = dump(tables)
    own = [script.arrival(output.record) for output in outputs if isinstance(output.record, JobStatus)]
    assert stage.write(own) == []
    assert dump(tables) == stored
    assert read(tables, "SELECT detail ->> 'stored' AS s FROM processing_jobs WHERE job_type = 'sink' ORDER BY s") == [
        ("summary",),
        ("transcript",),
    ]


def test_turns_that_the_completed_transcript_does_not_have_go(tables: Tables) -> None:
    script = CallScript("call-1")
    stage = SinkStage(tables)
    early = script.turns(5)
    stage.write([script.arrival(turn) for turn in early])
    stage.write([script.arrival(part) for part in script.completed(early[:3])])
    assert read(tables, "SELECT count(*) FROM transcript_segments") == [(3,)]


@pytest.mark.parametrize("together", [True, False])
def test_a_newer_revision_replaces_turns_gaps_and_figures_of_the_older(tables: Tables, together: bool) -> None:
    script = CallScript("call-1")
    older, newer = script.turns(3), script.turns(4, revision=1, first=2)
    records = [
        *map(script.arrival, older),
        *map(script.arrival, script.completed(older, gaps=3, provisional=True)),
        *map(script.arrival, newer),
        *map(script.arrival, script.completed(newer, revision=1, gaps=1, parts=2)),
    ]
    stage = SinkStage(tables)
    for batch in [records] if together else [[record] for record in records]:
        stage.write(batch)
    ids = read(tables, "SELECT id::VARCHAR FROM transcript_segments ORDER BY start_time")
    assert ids == [(turn.turn_id,) for turn in newer]
    assert read(tables, "SELECT revision, provisional, status FROM audio_sessions") == [(1, False, "completed")]
    assert read(tables, "SELECT count(*) FROM gaps") == [(1,)]
    assert read(tables, "SELECT DISTINCT revision FROM transcript_parts") == [(1,)]


@pytest.mark.parametrize("together", [True, False])
def test_unheard_speech_is_stored_with_its_transcript_and_replaced_with_it(tables: Tables, together: bool) -> None:
    script = CallScript("call-1")
    spans = [
        ChannelUnheard(channel=n % 2, start_s=2.0 * n, end_s=2.0 * n + 0.5, level_dbfs=-30.5, reason="no_words")
        for n in range(4)
    ]
    (older,) = script.completed(script.turns(3), provisional=True)
    first, second = script.completed(script.turns(3, revision=1), revision=1, parts=2)
    records = [
        script.arrival(msgspec.structs.replace(older, unheard=spans)),
        script.arrival(msgspec.structs.replace(first, unheard=spans[:1])),
        script.arrival(msgspec.structs.replace(second, unheard=spans[3:])),
    ]
    stage = SinkStage(tables)
    for batch in [records] if together else [[record] for record in records]:
        stage.write(batch)
    stage.write(records[:1])
    stored = read(
        tables, "SELECT revision, channel, start_time, end_time, level_dbfs, reason FROM unheard ORDER BY ALL"
    )
    assert stored == [(1, 0, 0.0, 0.5, -30.5, "no_words"), (1, 1, 6.0, 6.5, -30.5, "no_words")]


def test_stale_turns_of_a_replay_do_not_come_back(tables: Tables) -> None:
    script = CallScript("call-1")
    older, newer = script.turns(5), script.turns(2, revision=1, first=3)
    records = [
        *map(script.arrival, older),
        *map(script.arrival, script.completed(older[:4])),
        *map(script.arrival, newer),
        *map(script.arrival, script.completed(newer, revision=1)),
    ]
    stage = SinkStage(tables)
    stage.write(records)
    before = dump(tables)
    for record in records:
        stage.write([record])
        assert dump(tables) == before


def test_a_reopened_call_is_in_progress_until_its_next_revision_is_complete(tables: Tables) -> None:
    script = CallScript("call-1")
    stage = SinkStage(tables)
    stage.write([script.arrival(part) for part in script.completed(script.turns(1), provisional=True)])
    stage.write([script.arrival(turn) for turn in script.turns(1, revision=1, first=1)])
    assert read(tables, "SELECT status FROM audio_sessions") == [("in_progress",)]


def test_a_turn_removed_by_a_transcript_may_return_with_a_newer_revision(tables: Tables) -> None:
    script = CallScript("call-1")
    stage = SinkStage(tables)
    turns = script.turns(2)
    stage.write([script.arrival(turn) for turn in turns])
    again = script.turns(1, revision=1, first=1)
    stage.write([*map(script.arrival, script.completed(turns[:1])), *map(script.arrival, again)])
    assert read(tables, "SELECT revision FROM transcript_segments ORDER BY start_time") == [(0,), (1,)]


def test_a_later_summary_replaces_an_earlier_one_even_after_a_replay(tables: Tables) -> None:
    script = CallScript("call-1")
    stage = SinkStage(tables)
    first, second = script.arrival(script.summary(text="picked")), script.arrival(script.summary(text="told", llm=True))
    stage.write([first])
    stage.write([second])
    assert stage.write([first]) == []
    assert read(tables, "SELECT summary_text, method, sentiment FROM summaries") == [("told", "llm", "neutral")]


def test_the_final_summary_is_shown_before_the_rolling_one(tables: Tables) -> None:
    script = CallScript("call-1")
    stage = SinkStage(tables)
    stage.write([script.arrival(script.summary(kind="rolling", text="so far"))])
    assert read(tables, "SELECT summary FROM calls") == [("so far",)]
    stage.write([script.arrival(script.summary(text="in the end"))])
    assert read(tables, "SELECT summary FROM calls") == [("in the end",)]


def test_a_job_is_one_row_whose_status_is_the_latest_whatever_is_read_again(tables: Tables) -> None:
    script = CallScript("call-1")
    stage = SinkStage(tables)
    started = script.arrival(script.job("merge", "started", {"a": 1}, at=100.0))
    completed = script.arrival(script.job("merge", "completed", {"b": 2}, at=100.0))
    for batch in ([started], [completed], [started], [started, completed]):
        stage.write(batch)
    assert read(tables, "SELECT status, epoch(started_at), epoch(completed_at), detail FROM processing_jobs") == [
        ("completed", 100.0, 100.0, '{"a":1,"b":2}')
    ]


def test_updates_of_a_call_have_rows_of_their_own_and_do_not_describe_it(tables: Tables) -> None:
    script = CallScript("call-1")
    details: list[dict[str, object]] = [{"event": 7, "from_s": 3.0, "language": "es"}, {"event": 9}]
    updates = [script.arrival(script.job("separate", "updated", detail)) for detail in details]
    started = script.arrival(script.job("separate", "started", {"language": "en", "channels": 2}))
    SinkStage(tables).write([*updates, started, updates[0]])
    assert read(tables, "SELECT status FROM processing_jobs ORDER BY ALL") == [
        ("started",),
        ("updated",),
        ("updated",),
    ]
    assert read(tables, "SELECT language FROM audio_sessions") == [("en",)]


def test_a_failed_stage_fails_the_call_unless_it_has_a_transcript(tables: Tables) -> None:
    broken, summarized = CallScript("broken"), CallScript("fine")
    stage = SinkStage(tables)
    stage.write([broken.arrival(broken.job("separate", "failed", {"error": "not audio"}))])
    stage.write([*summarized.whole(1), summarized.arrival(summarized.job("summarize", "failed", {"error": "x"}))])
    assert read(tables, "SELECT call_id, status FROM audio_sessions ORDER BY ALL") == [
        ("broken", "failed"),
        ("fine", "completed"),
    ]
    assert read(tables, "SELECT error_message FROM processing_jobs WHERE status = 'failed' ORDER BY ALL") == [
        ("not audio",),
        ("x",),
    ]


@pytest.mark.parametrize("transcript_first", [False, True])
def test_a_call_with_undecodable_audio_has_failed_despite_its_transcript(
    tables: Tables, transcript_first: bool
) -> None:
    script = CallScript("garbage")
    failed = [script.arrival(script.job("separate", "failed", {"reason": "undecodable: no audio"}))]
    transcript = [script.arrival(part) for part in script.completed([])]
    stage = SinkStage(tables)
    for batch in (transcript, failed) if transcript_first else (failed, transcript):
        stage.write(batch)
    assert read(tables, "SELECT status, reason, revision FROM audio_sessions") == [
        ("failed", "undecodable: no audio", 0)
    ]


@pytest.mark.parametrize("transcript_first", [False, True])
def test_a_call_that_could_not_be_merged_has_failed_until_a_later_revision(
    tables: Tables, transcript_first: bool
) -> None:
    script = CallScript("unmerged")

    def transcript(revision: int) -> list[Arrival]:
        return [script.arrival(part) for part in script.completed([], revision=revision)]

    def merged(status: JobState, revision: int) -> list[Arrival]:
        detail: dict[str, object] = {"revision": revision}
        if status == "failed":
            detail["reason"] = "failed 3 times"
        return [script.arrival(script.job("merge", status, detail))]

    stage = SinkStage(tables)
    query = "SELECT status, revision FROM audio_sessions"
    ends: list[tuple[JobState, int]] = [("failed", 1), ("completed", 2)]
    for status, revision in ends:
        batches = merged(status, revision), transcript(revision)
        for batch in reversed(batches) if transcript_first else batches:
            stage.write(batch)
        assert read(tables, query) == [(status, revision)]
    assert read(tables, "SELECT error_message FROM processing_jobs WHERE job_type = 'merge'") == [(None,)]


def test_a_call_of_which_nothing_could_be_used_has_failed_until_it_starts(tables: Tables) -> None:
    script = CallScript("headless")
    rejected = script.arrival(script.job("separate", "rejected", {"error": "the call has no start"}))
    stage = SinkStage(tables)
    stage.write([rejected])
    query = "SELECT status, reason FROM audio_sessions"
    assert read(tables, query) == [("failed", "the call has no start")]
    stage.write([script.arrival(script.job("separate", "started", {"channels": 1}))])
    assert read(tables, query) == [("in_progress", None)]
    stage.write([rejected])
    assert read(tables, query) == [("in_progress", None)]


def test_every_row_belongs_to_a_session_whatever_arrives_first(tables: Tables) -> None:
    rng = random.Random(4)
    stage = SinkStage(tables)
    for number in range(10):
        # Records of one topic stay in order, the topics come in any.
        by_topic: dict[type, list[Arrival]] = {}
        for record in CallScript(f"call-{number}").whole(3):
            by_topic.setdefault(type(record.record), []).append(record)
        for kind in rng.sample(list(by_topic), len(by_topic)):
            stage.write(by_topic[kind])
            for table in ("transcript_segments", "summaries", "processing_jobs", "call_metrics", "gaps"):
                orphans = f"SELECT count(*) FROM {table} WHERE session_id NOT IN (SELECT id FROM audio_sessions)"
                assert read(tables, orphans) == [(0,)]
    assert read(tables, "SELECT DISTINCT status, turns FROM calls") == [("completed", 3)]


def test_calls_of_two_tenants_with_one_call_id_stay_apart(tables: Tables) -> None:
    stage = SinkStage(tables)
    stage.write([*CallScript("call-1").whole(2), *CallScript("call-1", tenant="acme").whole(3)])
    assert read(tables, "SELECT tenant, turns FROM calls ORDER BY tenant") == [("acme", 3), ("default", 2)]


def test_any_cut_into_batches_gives_the_same_tables(tmp_path: Path) -> None:
    records = [record for n in range(3) for record in CallScript(f"call-{n}", seed=n).whole(4, parts=2)]
    dumps = []
    for seed in range(4):
        rng = random.Random(seed)
        with Tables(tmp_path / f"{seed}.duckdb") as tables:
            stage, at = SinkStage(tables), 0
            while at < len(records):
                size = len(records) if seed == 0 else rng.randint(1, 9)
                stage.write(records[max(0, at - rng.randint(0, 3) if seed else 0) : at + size])
                at += size
            dumps.append(dump(tables))
    assert all(other == dumps[0] for other in dumps[1:])


def test_quotes_control_characters_and_zero_bytes_are_stored_unchanged(tables: Tables) -> None:
    script = CallScript("it's; DROP TABLE audio_sessions --")
    text = "a \"b\" 'c' \x00 \x1f \u2028 \U0001f600 \\u0041"
    turn = msgspec.structs.replace(script.turns(1)[0], text=text)
    started = msgspec.structs.replace(script.started(), detail={"metadata": {"filename": text}})
    SinkStage(tables).write([script.arrival(turn), script.arrival(started)])
    assert read(tables, "SELECT text FROM transcript_segments") == [(text,)]
    assert read(tables, "SELECT filename, call_id FROM audio_sessions") == [(text, script.call.call_id)]


def _headers(record_type: str, number: str = "0") -> dict[str, str]:
    return {"ce_type": record_type, "ce_callseq": number}


def _changed(record: object, **values: object) -> bytes:
    return msgspec.json.encode({**msgspec.to_builtins(record), **values})


@pytest.mark.parametrize(
    ("topic", "headers", "value"),
    [
        (TRANSCRIPTS, {}, b"{}"),
        (TRANSCRIPTS, _headers("callstream.turn"), b"\xff\x00"),
        (TRANSCRIPTS, _headers("callstream.turn"), b"{}"),
        (TRANSCRIPTS, _headers("callstream.turn"), b"[" * 100_000),
        (SUMMARIES, _headers("callstream.turn"), _changed(CallScript("c").turns(1)[0])),
        (TRANSCRIPTS, _headers("callstream.turn", "-1"), _changed(CallScript("c").turns(1)[0])),
        (TRANSCRIPTS, _headers("callstream.turn", "9" * 40), _changed(CallScript("c").turns(1)[0])),
        (TRANSCRIPTS, _headers("callstream.turn"), _changed(CallScript("c").turns(1)[0], turn_id="1")),
        (TRANSCRIPTS, _headers("callstream.turn"), _changed(CallScript("c").turns(1)[0], channel=2**40)),
        (TRANSCRIPTS, _headers("callstream.turn"), _changed(CallScript("c").turns(1)[0], call_id="")),
        (TRANSCRIPTS, _headers("callstream.turn"), _changed(CallScript("c").turns(1)[0], tenant="a b")),
        (
            TRANSCRIPTS,
            _headers("callstream.transcript.completed"),
            _changed(CallScript("c").completed([])[0], part=2),
        ),
        (
            TRANSCRIPTS,
            _headers("callstream.transcript.completed"),
            _changed(CallScript("c").completed(CallScript("other").turns(1))[0]),
        ),
        (STATUS, _headers("callstream.job"), _changed(CallScript("c").started(), at=1e300)),
        (STATUS, _headers("callstream.job"), _changed(CallScript("c").started(), job=7)),
        (SUMMARIES, _headers("callstream.summary"), _changed(CallScript("c").summary(), revision=-1)),
    ],
)
def test_garbage_is_rejected_before_it_can_spoil_a_batch(topic: str, headers: dict[str, str], value: bytes) -> None:
    with pytest.raises(RejectedInput):
        stage_without_store().decode(topic, headers, value, 0.0)


def expired(*, first: int = 3, last: int = 5, calls: int = 2, at: float = 1.0) -> RecordsExpired:
    return RecordsExpired(
        stage="separate", group="separate", topic="calls.audio", partition=1, first=first, last=last, calls=calls, at=at
    )


def test_records_that_expired_unread_are_stored_without_a_call(tables: Tables) -> None:
    told: list[list[Loss]] = []
    stage = SinkStage(tables, lost=lambda: told.append(tables.losses()))
    for record in (expired(), expired(), expired(last=9), expired(first=20, last=20, calls=1, at=2.0)):
        stage.write([stage.decode(STATUS, {"ce_type": EXPIRED_TYPE}, msgspec.json.encode(record), 0.0)])
    assert read(tables, "SELECT count(*) FROM audio_sessions") == [(0,)]
    assert told[-1] == [Loss("separate", "calls.audio", 1, 8, 3, 2.0)]
    assert len(told) == 4


@pytest.mark.parametrize("record", [expired(first=6), expired(first=-1), expired(calls=-1), expired(at=1e99)])
def test_an_impossible_loss_is_rejected(record: RecordsExpired) -> None:
    with pytest.raises(RejectedInput, match="cannot be used"):
        stage_without_store().decode(STATUS, {"ce_type": EXPIRED_TYPE}, msgspec.json.encode(record), 0.0)


def test_what_expired_of_a_call_is_a_job_of_its_own_and_changes_no_other(tables: Tables) -> None:
    script = CallScript("call-1")
    stage = SinkStage(tables)
    stage.write(script.whole(4))
    before = read(tables, "SELECT status, uploaded_at, reason FROM audio_sessions")
    for last in (4, 6):
        detail = {"topic": "calls.audio", "first_number": 2, "last_number": last, "error": f"from number 2 to {last}"}
        stage.write([script.arrival(script.job("separate", "expired", detail))])
    assert read(tables, "SELECT status, uploaded_at, reason FROM audio_sessions") == before
    jobs = read(tables, "SELECT job_type, error_message FROM processing_jobs WHERE status = 'expired'")
    assert jobs == [("separate", "from number 2 to 6")]
    assert read(
        tables, "SELECT count(*) FROM processing_jobs WHERE status = 'completed' AND job_type = 'separate'"
    ) == [(1,)]
