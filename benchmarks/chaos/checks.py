"""Invariants of one run, and the comparison with the undisturbed run of the same calls."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import msgspec

from benchmarks.chaos.evidence import Evidence, RecordSeen
from benchmarks.chaos.run import Outcome
from schemas import topics

NUMBERED = (
    topics.AUDIO,
    topics.AUDIO_BATCH,
    topics.UTTERANCES,
    topics.UTTERANCES_BATCH,
    topics.SEGMENTS,
    topics.TRANSCRIPTS,
    topics.SUMMARIES,
)
JOBS = {"separate", "transcribe", "merge", "summarize"}


class Findings(msgspec.Struct):
    """Violations, a line each in `wrong`, and counts for the report."""

    wrong: list[str] = []
    lost: Counter[str] = msgspec.field(default_factory=Counter)
    doubled: Counter[str] = msgspec.field(default_factory=Counter)
    altered: Counter[str] = msgspec.field(default_factory=Counter)
    repeats: Counter[str] = msgspec.field(default_factory=Counter)
    records: Counter[str] = msgspec.field(default_factory=Counter)


def check(chaos: Outcome, calm: Outcome) -> Findings:
    """Run all checks. The calm run is checked too: a comparison with a broken run proves nothing."""
    findings = Findings()
    for name, outcome in (("calm", calm), ("chaos", chaos)):
        findings.wrong += [f"{name}: {line}" for line in _by_itself(outcome)]
    _count_repeats(findings, chaos.evidence)
    _compare_records(findings, chaos.evidence, calm.evidence)
    _compare_tables(findings, chaos.evidence, calm.evidence)
    return findings


def _by_itself(outcome: Outcome) -> Iterator[str]:
    evidence = outcome.evidence
    yield from _one_set_of_bytes(evidence)
    yield from _numbers_without_holes(evidence)
    yield from _ledger(outcome)
    yield from _warehouse(evidence)
    yield from _letters_of_poison(outcome)
    letters = [record for record in evidence.records if record.topic == topics.DEAD_LETTERS]
    if letters:
        yield f"{len(letters)} dead letters: {letters[:3]}"
    if outcome.left_unacknowledged:
        yield f"{outcome.left_unacknowledged} records are left unacknowledged"
    yield from outcome.ended_badly


def _one_set_of_bytes(evidence: Evidence) -> Iterator[str]:
    seen: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    for record in evidence.records:
        seen[record.topic, record.source, record.event_id].add(record.whole)
    for (topic, _, event_id), digests in seen.items():
        if len(digests) > 1:
            yield f"{topic}: the id {event_id} has {len(digests)} different contents"


def _numbers_without_holes(evidence: Evidence) -> Iterator[str]:
    numbers: dict[tuple[str, str, str], dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
    partitions: dict[tuple[str, str, str], set[int]] = defaultdict(set)
    for record in evidence.records:
        if record.topic in NUMBERED and record.event_type != "callstream.call.idle":
            place = (record.topic, record.tenant, record.call_id)
            partitions[place].add(record.partition)
            if record.seq is not None:
                numbers[place][record.seq].add(record.event_id)
    for place, found in numbers.items():
        if sorted(found) != list(range(len(found))):
            yield f"{place}: the numbers have holes: {sorted(set(range(max(found))) - found.keys())[:10]}"
        if any(len(ids) > 1 for ids in found.values()):
            yield f"{place}: a number has more than one id"
    for place, where in partitions.items():
        if len(where) > 1:
            yield f"{place}: its records are in the partitions {sorted(where)}"


def _ledger(outcome: Outcome) -> Iterator[str]:
    """Every job of every call is completed, and what one stage counts the next one counts too."""
    tables = outcome.evidence.tables
    jobs: dict[Any, dict[str, dict[str, Any]]] = defaultdict(dict)
    for row in tables["processing_jobs"]:
        detail = json.loads(row["detail"])
        name = row["job_type"] + (f" {detail['stored']}" if "stored" in detail else "")
        if row["status"] != "completed":
            yield f"the job {name} of {row['session_id']} is {row['status']}: {row['error_message'] or detail}"
        jobs[row["session_id"]][name] = detail
    on_topics: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for record in {(record.topic, record.event_id): record for record in outcome.evidence.records}.values():
        on_topics[record.tenant, record.call_id][record.kind] += 1
    for session in tables["audio_sessions"]:
        call = jobs[session["id"]]
        if call.keys() != JOBS | {"sink transcript", "sink summary"}:
            yield f"{session['call_id']} has the jobs {sorted(call)}"
            continue
        counts = on_topics[session["tenant"], session["call_id"]]
        figures = {
            "cut": call["separate"].get("utterances"),
            "on the utterances topic": counts["utterance.1"],
            "transcribed": call["transcribe"].get("utterances"),
            "on the segments topic": counts["segment.1"],
            "merged": call["merge"].get("segments"),
        }
        if len(set(figures.values())) > 1:
            yield f"the ledger of {session['call_id']} is not balanced: {figures}"
        if (turns := call["merge"].get("turns")) != (stored := call["sink transcript"]["turns"]):
            yield f"{session['call_id']} has {turns} turns, {stored} stored"


def _warehouse(evidence: Evidence) -> Iterator[str]:
    tables = evidence.tables
    sessions = {row["id"] for row in tables["audio_sessions"]}
    if tables["expired_records"]:
        yield f"records expired unread: {tables['expired_records']}"
    for table, rows in tables.items():
        if table not in ("audio_sessions", "expired_records") and (
            orphans := [row for row in rows if row["session_id"] not in sessions]
        ):
            yield f"{table} has {len(orphans)} rows without a call"
    names = Counter((row["tenant"], row["call_id"]) for row in tables["audio_sessions"])
    turns = Counter(
        (row["session_id"], row["channel"], row["start_time"], row["text"]) for row in tables["transcript_segments"]
    )
    summaries = Counter((row["session_id"], row["kind"]) for row in tables["summaries"])
    for what, counted in (("calls", names), ("turns", turns), ("summaries", summaries)):
        if doubled := [name for name, n in counted.items() if n > 1]:
            yield f"{len(doubled)} {what} are doubled in the warehouse: {doubled[:3]}"


def _letters_of_poison(outcome: Outcome) -> Iterator[str]:
    """Every stage that reads its topic has given a poison up, and no other stage."""
    found: dict[int, set[str]] = defaultdict(set)
    for letter in outcome.evidence.letters:
        found[letter.poison].add(letter.stage)
    for poison in outcome.done.poisons:
        if found[poison.number] != set(poison.readers):
            what = f"poison {poison.number}, {poison.kind}, on {poison.topic}"
            yield f"{what}: it is a dead letter of {sorted(found[poison.number])}, not of {list(poison.readers)}"


def _count_repeats(findings: Findings, evidence: Evidence) -> None:
    """Count records that an outside consumer gets again under the same id."""
    findings.records = Counter(record.topic for record in evidence.records)
    ids = Counter(topic for topic, _, _ in {(r.topic, r.source, r.event_id) for r in evidence.records})
    findings.repeats = findings.records - ids


def _compare_records(findings: Findings, chaos: Evidence, calm: Evidence) -> None:
    """Compare all records by id, those of the ledger included, which have no numbers."""
    ours, theirs = _by_id(chaos), _by_id(calm)
    for place in ours.keys() | theirs.keys():
        topic, event_id = place
        if place not in ours:
            findings.lost[topic] += 1
            findings.wrong.append(f"{topic}: {event_id} is lost")
        elif place not in theirs:
            findings.doubled[topic] += 1
            findings.wrong.append(f"{topic}: {event_id} is not in the calm run")
        elif ours[place].same != theirs[place].same:
            findings.altered[topic] += 1
            findings.wrong.append(f"{topic}: {event_id} is not what it is in the calm run")


def _by_id(evidence: Evidence) -> dict[tuple[str, str], RecordSeen]:
    """Map records by topic and id, without those of the idle limit, which depend on time."""
    return {
        (record.topic, f"{record.source} {record.event_id}"): record
        for record in evidence.records
        if record.event_type != "callstream.call.idle"
    }


def _compare_tables(findings: Findings, chaos: Evidence, calm: Evidence) -> None:
    for table, rows in calm.tables.items():
        theirs = {row["id"]: row for row in rows}
        ours = {row["id"]: row for row in chaos.tables[table]}
        findings.lost[table] += len(theirs.keys() - ours.keys())
        findings.doubled[table] += len(ours.keys() - theirs.keys())
        altered = [row for row in rows if row["id"] in ours and ours[row["id"]] != row]
        findings.altered[table] += len(altered)
        for row in altered[:5]:
            other = ours[row["id"]]
            columns = {name: (row[name], other[name]) for name in row if row[name] != other[name]}
            findings.wrong.append(f"{table}: {row['id']} differs from the calm run (calm, chaos): {columns}")
        if theirs.keys() != ours.keys():
            missing, more = len(theirs.keys() - ours.keys()), len(ours.keys() - theirs.keys())
            findings.wrong.append(f"{table}: {missing} rows are lost and {more} too many")
