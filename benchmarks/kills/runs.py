"""One call without kills and with them: what of it is in the warehouse, and which stages were hit."""

import asyncio
import contextlib
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import nats
import nats.errors

from tests.support.processes.deployment import SAMPLE_ROLES, Deployment

KINDS = ("kill -9 of up", "SIGTERM of up", "kill -9 of nats-server")
GAP_S = {"kill -9 of up": (1.0, 22.0), "SIGTERM of up": (1.0, 22.0), "kill -9 of nats-server": (1.0, 8.0)}
"""From one kill to the next. On two cores the model is loaded some 5 s after the start: some kills come before."""


def disturbed(
    data: Path, path: Path, kind: str, kills: int, chance: random.Random
) -> tuple[dict[str, Any], Counter[str], int]:
    """One call with `kills` kills: its document, the stages hit, and the kills that came while it ran."""
    with Deployment(data) as deployment:
        deployment.start()
        deployment.wait_ready()
        producer = deployment.publish(path, "call", "--realtime", "--roles", SAMPLE_ROLES)
        done = 0
        while done < kills:
            time.sleep(chance.uniform(*GAP_S[kind]))
            if done % 3 == 2 and kind != "kill -9 of nats-server":
                asyncio.run(next_turn(deployment))
            if kind == "kill -9 of up":
                deployment.kill()
                deployment.start()
            elif kind == "SIGTERM of up":
                deployment.terminate()
                deployment.start()
            else:
                deployment.kill_broker()
            done += 1
            print(f"  {kind}: {done} of {kills}", file=sys.stderr)
        _, errors = producer.communicate(timeout=600)
        if producer.returncode:
            raise AssertionError(f"the producer failed: {errors.decode()}")
        document = deployment.wait_completed("call", timeout_s=600)
        return document, deployment.stages_hit(), done


async def next_turn(deployment: Deployment) -> None:
    """Return at the moment a turn is published: then the sink has it and has not written it. At most 30 s."""
    with contextlib.suppress(TimeoutError, OSError, nats.errors.Error):
        async with asyncio.timeout(30):
            port = (deployment.data / "nats" / "port").read_text().strip()
            client = await nats.connect(f"nats://127.0.0.1:{port}", allow_reconnect=False)
            try:
                subscription = await client.subscribe("calls.transcripts.>")
                await subscription.next_msg(timeout=30)
            finally:
                await client.close()


def calm(data: Path, path: Path) -> dict[str, Any]:
    with Deployment(data) as deployment:
        deployment.start()
        deployment.wait_ready()
        deployment.run("publish", str(path), "--call", "call", "--realtime", "--roles", SAMPLE_ROLES)
        return deployment.wait_completed("call", timeout_s=600)
