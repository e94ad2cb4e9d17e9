"""One run in a separate process, so that it finds no caches of another. Prints its figures as JSON.

python -m benchmarks.bus.worker CLIENT LOAD
"""

import asyncio
import sys

import msgspec

from benchmarks.bus.load import Client, Figures, Load
from benchmarks.bus.meter import Meter
from pipeline.telemetry import logs


async def run(client: Client, load: Load) -> Figures:
    if client == "ours":
        from benchmarks.bus.ours import relay
    elif client == "faust":
        from benchmarks.bus.faust_alone import relay
    elif load.url.startswith("kafka://"):
        from benchmarks.bus.raw_kafka import relay
    else:
        from benchmarks.bus.raw_nats import relay
    meter = Meter(load)
    await relay(load, meter)
    return meter.figures()


def main() -> None:
    client, text = sys.argv[1:]
    logs.configure("console", "warning", sys.stderr)
    load = msgspec.json.decode(text, type=Load)
    figures = asyncio.run(run(msgspec.convert(client, Client), load))
    print(msgspec.json.encode(figures).decode())


if __name__ == "__main__":
    main()
