"""A viewer who comes while a call is running, with the real model."""

import asyncio
import re
from pathlib import Path

import pytest

from pipeline.bus.opening import open_bus
from pipeline.bus.protocol import Bus
from schemas import envelope, topics
from schemas.calls import CallRef
from schemas.utterances import Utterance
from tests.e2e.logins import bus_login
from tests.e2e.test_partials import check, stored
from tests.support.processes.deployment import SAMPLE_ROLES, Deployment

CALL = CallRef("default", "joined")
LINE = re.compile(r"^(\d\d:\d\d\.\d)–(\d\d:\d\d\.\d)  (\w+) +(.*)$")

pytestmark = pytest.mark.slow


async def test_who_watches_a_call_that_did_not_ask_reads_along_from_then_on(
    running: Deployment, short_call: Path
) -> None:
    bus = await open_bus(*bus_login(running))
    publisher = running.publish(short_call, CALL.call_id, "--realtime", "--roles", SAMPLE_ROLES)
    try:
        await until_an_utterance_is_over(bus)
        watching = running.watch(CALL.call_id)
        try:
            await asyncio.to_thread(publisher.communicate, timeout=60)
            printed, notes = await asyncio.to_thread(watching.communicate, timeout=60)
        finally:
            watching.kill()
        assert watching.returncode == 0, notes
        assert notes.endswith("joined has ended after 18.0 s\n")
        document = await asyncio.to_thread(running.wait_completed, CALL.call_id)
        partials, segments = await stored(bus)
    finally:
        await bus.close()
    partials = [partial for partial in partials if partial.call_id == CALL.call_id]
    segments = [segment for segment in segments if segment.call == CALL]
    check(partials, segments)
    shown = {partial.utterance_id for partial in partials}
    assert shown
    assert segments[0].segment_id not in shown
    lines = [found.groups() for found in map(LINE.match, printed.splitlines()) if found]
    turns = [(speaker, text) for _, _, speaker, text in lines if not text.endswith("…")]
    assert turns == [(turn["speaker"], turn["text"]) for turn in document["turns"]]
    said = [text.removesuffix(" …") for *_, text in lines if text.endswith("…")]
    assert said
    assert set(said) <= {(partial.committed + partial.tail).strip() for partial in partials}


async def until_an_utterance_is_over(bus: Bus) -> None:
    async with asyncio.timeout(60):
        while True:
            records = [envelope.decode(record.value) async for record in bus.stored(topics.UTTERANCES, key=CALL.key)]
            if any(isinstance(record, Utterance) for record in records):
                return
            await asyncio.sleep(0.1)


async def test_a_call_that_has_ended_is_printed_and_one_that_does_not_exist_is_waited_for(
    running: Deployment, greeting: Path
) -> None:
    await asyncio.to_thread(running.publish(greeting, "told", "--roles", SAMPLE_ROLES).communicate, timeout=60)
    document = await asyncio.to_thread(running.wait_completed, "told")
    done = await asyncio.to_thread(running.run, "watch", "told")
    assert [line.partition("agent ")[2].strip() for line in done.stdout.splitlines()] == [
        turn["text"] for turn in document["turns"]
    ]
    waiting = running.watch("nobody's")
    assert waiting.stderr is not None
    note = await asyncio.to_thread(waiting.stderr.readline)
    waiting.terminate()
    printed, _ = await asyncio.to_thread(waiting.communicate, timeout=20)
    assert (note, printed, waiting.returncode) == ("no speech in nobody's yet: waiting\n", "", 0)
    assert await asyncio.to_thread(running.show, "nobody's") is None
    assert "nobody's" not in running.run("dead-letters", "list").stdout
