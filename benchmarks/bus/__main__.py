"""Records per CPU second of our stage loop against the bare client libraries, on the same broker in the same run.

    python -m benchmarks.bus [--runs 3] [--records 4000] [--bus kafka nats] [--json FILE]

Each loop reads the same audio chunks from a topic of 8 partitions, publishes one record for each, waits for the
broker's acknowledgement before the next record of the same key, and commits. Ours is `StageRunner` on the real bus:
decoding, byte budget, numbered outputs with their progress, headers, trace, metrics. `raw_kafka` and `raw_nats` are the
bare minimum by hand; `faust_alone` is an agent as in Faust's documentation. Every run is a separate process, and the
loops alternate. After each run the output is read back: every record must be there once and in order.

CPU seconds are those of the loop's process (user and system, all threads); the broker's are listed separately. With one
key each record waits for the previous acknowledgement: the wall clock is then the broker's, the CPU time the loop's.

What it does not show: latency, several workers, a network between loop and broker, brokers of more than one node.
"""

import argparse
import asyncio
import contextlib
import secrets
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import msgspec

from benchmarks.bus.load import Client, Figures, Load, check_output, fill, make_output
from benchmarks.harness.command import add_outputs, benchmark_parser
from benchmarks.harness.report import spread, spread_text, write_report
from pipeline.bus.nats.server import NatsServer
from tests.support.brokers.kafka import KafkaServer

SIZES: Final = (1_000, 20_000)
KEYS: Final = (1, 8)
CLIENTS: Final[dict[str, tuple[Client, ...]]] = {"kafka": ("raw", "faust", "ours"), "nats": ("raw", "ours")}
TARGETS: Final = {"kafka": 0.35, "nats": 0.6}
"""Of the raw client's records per CPU second."""
ONE_KEY_SHARE: Final = 4
"""With one key every record waits for an acknowledgement: that many times fewer records are enough."""
_STORE_BYTES: Final = 20_000_000_000
_RUN_WITHIN_S: Final = 900


@contextlib.asynccontextmanager
async def broker(bus: str, folder: Path) -> AsyncIterator[tuple[str, int]]:
    """Start a broker; yields its URL and process id."""
    if bus == "kafka":
        with KafkaServer(folder, java_options=()) as kafka:
            kafka.start()
            yield f"kafka://{kafka.bootstrap}", kafka.pid
    else:
        server = NatsServer(folder, max_store_bytes=_STORE_BYTES, sync="1s")
        url = await server.start()
        try:
            assert server.pid is not None
            yield url, server.pid
        finally:
            await server.stop()


async def measure(client: Client, load: Load) -> Figures:
    await make_output(load)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "benchmarks.bus.worker",
        client,
        msgspec.json.encode(load).decode(),
        stdout=subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_RUN_WITHIN_S):
            printed, _ = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    if process.returncode:
        raise AssertionError(f"the loop {client} exited {process.returncode}")
    await check_output(load)
    return msgspec.json.decode(printed, type=Figures)


async def compare(load: Load, clients: tuple[Client, ...], runs: int) -> dict[Client, list[Figures]]:
    """Run all loops on one input, alternating."""
    await fill(load)
    measured: dict[Client, list[Figures]] = {client: [] for client in clients}
    for number in range(runs):
        for client in clients:
            group = f"{client}-{number}-{secrets.token_hex(3)}"
            figures = await measure(client, msgspec.structs.replace(load, group=group))
            measured[client].append(figures)
            print(
                f"  {load.size_bytes} bytes, {load.n_keys} keys, {client}: {figures.per_cpu_s:.0f} a CPU second",
                file=sys.stderr,
            )
    return measured


def row_of(bus: str, load: Load, measured: dict[Client, list[Figures]]) -> dict[str, Any]:
    clients = {
        client: {
            "per_cpu_s": spread([round(run.per_cpu_s, 1) for run in runs]),
            "broker_cpu_s_per_1000": spread([round(1000 * run.broker_cpu_s / run.records, 3) for run in runs]),
            "per_wall_s": spread([round(run.records / run.wall_s, 1) for run in runs]),
        }
        for client, runs in measured.items()
    }
    raw = clients["raw"]["per_cpu_s"]["median"]
    ratios = {client: round(figures["per_cpu_s"]["median"] / raw, 3) for client, figures in clients.items()}
    return {
        "bus": bus,
        "size_bytes": load.size_bytes,
        "keys": load.n_keys,
        "records": load.records - load.warm_up,
        "clients": clients,
        "of_raw": ratios,
        "target": TARGETS[bus],
        "reached": ratios["ours"] >= TARGETS[bus],
    }


def show(rows: list[dict[str, Any]]) -> None:
    print("| bus | record | keys | loop | records per CPU s | of raw | per wall s | broker's CPU s per 1,000 |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        for client, figures in row["clients"].items():
            print(
                f"| {row['bus']} | {row['size_bytes']} | {row['keys']} | {client} "
                f"| {spread_text(figures['per_cpu_s'])} | {row['of_raw'][client]:.2f} "
                f"| {figures['per_wall_s']['median']:.0f} | {figures['broker_cpu_s_per_1000']['median']:.2f} |"
            )


async def run(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    with tempfile.TemporaryDirectory(prefix="callstream-bus-") as folder:
        for bus in arguments.bus:
            async with broker(bus, Path(folder) / bus) as (url, pid):
                for n_keys in arguments.keys:
                    for size_bytes in arguments.size:
                        records = max(2 * n_keys + 2, arguments.records // (ONE_KEY_SHARE if n_keys == 1 else 1))
                        load = Load(
                            url=url,
                            broker_pid=pid,
                            size_bytes=size_bytes,
                            n_keys=n_keys,
                            records=records,
                            warm_up=records // 5,
                        )
                        rows.append(row_of(bus, load, await compare(load, CLIENTS[bus], arguments.runs)))
    return rows


def parser() -> argparse.ArgumentParser:
    made = benchmark_parser("bus", __doc__)
    made.add_argument("--runs", type=int, default=5, help="runs of each loop (5)")
    made.add_argument("--records", type=int, default=8000, help="records of a run with more than one key (8000)")
    made.add_argument("--bus", nargs="+", choices=tuple(CLIENTS), default=list(CLIENTS), help="brokers (both)")
    made.add_argument("--size", nargs="+", type=int, default=list(SIZES), metavar="BYTES", help="record sizes")
    made.add_argument("--keys", nargs="+", type=int, default=list(KEYS), metavar="N", help="calls at a time")
    add_outputs(made)
    return made


def main() -> int:
    given = parser().parse_args()
    rows = asyncio.run(run(given))
    show(rows)
    missed = [row for row in rows if not row["reached"]]
    for row in missed:
        print(f"below {row['target']} of raw: {row['bus']}, {row['size_bytes']} bytes, {row['keys']} keys")
    load = {"records": given.records, "sizes_bytes": given.size, "keys": given.keys}
    write_report("bus", {"rows": rows}, given.json, given=load, runs=given.runs)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
