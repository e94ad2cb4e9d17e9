"""Reading the warehouse, from the file and through the instance that owns it."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import duckdb
import msgspec
import pytest

from pipeline.client.warehouse import Reader, open_reader
from pipeline.errors import InputError, InstanceError
from pipeline.instance import InstanceInfo
from schemas.calls import CallRef
from schemas.status import JobStatus
from schemas.transcripts import ChannelUnheard
from stages.adapters.duckdb_file.quack import free_port
from stages.sink.stage import SinkStage
from stages.sink.tables import Tables
from tests.unit.stages.sink.calls import CallScript

TOKEN = "0123456789abcdef0123456789abcdef"


def instance(quack_url: str) -> InstanceInfo:
    return InstanceInfo(
        pid=os.getpid(),
        bus_url="nats://127.0.0.1:1",
        quack_url=quack_url,
        quack_token=TOKEN,
        metrics_url=None,
        started_at=0.0,
    )


@contextlib.contextmanager
def reader_of(tables: Tables, path: Path, mode: str) -> Iterator[Reader]:
    """A reader of what `tables` holds; the owner is closed first where the file is read directly."""
    if mode == "through the owner":
        reader = open_reader(path, instance(tables.serve(TOKEN, free_port())))
    else:
        tables.close()
        reader = open_reader(path, None)
    with contextlib.closing(reader):
        yield reader


@pytest.fixture(params=["through the owner", "from the file"])
def reader(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Reader]:
    path = tmp_path / "calls.duckdb"
    with contextlib.closing(Tables(path)) as tables:
        stage = SinkStage(tables)
        stage.write(CallScript("call-1").whole(4))
        running = CallScript("call-2", tenant="acme")
        stage.write([running.arrival(running.started()), *map(running.arrival, running.turns(2))])
        with reader_of(tables, path, request.param) as opened:
            yield opened


def test_a_query_with_plain_table_names_gives_columns_and_rows_in_order(reader: Reader) -> None:
    columns, rows = reader.query("SELECT speaker, start_time FROM transcript_segments ORDER BY start_time DESC, id")
    assert columns == ["speaker", "start_time"]
    assert [start for _, start in rows] == [9.0, 6.0, 3.0, 3.0, 0.0, 0.0]


@pytest.mark.parametrize("sql", ["SHOW TABLES", "DESCRIBE calls", "FROM words", "SUMMARIZE turns"])
def test_looking_around_works(reader: Reader, sql: str) -> None:
    assert reader.query(sql)[1]


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM audio_sessions",
        "WITH x AS (SELECT 1) INSERT INTO schema_version SELECT 2, 'x' FROM x",
        "SELECT 1; SELECT 2",
        "COPY audio_sessions TO '/tmp/out.csv'",
        "ATTACH ':memory:' AS other",
        "SET threads = 1",
        "SELECT * FROM read_csv('/etc/passwd')",
        "",
    ],
)
def test_what_is_no_read_is_refused_and_it_is_said_what_is_possible(reader: Reader, sql: str) -> None:
    with pytest.raises(InputError, match="only one statement that reads"):
        reader.query(sql)


def test_a_wrong_query_is_the_callers_error_in_the_words_of_the_database(reader: Reader) -> None:
    with pytest.raises(InputError, match="nope") as caught:
        reader.query("SELECT nope FROM calls")
    assert "quack_query" not in str(caught.value)


def test_a_duckdb_error_leaves_the_reader_usable(reader: Reader) -> None:
    with pytest.raises(InputError):
        reader.query("SELECT CAST('x' AS INTEGER)")
    assert reader.query("SELECT 1 AS one") == (["one"], [(1,)])


def test_a_shown_call_has_the_promised_shape(reader: Reader) -> None:
    script = CallScript("call-1")
    document = reader.show(CallRef("default", "call-1"))
    assert document["call_id"] == "call-1"
    assert document["tenant"] == "default"
    assert document["status"] == "completed"
    assert document["duration_s"] == 12.0
    assert document["language"] == "en"
    assert document["channels"] == [{"index": 0, "role": "agent"}, {"index": 1, "role": "customer"}]
    for shown, turn in zip(document["turns"], script.turns(4), strict=True):
        said = msgspec.to_builtins(turn)
        assert {name: shown[name] for name in ("speaker", "channel", "start_s", "end_s", "text", "words")} == {
            name: said[name] for name in ("speaker", "channel", "start_s", "end_s", "text", "words")
        }
        assert shown["turn_id"] == turn.turn_id
        assert shown["segment_ids"] == turn.segment_ids
    summary = document["summary"]
    assert (summary["text"], summary["sentiment"], summary["method"]) == ("They talked.", None, "extractive")
    assert summary["key_points"] == [{"text": "a point", "segment_ids": [str(script.call.derived_id("segment", 0))]}]
    completed = script.completed(script.turns(4))[0]
    assert document["metrics"] == {**msgspec.to_builtins(completed.metrics), "utterances": 4}
    assert document["gaps"] == [{"start_s": 0.0, "end_s": 1.0, "events": 2}]
    assert {job["job"] for job in document["jobs"]} == {"separate", "transcribe", "merge", "summarize", "sink"}
    assert document["metadata"] == {"filename": "call.wav", "queue": "billing"}
    assert document["uploaded_at"].startswith("2026-")
    assert document["uploaded_at"].endswith("Z")


def test_a_shown_call_has_its_unheard_speech_and_a_file_without_the_table_is_read(tmp_path: Path) -> None:
    path = tmp_path / "calls.duckdb"
    script = CallScript("call-1")
    (completed,) = script.completed(script.turns(2))
    span = {"channel": 1, "start_s": 2.5, "end_s": 3.5, "level_dbfs": -20.5, "reason": "low_probability"}
    with contextlib.closing(Tables(path)) as tables:
        record = msgspec.structs.replace(completed, unheard=[msgspec.convert(span, ChannelUnheard)])
        SinkStage(tables).write([script.arrival(record)])
    with contextlib.closing(open_reader(path, None)) as opened:
        assert opened.show(CallRef("default", "call-1"))["unheard"] == [span]
    with duckdb.connect(str(path)) as connection:
        connection.execute("DROP TABLE unheard")
    with contextlib.closing(open_reader(path, None)) as opened:
        assert "unheard" not in opened.show(CallRef("default", "call-1"))


def test_a_call_in_progress_is_shown_with_its_turns_and_without_what_is_not_known(reader: Reader) -> None:
    document = reader.show(CallRef("acme", "call-2"))
    assert document["status"] == "in_progress"
    assert len(document["turns"]) == 2
    assert (document["summary"], document["metrics"], document["gaps"]) == (None, None, [])


def test_a_call_of_another_tenant_is_not_found(reader: Reader) -> None:
    with pytest.raises(InputError, match="no call 'call-2' of tenant 'default'"):
        reader.show(CallRef("default", "call-2"))


def test_the_calls_are_listed_and_their_status_is_told(reader: Reader) -> None:
    columns, rows = reader.calls()
    listed = [dict(zip(columns, row, strict=True)) for row in rows]
    assert {(call["tenant"], call["call_id"], call["status"], call["turns"]) for call in listed} == {
        ("default", "call-1", "completed", 4),
        ("acme", "call-2", "in_progress", 2),
    }
    assert reader.ended_as(CallRef("default", "call-1")) == "completed"
    assert reader.ended_as(CallRef("default", "call-3")) is None
    assert reader.is_complete(CallRef("default", "call-1"))
    assert not reader.is_complete(CallRef("acme", "call-2"))


def test_a_call_is_not_complete_before_the_summary_of_its_revision(tmp_path: Path) -> None:
    path = tmp_path / "calls.duckdb"
    script = CallScript("call-1")
    with Tables(path) as tables:
        turns = script.turns(1)
        transcript = [script.arrival(part) for part in script.completed(turns, revision=1)]
        SinkStage(tables).write([script.arrival(script.summary()), *transcript])
    with contextlib.closing(open_reader(path, None)) as reader:
        assert not reader.is_complete(script.call)


def test_a_call_that_the_idle_limit_ended_would_take_more_audio(tmp_path: Path) -> None:
    path = tmp_path / "calls.duckdb"
    script = CallScript("call-1")
    with Tables(path) as tables:
        transcript = [script.arrival(part) for part in script.completed(script.turns(1), provisional=True)]
        SinkStage(tables).write([*transcript, script.arrival(script.summary())])
    with contextlib.closing(open_reader(path, None)) as reader:
        assert reader.query("SELECT status FROM audio_sessions")[1] == [("completed",)]
        assert reader.ended_as(script.call) is None
        assert not reader.is_complete(script.call)


def test_a_call_of_which_only_a_ledger_entry_is_known_can_be_shown(tmp_path: Path) -> None:
    path = tmp_path / "calls.duckdb"
    script = CallScript("call-1")
    with Tables(path) as tables:
        entry: JobStatus = script.job("separate", "rejected", {"error": "no start"})
        SinkStage(tables).write([script.arrival(entry)])
    with contextlib.closing(open_reader(path, None)) as reader:
        document = reader.show(script.call)
    assert (document["channels"], document["turns"], document["duration_s"]) == ([], [], None)
    assert document["jobs"][0]["error"] == "no start"


def test_a_data_directory_without_a_file_has_no_calls_and_gets_no_file(tmp_path: Path) -> None:
    with contextlib.closing(open_reader(tmp_path / "calls.duckdb", None)) as reader:
        assert reader.calls()[1] == []
        assert reader.ended_as(CallRef("default", "call-1")) is None
        assert reader.query("SELECT count(*) AS n FROM words") == (["n"], [(0,)])
    assert os.listdir(tmp_path) == []


def test_an_instance_that_is_gone_is_an_instance_error(tmp_path: Path) -> None:
    with (
        contextlib.closing(
            open_reader(tmp_path / "calls.duckdb", instance(f"quack:127.0.0.1:{free_port()}"))
        ) as reader,
        pytest.raises(InstanceError, match="does not answer"),
    ):
        reader.calls()


def test_a_file_that_is_no_database_is_an_instance_error(tmp_path: Path) -> None:
    (tmp_path / "calls.duckdb").write_text("hello")
    with pytest.raises(InstanceError, match="cannot be opened"):
        open_reader(tmp_path / "calls.duckdb", None)
