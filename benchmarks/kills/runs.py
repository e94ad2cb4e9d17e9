"""One call with kills and without: its document in the warehouse, and the stages that were hit."""

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
"""Between two kills. On two cores the model is loaded about 5 s after the start: some kills come earlier."""


def disturbed(
    data: Path, path: Path, kind: str, kills: int, chance: random.Random
) -> tuple[dict[str, Any], Counter[str], int]:
    """Return the document of a call with `kills` kills, the stages hit, and the number of kills while it ran."""
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
    """Wait, at most 30 s, until a turn is published: the sink then holds it and has not written it."""
    with contextlib.suppress(TimeoutError, OSError, AssertionError, nats.errors.Error):
        async with asyncio.timeout(30):
            client = await nats.connect(**deployment.login, allow_reconnect=False)
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
