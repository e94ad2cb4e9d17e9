"""A short run of `python -m benchmarks.chaos`: every kind of fault but stops of minutes, and nothing is lost."""

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.brokers.kafka import require_kafka

KILLS = 7
EACH = 1
ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def run(bus: str, folder: Path) -> dict[str, Any]:
    seed = random.randrange(1_000_000)
    options = {
        "bus": bus, "kills": KILLS, "calls": 2, "gap": 1, "pauses": 1, "pause": 3, "fills": 1, "freezes": 1,
        "long-freezes": 0, "each": EACH, "seed": seed, "keep": folder / "chaos", "json": folder / "chaos.json",
    }  # fmt: skip
    command = [sys.executable, "-m", "benchmarks.chaos", "--seconds", "8", "20"]
    command += [text for name, value in options.items() for text in (f"--{name}", str(value))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(f"seed {seed}\n{done.stdout}\n{done.stderr}")
    assert done.returncode == 0, done.stdout + done.stderr
    report: dict[str, Any] = json.loads((folder / "chaos.json").read_text())
    return report


@pytest.mark.parametrize("bus", ["jetstream", pytest.param("kafka", marks=pytest.mark.kafka)])
def test_the_calls_are_those_of_an_undisturbed_run(bus: str, tmp_path: Path) -> None:
    if bus == "kafka":
        require_kafka()
    report = run(bus, tmp_path)
    assert report["wrong"] == []
    assert report["calls"] >= 2
    assert report["broker_kills"] == 1
    assert report["broker_pauses"] == 1
    assert report["disk_fills"] == 1 or any("disk" in line for line in report["not_done"])
    assert report["kills"] == KILLS
    by_kind = report["faults_by_kind"]
    for kind in (
        "worker stopped (SIGSTOP), seconds",
        "latency of one worker",
        "connections of one worker closed and refused",
        "partition of one worker",
        "partition of all workers but one",
        "device failed and came back",
    ):
        assert by_kind[kind] == EACH, kind
    assert by_kind["clock stepped by an hour"] == EACH or any("clock" in line for line in report["not_done"])
    assert sum(report["poisons"].values()) == 3 * EACH
    assert report["dead_letters_of_poison"] >= 3 * EACH
    assert set(report["worker_kills"]) == {"separate", "transcribe", "merge", "summarize", "sink"}
