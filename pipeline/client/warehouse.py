"""Read the warehouse with the product's own queries, through the instance that owns the file or from the file itself.

A query of an analyst may run for hours: see `pipeline.client.sql`.
"""

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import duckdb
import msgspec

from pipeline.errors import InputError, InstanceError
from pipeline.instance import InstanceInfo
from schemas.calls import CallRef
from stages.adapters.duckdb_file.files import TRUSTING
from stages.adapters.duckdb_file.quack import AUTHORIZATION_MACRO, NO_READ, load_extensions

Rows = tuple[list[str], list[tuple[Any, ...]]]
"""Column names, and the rows as Python values."""

_CALLS: Final = """
SELECT tenant, call_id, status, filename, uploaded_at, round(duration_s, 2) AS duration_s, channels, language, turns,
    words, gaps, sentiment, summary_method
FROM calls ORDER BY coalesce(uploaded_at, processed_at) DESC NULLS LAST, tenant, call_id
"""

_SHOW: Final = """
SELECT to_json({{
    'call_id': s.call_id, 'tenant': s.tenant, 'status': s.status, 'filename': s.filename, 'language': s.language,
    'duration_s': s.duration, 'revision': s.revision, 'provisional': s.provisional, 'reason': s.reason,
    'uploaded_at': strftime(s.uploaded_at, '{time}'), 'processed_at': strftime(s.processed_at, '{time}'),
    'channel_count': s.channels, 'roles': s.roles, 'metadata': s.metadata,
    'turns': (
        SELECT list({{
            'turn_id': id, 'speaker': speaker, 'channel': channel, 'start_s': start_time, 'end_s': end_time,
            'text': "text", 'confidence': confidence, 'language': language, 'segment_ids': segment_ids,
            'words': list_transform(words, lambda word: {{
                'text': word."text", 'start_s': word.start_time, 'end_s': word.end_time,
                'probability': word.probability, 'interpolated': word.interpolated
            }})
        }} ORDER BY start_time, channel, id) FROM transcript_segments WHERE session_id = '{session}'
    ),
    'summary': (
        SELECT {{
            'kind': kind, 'revision': revision, 'text': summary_text, 'key_points': key_points, 'sentiment': sentiment,
            'actions': actions, 'topics': topics, 'method': "method", 'model': model, 'detail': detail,
            'sentiments': sentiments, 'action_items': action_items, 'outcome': outcome, 'doubted': doubted
        }} FROM summaries WHERE session_id = '{session}' ORDER BY kind LIMIT 1
    ),
    'metrics': (
        SELECT {{
            'duration_s': duration_s, 'speech_s': speech_s, 'silence_s': silence_s,
            'longest_silence_s': longest_silence_s, 'overlap_s': overlap_s, 'interruptions': interruptions,
            'utterances': utterances
        }} FROM call_metrics WHERE session_id = '{session}'
    ),
    'channel_metrics': (
        SELECT list({{
            'channel': channel, 'role': "role", 'talk_s': talk_s, 'talk_ratio': talk_ratio, 'turns': turns,
            'words': words, 'words_per_minute': words_per_minute, 'interruptions': interruptions,
            'longest_monologue_s': longest_monologue_s, 'response_latency_s': response_latency_s,
            'responses': responses
        }} ORDER BY channel) FROM channel_metrics WHERE session_id = '{session}'
    ),
    'gaps': (
        SELECT list({{'start_s': start_time, 'end_s': end_time, 'events': events}} ORDER BY start_time)
        FROM gaps WHERE session_id = '{session}'
    ),
    'jobs': (
        SELECT list({{
            'job': job_type, 'status': status, 'started_at': strftime(started_at, '{time}'),
            'completed_at': strftime(completed_at, '{time}'), 'error': error_message, 'detail': detail
        }} ORDER BY updated_at, job_type, id) FROM processing_jobs WHERE session_id = '{session}'
    )
}})::VARCHAR AS call FROM audio_sessions AS s WHERE s.id = '{session}'
"""

_UNHEARD: Final = """
SELECT channel, start_time AS start_s, end_time AS end_s, level_dbfs, reason FROM unheard
WHERE session_id = '{session}' ORDER BY start_time, channel
"""

_HAS_UNHEARD: Final = "SELECT 1 FROM information_schema.tables WHERE table_name = 'unheard'"
"""False for a warehouse that no instance of this version has opened yet."""

_ENDED_AS: Final = """
SELECT status FROM audio_sessions WHERE id = '{session}' AND status <> 'in_progress' AND revision IS NOT NULL
    AND NOT provisional
"""

_IS_COMPLETE: Final = """
SELECT 1 FROM audio_sessions AS s JOIN summaries AS u ON u.session_id = s.id
WHERE s.id = '{session}' AND s.status = 'completed' AND u.kind = 'final' AND u.revision = s.revision
    AND NOT s.provisional
"""


class Reader:
    """Read-only SQL, from `open_reader`. A query sees what was stored when it began."""

    def __init__(self, run: Callable[[str], Rows], close: Callable[[], None]) -> None:
        self._run = run
        self.close = close

    def query(self, sql: str) -> Rows:
        """Run one SELECT that is known to end soon: the instance cannot stop it.

        Raises InputError for any other statement, InstanceError if no instance answers.
        """
        return self._run(sql)

    def calls(self) -> Rows:
        """Return all calls, newest first."""
        return self._run(_CALLS)

    def show(self, call: CallRef) -> dict[str, Any]:
        """Return one call's document. Raises InputError if there is no such call.

        Shape: `{"call_id", "tenant", "status", "duration_s", "channels": [{"index", "role"}], "turns": [{"speaker",
        "channel", "start_s", "end_s", "text", "words": [{"text", "start_s", "end_s", "probability"}]}], "summary":
        {"text", "key_points", "sentiment", "method"} or None, "metrics" or None, "gaps", "jobs", …}`.
        With speech that no words account for, it has `"unheard": [{"channel", "start_s", "end_s", "level_dbfs",
        "reason"}]`. If all channels carry the same audio, `one_channel` is the one that was used.
        """
        sql = _SHOW.format(session=call.session_id, time="%Y-%m-%dT%H:%M:%S.%fZ")
        _, rows = self._run(sql)
        if not rows:
            raise InputError(f"there is no call {call.call_id!r} of tenant {call.tenant!r}")
        document: dict[str, Any] = msgspec.json.decode(rows[0][0])
        roles, channels = document.pop("roles"), document.pop("channel_count")
        names = roles + [f"channel-{index}" for index in range(len(roles), channels or 0)]
        document["channels"] = [{"index": index, "role": role} for index, role in enumerate(names)]
        for name in ("turns", "gaps", "jobs"):
            document[name] = document[name] or []
        used = [job["detail"].get("one_channel") for job in document["jobs"] if job["job"] == "merge"]
        if any(channel is not None for channel in used):
            document["one_channel"] = next(channel for channel in used if channel is not None)
        channel_metrics = document.pop("channel_metrics") or []
        if document["metrics"] is not None:
            document["metrics"]["channels"] = channel_metrics
        if unheard := self._unheard(call):
            document["unheard"] = unheard
        return document

    def _unheard(self, call: CallRef) -> list[dict[str, Any]]:
        if not self._run(_HAS_UNHEARD)[1]:
            return []
        columns, rows = self._run(_UNHEARD.format(session=call.session_id))
        return [dict(zip(columns, row, strict=True)) for row in rows]

    def ended_as(self, call: CallRef) -> str | None:
        """Return `completed` or `failed`, or None for a call that still takes audio.

        A call takes audio before its start, while it runs, and after a provisional end (the idle limit).
        """
        status = self._one(_ENDED_AS, call.session_id)
        return None if status is None else str(status)

    def is_complete(self, call: CallRef) -> bool:
        """Return True once the completed transcript (not a provisional one) and its final summary are stored."""
        return self._one(_IS_COMPLETE, call.session_id) is not None

    def _one(self, sql: str, session: uuid.UUID) -> Any:
        _, rows = self._run(sql.format(session=session))
        return rows[0][0] if rows else None


def open_reader(path: Path, instance: InstanceInfo | None) -> Reader:
    """Open the warehouse at `path`, through `instance` if it serves it.

    A missing file reads as a warehouse without calls. Raises InstanceError if a process other than an instance has the
    file open.
    """
    if instance is not None and instance.quack_url is not None:
        return remote_reader(instance.quack_url, instance.quack_token or "")
    return _directly(path)


def remote_reader(url: str, token: str) -> Reader:
    """Open the database that another process serves at a Quack URL."""
    connection = duckdb.connect(config=TRUSTING)
    load_extensions(connection)

    def run(sql: str) -> Rows:
        try:
            asked = f"FROM quack_query({_literal(url)}, {_literal(sql)}, token = {_literal(token)})"
            return _fetch(connection.execute(asked))
        except duckdb.IOException as error:
            raise InstanceError(f"the running instance does not answer at {url}") from error
        except duckdb.Error as error:
            # After the owner's message DuckDB adds the position in our own statement.
            message = str(error).rpartition("\n\nLINE 1: FROM quack_query")[0] or str(error)
            raise InputError(NO_READ if "Authorization failed" in message else message) from error

    return Reader(run, connection.close)


def _directly(path: Path) -> Reader:
    if not path.exists():
        from stages.sink.tables import Tables

        # An empty warehouse in memory gives the same answers without creating the file.
        return _on(Tables(Path(":memory:")).connection)
    try:
        return _on(duckdb.connect(str(path), read_only=True))
    except duckdb.IOException as error:
        raise InstanceError(f"{path} cannot be opened: {error}") from error


def _on(connection: Any) -> Reader:
    connection.execute("SET enable_external_access = false")

    def run(sql: str) -> Rows:
        try:
            if connection.execute(f"SELECT {AUTHORIZATION_MACRO}('', {_literal(sql)})").fetchall() != [(True,)]:
                raise InputError(NO_READ)
            return _fetch(connection.execute(sql))
        except duckdb.Error as error:
            raise InputError(str(error)) from error

    return Reader(run, connection.close)


def _literal(text: str) -> str:
    """Return `text` as a string of SQL. A bound parameter has DuckDB import pandas, for a second or two of CPU."""
    return "'" + text.replace("'", "''") + "'"


def _fetch(result: Any) -> Rows:
    rows: list[tuple[Any, ...]] = result.fetchall()
    return [column[0] for column in result.description or []], rows
