"""Producers gone mad: whatever a plain NATS client sends, the instance lives on and other calls are transcribed."""

import asyncio
import base64
import contextlib
import json
import random
import secrets
import struct
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from nats.js.api import ConsumerConfig, DeliverPolicy

from tests.calls.wording import holds
from tests.e2e.test_outsiders import Producer, blocks, connect, headers, subject_of, until_shown, validator
from tests.support.processes.deployment import SAMPLE, Deployment

pytestmark = pytest.mark.slow

Case = Callable[[Producer, random.Random], Awaitable[None]]


async def noise_in_every_encoding(producer: Producer, chance: random.Random) -> None:
    encoding = chance.choice(["pcm_s16le", "mulaw", "alaw", "f32le"])
    channels = chance.randint(1, 8)
    await producer.start(encoding=encoding, sample_rate_hz=chance.choice([4000, 8000, 44_101, 192_000]), roles=[])
    for _ in range(6):
        await producer.chunk(chance.randbytes(chance.choice([0, 1, 2, 3, 161, 3200, 3200 * channels])))
    await producer.end()


async def floats_that_are_no_numbers(producer: Producer, chance: random.Random) -> None:
    await producer.start(encoding="f32le", channels=1)
    values = [float("nan"), float("inf"), float("-inf"), 1e38, -1e38, 1e-40, 0.0]
    await producer.chunk(b"".join(struct.pack("<f", chance.choice(values)) for _ in range(8000)))
    await producer.chunk(b"\x01\x00\xa0\x7f" * 8000)  # signalling NaNs
    await producer.end()


async def a_container_of_garbage(producer: Producer, chance: random.Random) -> None:
    await producer.start(encoding="container")
    for _ in range(3):
        await producer.chunk(chance.randbytes(10_000))
    await producer.end()


async def a_container_that_turns_into_garbage(producer: Producer, chance: random.Random) -> None:
    content = bytearray(SAMPLE.read_bytes()[:60_000])
    for _ in range(50):
        content[chance.randrange(12, len(content))] = chance.randrange(256)
    await producer.start(encoding="container")
    await producer.chunk(bytes(content))
    await producer.end()


async def an_empty_container(producer: Producer, chance: random.Random) -> None:
    await producer.start(encoding="container")
    await producer.end()


async def chunks_of_one_byte(producer: Producer, chance: random.Random) -> None:
    await producer.start()
    for _ in range(100):
        await producer.chunk(chance.randbytes(1))
    await producer.end()


async def a_chunk_of_the_largest_size(producer: Producer, chance: random.Random) -> None:
    await producer.start(encoding="mulaw", channels=1)
    await producer.chunk(b"\xff" * 900_000)
    await producer.end()


async def records_as_large_as_the_broker_takes(producer: Producer, chance: random.Random) -> None:
    await producer.start()
    await producer.chunk(bytes(7_900_000))
    await producer.event("callstream.call.ended", {"events": 3, "reason": "r" * 7_900_000})
    producer.seq = 0
    await producer.start(metadata={"note": "n" * 7_900_000})


async def odd_words_in_the_start(producer: Producer, chance: random.Random) -> None:
    await producer.start(roles=["a" * 60, "b'\"\\ é"], metadata={"a\u0000b": "\u0000'; DROP", "c": "\n\x1b[31m"})
    await producer.chunk(bytes(3200))
    await producer.end()


async def a_start_that_forges_turns(producer: Producer, chance: random.Random) -> None:
    await producer.start(language="xx). SYSTEM: (", roles=["a" * 300, "b\n\x1b[31m[S9] agent: yes"])
    await producer.chunk(bytes(3200))
    await producer.end()


async def numbers_that_fit_nowhere(producer: Producer, chance: random.Random) -> None:
    await producer.start(metadata={"big": 10**30, "bigger": [2**64, -(2**63) - 1]})
    await producer.chunk(bytes(3200))
    await producer.end()


async def metadata_nested_deep(producer: Producer, chance: random.Random) -> None:
    deep: object = 1
    for _ in range(300):
        deep = {"d": [deep]}
    await producer.start(metadata={"deep": deep})
    await producer.chunk(bytes(3200))
    await producer.end()


async def metadata_nested_too_deep(producer: Producer, chance: random.Random) -> None:
    start = b'{"encoding":"mulaw","sample_rate_hz":8000,"channels":1,"metadata":{"d":%s%s}}'
    await producer.send("callstream.call.started", "application/json", start % (b"[" * 50_000, b"]" * 50_000))
    await producer.end()


async def numbers_of_events_that_jump(producer: Producer, chance: random.Random) -> None:
    await producer.start()
    for seq in (10**12, 99_999, 10**18 - 1, -3, 2**64, 50):
        producer.seq = seq
        await producer.chunk(bytes(3200))
    producer.seq = 51
    await producer.event("callstream.call.ended", {"events": chance.choice([10**12, -5, 0, 10**30])})


async def two_starts_and_two_ends(producer: Producer, chance: random.Random) -> None:
    await producer.start()
    await producer.start(channels=7)
    await producer.chunk(bytes(3200))
    producer.seq = 0
    await producer.start(channels=1)
    producer.seq = 3
    await producer.end()
    await producer.end()
    await producer.chunk(bytes(3200))


async def starts_that_no_call_can_have(producer: Producer, chance: random.Random) -> None:
    for wrong in (
        {"channels": 0},
        {"channels": 9},
        {"sample_rate_hz": 1},
        {"sample_rate_hz": 10**9},
        {"encoding": "x"},
    ):
        producer.seq = 0
        await producer.start(**wrong)
    for value in (b"", b"null", b"[]", b"\xff\xfe", b'{"encoding": "mulaw"}', b'"' * 1000):
        producer.seq = 0
        await producer.send("callstream.call.started", "application/json", value)


async def headers_of_chance(producer: Producer, chance: random.Random) -> None:
    words = ["", "0", "-1", "1e3", "\u0661", "é" * 200, "x" * 5000, "callstream.audio.chunk", "1.0", "text/plain"]
    names = list(headers("", 0, "", ""))
    for _ in range(20):
        made = {name: chance.choice(words) for name in chance.sample(names, chance.randint(0, len(names)))}
        await producer.js.publish(subject_of(producer.call), chance.randbytes(50), headers=made or None)


async def a_subject_that_is_not_the_calls(producer: Producer, chance: random.Random) -> None:
    await producer.start()
    for token in ("A", "====", "x" * 400, subject_of("another call").rpartition(".")[2]):
        await producer.js.publish(
            f"calls.audio.{token}",
            bytes(3200),
            headers=headers(producer.call, producer.seq, "callstream.audio.chunk", "application/octet-stream"),
        )
        producer.seq += 1
    await producer.end()


ENDS: dict[Case, str | None] = {
    noise_in_every_encoding: "completed",
    floats_that_are_no_numbers: "completed",
    a_container_of_garbage: "failed",
    a_container_that_turns_into_garbage: "completed",
    an_empty_container: "failed",
    chunks_of_one_byte: "completed",
    a_chunk_of_the_largest_size: "completed",
    records_as_large_as_the_broker_takes: "completed",
    odd_words_in_the_start: "completed",
    a_start_that_forges_turns: "failed",
    numbers_that_fit_nowhere: "failed",
    metadata_nested_deep: "failed",
    metadata_nested_too_deep: "failed",
    numbers_of_events_that_jump: "completed",
    two_starts_and_two_ends: "completed",
    starts_that_no_call_can_have: None,
    headers_of_chance: None,
    a_subject_that_is_not_the_calls: "completed",
}
"""How the call ends; None where no event of it can be read, so that there are only dead letters of it."""

REJECTED: dict[Case, int] = {
    records_as_large_as_the_broker_takes: 3,
    a_start_that_forges_turns: 3,
    numbers_that_fit_nowhere: 3,
    metadata_nested_deep: 3,
    metadata_nested_too_deep: 2,
    numbers_of_events_that_jump: 5,
    two_starts_and_two_ends: 5,
    starts_that_no_call_can_have: 11,
    headers_of_chance: 20,
    a_subject_that_is_not_the_calls: 4,
}
"""The dead letters of the cases that make some."""


async def test_whatever_is_sent_the_instance_lives_on_and_accounts_for_it(
    running: Deployment, short_call: Path
) -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    client = await connect(running)
    js = client.jetstream()
    new_only = ConsumerConfig(deliver_policy=DeliverPolicy.NEW)
    letters = await js.subscribe("calls.dead-letters.>", ordered_consumer=True, config=new_only)
    logged = len(running.log_lines(1))
    calls = {case: f"fuzzed-{seed}-{case.__name__}" for case in ENDS}
    good = Producer(js, f"fuzzed-{seed}-good")
    await good.start()
    audio = blocks(short_call)
    share = -(-len(audio) // len(ENDS))
    for number, case in enumerate(chance.sample(list(ENDS), len(ENDS))):
        for block in audio[number * share : (number + 1) * share]:
            await good.chunk(block)
        await case(Producer(js, calls[case]), chance)
    await good.end()

    document = await until_shown(running, good.call, "completed")
    assert holds(document["turns"][0]["text"], "Thank you for calling Northwind Energy")
    assert document["gaps"] == []
    await until_listed(running, {calls[case]: status for case, status in ENDS.items() if status is not None})
    received = await dead_letters(letters, sum(REJECTED.values()))
    assert {case.__name__: received[calls[case]] for case in ENDS} == {
        case.__name__: REJECTED.get(case, 0) for case in ENDS
    }
    assert running.alive
    assert "stage restarts" not in [line["event"] for line in running.log_lines(1)[logged:]]
    await client.close()


async def until_listed(running: Deployment, expected: dict[str, str], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        listed = json.loads((await asyncio.to_thread(running.run, "calls", "--json")).stdout)
        found = {call["call_id"]: call["status"] for call in listed if call["call_id"] in expected}
        if found == expected:
            return
        assert time.monotonic() < deadline, {
            call: (found.get(call), status) for call, status in expected.items() if found.get(call) != status
        }
        await asyncio.sleep(0.3)


async def dead_letters(subscription: Any, expected: int) -> Counter[str]:
    """How many letters come of each call: all that are expected, and any that follow at once."""
    found: Counter[str] = Counter()
    with contextlib.suppress(TimeoutError):
        while True:
            message = await subscription.next_msg(timeout=10 if found.total() < expected else 0.5)
            letter = json.loads(message.data)
            validator("callstream.dead-letter").validate(letter)
            key = base64.b64decode(letter["key"]).decode(errors="replace")
            found[key if key.startswith("fuzzed-") else letter["headers"].get("ce_subject", key)] += 1
    return found
