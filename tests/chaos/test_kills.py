"""Nothing is lost when the pipeline dies in the middle of a call. `python -m benchmarks.kills` is the long version."""

import random
from pathlib import Path
from typing import Any

import pytest

from benchmarks.kills.runs import calm, disturbed
from tests.calls import bad
from tests.support.processes.deployment import SAMPLE, said

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def call(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 40 s of the sample call: eight turns, an interruption."""
    pcm, rate_hz = bad.read_wav(SAMPLE)
    return bad.write_wav(
        tmp_path_factory.mktemp("call") / "call.wav", [pcm[: 40 * rate_hz]], rate_hz=rate_hz, channels=2
    )


@pytest.fixture(scope="module")
def expected(call: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return said(calm(tmp_path_factory.mktemp("calm") / "data", call))


@pytest.mark.parametrize(("kind", "kills"), [("kill -9 of up", 3), ("SIGTERM of up", 1), ("kill -9 of nats-server", 4)])
def test_the_transcript_is_that_of_the_undisturbed_call(
    kind: str, kills: int, call: Path, expected: list[dict[str, Any]], tmp_path: Path
) -> None:
    seed = random.randrange(1_000_000)
    print(f"seed {seed}")
    document, _, done = disturbed(tmp_path / "data", call, kind, kills, random.Random(seed))
    assert done == kills
    assert said(document) == expected, f"seed {seed}"
    assert document["gaps"] == []
