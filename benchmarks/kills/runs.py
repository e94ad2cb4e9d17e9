"""What is lost when everything is killed: one call, its producer outliving the pipeline, many kills.

Runs the call once undisturbed and then once for each kind of kill, and compares the transcripts word by word. Counts
in how many restarts each stage found input that its predecessor had not acknowledged: a kill that hits an idle stage
proves nothing about it. The sink holds its input for a quarter of a second only, so every third kill of `up` waits for
a turn to be published; all others come at random moments.

    python -m benchmarks.kills [FILE] --kills 20 --json FILE
"""

import argparse
import asyncio
import contextlib
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import nats
import nats.errors

from benchmarks.harness.report import write_report
from tests.support.processes.deployment import SAMPLE, SAMPLE_ROLES, Deployment, said

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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", nargs="?", type=Path, default=SAMPLE, help="a two-channel call (default: the sample)")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--kind", action="append", choices=KINDS, help="default: all three")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="callstream-kills-") as folder:
        expected = calm(Path(folder) / "calm", arguments.file)
        for number, kind in enumerate(arguments.kind or KINDS):
            chance = random.Random(arguments.seed + number)
            document, hit, kills = disturbed(Path(folder) / str(number), arguments.file, kind, arguments.kills, chance)
            before, after = said(expected), said(document)
            row = {
                "kind": kind,
                "kills": kills,
                "stages_hit": dict(sorted(hit.items())),
                "turns": len(after),
                "turns_lost": sum(turn not in after for turn in before),
                "turns_added": sum(turn not in before for turn in after),
                "turns_doubled": len(after) - len({str(turn) for turn in after}),
                "equal": before == after,
                "gaps": len(document["gaps"]),
            }
            print(row)
            rows.append(row)
    write_report("kills", {"file": arguments.file.name, "seed": arguments.seed, "rows": rows}, arguments.json)
    return 0 if all(row["equal"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
