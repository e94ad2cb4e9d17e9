"""`callstream status`."""

import time
from typing import Annotated

import msgspec
import typer

from pipeline.cli import options
from pipeline.cli.data_directory import read_settings
from pipeline.errors import InstanceError
from pipeline.instance import read_instance
from stages.sink.losses import Loss

_KAFKA = "kafka://"
_WAIT_PAUSE_S = 0.2


def status(
    wait: Annotated[bool, typer.Option("--wait", help="Wait until everything is ready.")] = False,
    timeout: Annotated[float, typer.Option("--timeout", help="Longest wait in seconds.")] = 600.0,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    data: options.Data = None,
) -> None:
    """Print the addresses of the instance that runs on the data directory. Exits 3 if there is none."""
    settings = read_settings(data)
    deadline = time.monotonic() + timeout
    instance = read_instance(settings.data)
    while wait and (instance is None or not instance.ready):
        if time.monotonic() > deadline:
            raise InstanceError(f"not ready on {settings.data} after {timeout:.0f} s")
        time.sleep(_WAIT_PAUSE_S)
        instance = read_instance(settings.data)
    if instance is None:
        raise InstanceError(f"nothing runs on {settings.data}: start it with `callstream up`")
    shown = {
        "ready": instance.ready,
        "stalled": instance.stalled,
        "lost": [loss._asdict() for loss in instance.lost],
        "pid": instance.pid,
        "bus_url": instance.bus_url,
        "nats_url": None if instance.bus_url.startswith(_KAFKA) else instance.bus_url,
        "owner_credentials": instance.owner_credentials,
        "producer_credentials": instance.producer_credentials,
        "sql_url": instance.quack_url,
        "quack_url": instance.quack_url,
        "live_url": instance.live_url,
        "metrics_url": instance.metrics_url,
        "data": str(settings.data),
    }
    if as_json:
        typer.echo(msgspec.json.encode(shown).decode())
        return
    shown["stalled"] = ", ".join(instance.stalled) or None
    shown["lost"] = "; ".join(map(_loss_text, instance.lost)) or None
    for name, value in shown.items():
        typer.echo(f"{name:<20} {value}")


def _loss_text(loss: Loss) -> str:
    """Return what the operator reads: `3 records of calls.audio/0 before separate read them (2 calls known)`."""
    records = f"{loss.records} record" + ("" if loss.records == 1 else "s")
    calls = f"{loss.calls} call" + ("" if loss.calls == 1 else "s")
    return f"{records} of {loss.topic}/{loss.partition} before {loss.stage} read them ({calls} known)"
