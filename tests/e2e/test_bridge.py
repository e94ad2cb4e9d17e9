"""`callstream bridge` as a process between real brokers that are away, killed and paused."""

import asyncio
import base64
import hashlib
import os
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import nats
import pytest

from pipeline.bus.opening import open_bus
from pipeline.bus.protocol import Bus
from pipeline.bus.security import BusSecurity
from pipeline.relays.bridge import LANES
from pipeline.secret import Secret
from pipeline.wiring import topology
from schemas import topics
from tests.support.brokers.kafka import KafkaServer
from tests.support.brokers.nats import NatsProcess
from tests.support.processes.deployment import COMMAND

CALLS = [f"branch-7/{number}" for number in range(4)]
CHUNKS_PER_CALL = 900
"""Of a second each: four calls at once are an hour of audio."""
CHUNK_BYTES = 32_000
SPECS = [
    spec
    for spec in topology.topic_specs(partitions=4, retention_days=7, store_bytes=2_000_000_000)
    if spec.name in (topics.AUDIO, topics.AUDIO_BATCH)
]


class BridgeProcess:
    """The command as an operator starts it, on a data directory of its own; what it says is kept."""

    def __init__(self, data: Path, *arguments: str, **settings: str) -> None:
        self.data = data
        self.log = data / "bridge.log"
        self._arguments = arguments
        self._environment = {
            **{name: text for name, text in os.environ.items() if not name.startswith("CALLSTREAM_")},
            "CALLSTREAM_DATA": str(data),
            "CALLSTREAM_SYNC": "1s",
            "CALLSTREAM_STORE_GB": "2",
            "CALLSTREAM_LOG_FORMAT": "json",
            **{f"CALLSTREAM_{name.upper()}": text for name, text in settings.items()},
        }
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "BridgeProcess":
        self.data.mkdir(parents=True)
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        if self._process is not None:
            self.kill()

    def start(self) -> None:
        assert self._process is None
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [COMMAND, "bridge", *self._arguments], env=self._environment, stdout=log, stderr=log
            )

    def kill(self) -> None:
        process, self._process = self._process, None
        assert process is not None
        process.kill()
        process.wait()

    def terminate(self) -> int:
        process, self._process = self._process, None
        assert process is not None
        process.send_signal(signal.SIGTERM)
        return process.wait(30)

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_until_it_says(self, text: str, timeout_s: float = 60.0) -> None:
        deadline = time.monotonic() + timeout_s
        while text not in self.said():
            assert self._process is not None
            assert self._process.poll() is None, f"the bridge ended:\n{self.said()}"
            assert time.monotonic() < deadline, f"{text!r} is not said:\n{self.said()}"
            time.sleep(0.05)


def chunk(call: str, number: int) -> bytes:
    """Bytes that nothing compresses and that tell which chunk they are."""
    return hashlib.shake_128(f"{call}/{number}".encode()).digest(CHUNK_BYTES)


async def produce(url: str, first: int, last: int, **login: str) -> None:
    """A producer with a plain client: each call's chunks in order, each one acknowledged by the edge."""
    client = await nats.connect(url, **login)

    async def send(call: str) -> None:
        subject = f"calls.audio.{base64.urlsafe_b64encode(call.encode()).decode().rstrip('=')}"
        for number in range(first, last):
            headers = {
                "ce-specversion": "1.0",
                "ce-id": str(number),
                "ce-source": f"pbx/{call}",
                "ce-subject": call,
                "ce-type": "callstream.audio.chunk",
                "ce-callseq": str(number),
                "content-type": "application/octet-stream",
            }
            await client.jetstream().publish(subject, chunk(call, number), headers=headers, timeout=20)

    await asyncio.gather(*map(send, CALLS))
    await client.close()


async def arrived(bus: Bus) -> dict[str, list[int]]:
    """Each call's chunk numbers in the order in which they lie at the target, repeats left out: those must be equal."""
    numbers: dict[str, list[int]] = defaultdict(list)
    seen: dict[tuple[str, str], bytes] = {}
    async for record in bus.stored(topics.AUDIO):
        call, number = record.key.decode(), int(record.headers["ce_callseq"])
        ids = (record.headers["ce_source"], record.headers["ce_id"])
        if ids in seen:
            assert seen[ids] == hashlib.sha256(record.value).digest()
            continue
        seen[ids] = hashlib.sha256(record.value).digest()
        assert ids == (f"pbx/{call}", str(number))
        assert record.value == chunk(call, number)
        assert record.headers["content-type"] == "application/octet-stream"
        numbers[call].append(number)
    return numbers


async def stored_records(bus: Bus) -> int:
    [state] = await bus.describe((topics.AUDIO,))
    return state.records or 0


async def until_stored(bus: Bus, n_records: int, timeout_s: float = 240.0) -> None:
    async with asyncio.timeout(timeout_s):
        while await stored_records(bus) < n_records:  # noqa: ASYNC110  # nothing tells
            await asyncio.sleep(0.1)


async def until_acknowledged(url: str, timeout_s: float = 240.0) -> None:
    bus = await open_bus(url, BusSecurity())
    async with asyncio.timeout(timeout_s):
        while await bus.lag(LANES["live"]):  # noqa: ASYNC110  # nothing tells
            await asyncio.sleep(0.1)
    await bus.close()


async def until_freed(url: str, owner: Path, timeout_s: float = 60.0) -> None:
    """Wait until the edge keeps nothing."""
    bus = await open_bus(url, BusSecurity(credentials=owner))
    async with asyncio.timeout(timeout_s):
        while await stored_records(bus):  # noqa: ASYNC110  # nothing tells
            await asyncio.sleep(0.2)
    await bus.close()


@pytest.fixture(params=["nats", pytest.param("kafka", marks=pytest.mark.kafka)])
def center(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NatsProcess | KafkaServer]:
    """A central broker that runs, without topics."""
    made = NatsProcess(tmp_path / "center") if request.param == "nats" else KafkaServer(tmp_path / "center")
    with made:
        if isinstance(made, KafkaServer):
            made.start()
        yield made


def address(center: NatsProcess | KafkaServer) -> str:
    return f"kafka://{center.bootstrap}" if isinstance(center, KafkaServer) else center.url


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_an_hour_of_audio_waits_for_the_center_and_arrives_complete_whatever_is_killed(
    tmp_path: Path, center: NatsProcess | KafkaServer
) -> None:
    everything = len(CALLS) * CHUNKS_PER_CALL
    target = await open_bus(address(center), BusSecurity())
    await target.ensure_topics(SPECS)
    await target.close()
    with (
        NatsProcess(tmp_path / "edge") as edge,
        BridgeProcess(tmp_path / "data", "--from", edge.url, "--to", address(center)) as bridge,
    ):
        bridge.wait_until_it_says("ready: forwarding")
        await produce(edge.url, 0, 50)
        await until_acknowledged(edge.url)
        center.kill()
        await produce(edge.url, 50, CHUNKS_PER_CALL)

        center.start()
        target = await open_bus(address(center), BusSecurity())
        try:
            await until_stored(target, everything // 4)
            bridge.kill()
            at_kill = await stored_records(target)
            assert at_kill < everything, "the bridge was done before it was killed"
            bridge.start()
            await until_stored(target, min(everything, at_kill + everything // 8))
            edge.kill()
            edge.start()
            await until_stored(target, min(everything, at_kill + everything // 4))
            center.pause()
            await asyncio.sleep(2)
            center.resume()
            await until_acknowledged(edge.url)
            assert await arrived(target) == {call: list(range(CHUNKS_PER_CALL)) for call in CALLS}
        finally:
            await target.close()
        assert bridge.terminate() == 0
        assert "the next start resumes here" in bridge.said()


async def test_a_branch_office_needs_one_process_and_a_center_that_comes_later(tmp_path: Path) -> None:
    center = NatsProcess(tmp_path / "center", {"authorization": {"user": "branch", "password": "hunter2"}})
    settings = {"bus": center.url, "bus_user": "branch", "bus_password": "hunter2"}
    with BridgeProcess(tmp_path / "data", **settings) as bridge:
        bridge.wait_until_it_says("producers can send to calls.audio, calls.audio.batch")
        url = next(line for line in bridge.said().splitlines() if line.startswith("  from")).split()[1]
        logins = tmp_path / "data" / "credentials"
        producer = {"nkeys_seed": str(logins / "producer.nk"), "inbox_prefix": "_INBOX_producer"}
        await produce(url, 0, 3, **producer)
        bridge.kill()
        bridge.start()
        await produce(url, 3, 5, **producer)
        with center:
            target = await open_bus(center.url, BusSecurity(user="branch", password=Secret("hunter2")))
            bridge.wait_until_it_says("target unavailable")
            await target.ensure_topics(SPECS)
            await until_stored(target, len(CALLS) * 5)
            assert await arrived(target) == {call: list(range(5)) for call in CALLS}
            await target.close()
            await until_freed(url, logins / "owner.nk")
            await produce(url, 5, 6, **producer)
            center.kill()
            center.start()
            target = await open_bus(center.url, BusSecurity(user="branch", password=Secret("hunter2")))
            await until_stored(target, len(CALLS) * 6)
            assert await arrived(target) == {call: list(range(6)) for call in CALLS}
            await target.close()
        assert "hunter2" not in bridge.said()


def test_a_center_that_refuses_ends_the_bridge_with_the_reason(tmp_path: Path) -> None:
    users = {"authorization": {"user": "branch", "password": "hunter2"}}
    with NatsProcess(tmp_path / "edge", users) as edge, NatsProcess(tmp_path / "center", users) as center:
        config = tmp_path / "edge.toml"
        config.write_text(f'bus = "{edge.url}"\nbus_user = "branch"\nbus_password = "hunter2"\n')
        done = subprocess.run(
            [COMMAND, "bridge", "--from-config", str(config), "--to", center.url, "--data", str(tmp_path / "data")],
            env={
                **os.environ,
                "CALLSTREAM_BUS_USER": "branch",
                "CALLSTREAM_BUS_PASSWORD": "wrong",
                "CALLSTREAM_STORE_GB": "2",
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 2
    assert f"callstream: the NATS server at {center.url} refuses: it rejects these credentials" in done.stderr
    assert "wrong" not in done.stderr
    assert "hunter2" not in done.stderr
