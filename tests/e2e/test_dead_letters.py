"""Operators and records that no stage could use: `callstream dead-letters` on a running instance."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.calls.wording import holds
from tests.e2e.test_outsiders import Producer, blocks, connect, headers, subject_of
from tests.support.processes.deployment import Deployment, said

pytestmark = pytest.mark.slow


def letters(running: Deployment, *more: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(running.run("dead-letters", "list", "--json", *more).stdout)
    return found


async def until_letters(running: Deployment, count: int, *more: str) -> list[dict[str, Any]]:
    for _ in range(40):
        found = await asyncio.to_thread(letters, running, *more)
        if len(found) == count:
            return found
        await asyncio.sleep(0.5)
    raise AssertionError(f"{len(found)} letters, not {count}: {found}")


async def until_final(running: Deployment, call: str) -> dict[str, Any]:
    """The document once the call has ended by its end event; the idle limit may have ended it for a while before."""
    document = None
    for _ in range(60):
        document = await asyncio.to_thread(running.show, call)
        if document is not None and document["status"] == "completed" and not document["provisional"]:
            return document
        await asyncio.sleep(1.0)
    raise AssertionError(f"{call} does not end: {document}")


async def test_a_call_whose_start_came_last_is_completed_by_replaying_its_letters(
    running: Deployment, short_call: Path
) -> None:
    client = await connect(running)
    producer = Producer(client.jetstream(), "startless/1 é")
    producer.seq = 1
    for block in blocks(short_call):
        await producer.chunk(block)
    await producer.end()
    events = producer.seq - 1
    found = await until_letters(running, events, "--call", producer.call)
    assert [letter["event"] for letter in found] == list(range(1, events + 1))
    assert {letter["message"] for letter in found} == {"the call has no start"}
    assert letters(running, "--call", "another") == []
    assert len(letters(running, "--call", producer.call, "--error", "no start", "--stage", "separate")) == events

    producer.seq = 0
    await producer.start()
    done = await asyncio.to_thread(running.run, "dead-letters", "replay", "--call", producer.call)
    assert done.stdout.splitlines() == [f"replayed {letter['id']}" for letter in found]
    document = await until_final(running, producer.call)
    assert holds(document["turns"][0]["text"], "Thank you for calling Northwind Energy")
    assert [turn["speaker"] for turn in document["turns"]] == ["agent", "customer", "agent", "customer"]
    assert document["duration_s"] == pytest.approx(18.0, abs=0.1)
    assert document["gaps"] == []

    assert letters(running, "--call", producer.call) == []
    everything = letters(running, "--call", producer.call, "--all")
    assert [letter["id"] for letter in everything] == [letter["id"] for letter in found]
    assert {letter["state"] for letter in everything} == {"replayed"}
    again = await asyncio.to_thread(running.run, "dead-letters", "replay", "--call", producer.call)
    assert (again.stdout, again.stderr) == ("", "no open dead letter matches\n")

    some = [letter["id"] for letter in found[:5]]
    await asyncio.to_thread(running.run, "dead-letters", "replay", *some)
    producer.seq = events + 1
    await producer.chunk(bytes(3200))  # behind the end: once it is a letter, the replayed ones were looked at
    await until_letters(running, 1, "--call", producer.call)
    await client.close()
    after = await until_final(running, producer.call)
    assert (after["revision"], said(after)) == (document["revision"], said(document))


async def test_a_letter_shows_what_was_rejected_and_can_be_given_up(running: Deployment, tmp_path: Path) -> None:
    client = await connect(running)
    js = client.jetstream()
    call = "unreadable"
    value = b"\xff\x00" * 350_000
    await js.publish(subject_of(call), value, headers=headers(call, 0, "callstream.call.started", "application/json"))
    await js.publish(subject_of(call), b"plain words", headers=headers(call, 1, "no.such.type", "text/plain"))
    await client.close()
    large, small = await until_letters(running, 2, "--call", call)
    shown = running.run("dead-letters", "show", small["id"]).stdout
    for expected in (small["id"], "open", "unreadable (tenant default)", "no.such.type", "text/plain", "plain words"):
        assert expected in shown
    target = tmp_path / "value.bin"
    shown = running.run("dead-letters", "show", large["id"], "--value", str(target)).stdout
    assert "700000 bytes" in shown
    assert "ff00ff00" in shown
    assert target.read_bytes() == value
    table = running.run("dead-letters", "list", "--call", call).stdout
    assert small["id"] in table
    assert "2 rows" in table

    assert running.run("dead-letters", "drop", small["id"]).stdout == f"dropped {small['id']}\n"
    assert [letter["id"] for letter in letters(running, "--call", call)] == [large["id"]]
    assert [letter["state"] for letter in letters(running, "--call", call, "--all")] == ["open", "dropped"]
    # What is wrong with the record itself fails again, as a letter of its own.
    running.run("dead-letters", "replay", large["id"])
    [again] = await until_letters(running, 1, "--call", call)
    assert again["id"] != large["id"]
    assert again["message"] == large["message"]
    running.run("dead-letters", "drop", "--call", call)


def test_what_is_meant_must_be_said(running: Deployment) -> None:
    for command in ("replay", "drop"):
        refused = running.run("dead-letters", command, check=False)
        assert refused.returncode == 2
        assert "--all" in refused.stderr
    unknown = running.run("dead-letters", "show", "separate/calls.audio/0/999999", check=False)
    assert unknown.returncode == 2
    assert unknown.stderr == "callstream: there is no dead letter 'separate/calls.audio/0/999999'\n"
