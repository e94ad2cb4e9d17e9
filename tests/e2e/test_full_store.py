"""A store that is short of room: producers are refused, what was accepted is finished, a call can be continued."""

import asyncio
import contextlib
import gc
import itertools
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import psutil
import pytest

from benchmarks.harness import hash_transcriber
from benchmarks.space.calls import Sent, recording, send
from benchmarks.space.service import small_store, transcribing, until_completed
from pipeline.bus.nats.server import NatsServer
from schemas.calls import CallRef
from tests.calls import bad
from tests.calls.wording import word_errors
from tests.support.processes.deployment import SAMPLE, Deployment

SCRIPT: dict[str, Any] = json.loads((SAMPLE.parent / "script.json").read_text())
SPEECH_S = (0.0, 9.5, 17.6)
"""The first two turns of the sample call, and the next two."""
SILENCE_S = 200
"""Between them: 6.4 MB, more than the 3.6 MB that a store of 20 MB gives to recorded calls."""
STORE_BYTES = 20_000_000

pytestmark = pytest.mark.slow


@pytest.fixture
def parts(tmp_path: Path) -> tuple[Path, Path]:
    """A short call, and one that does not fit."""
    pcm, rate_hz = bad.read_wav(SAMPLE)
    first, second = (pcm[round(a * rate_hz) : round(b * rate_hz)] for a, b in itertools.pairwise(SPEECH_S))
    silence = np.zeros((SILENCE_S * rate_hz, 2), np.int16)
    short = bad.write_wav(tmp_path / "short.wav", [first], rate_hz=rate_hz, channels=2)
    long = bad.write_wav(tmp_path / "long.wav", [first, silence, second], rate_hz=rate_hz, channels=2)
    return short, long


@contextlib.asynccontextmanager
async def no_stage_reads(deployment: Deployment) -> AsyncIterator[None]:
    """The deployment's store inside the block, without its stages."""
    server = NatsServer(deployment.data / "nats", max_store_bytes=STORE_BYTES)
    deployment.environment["CALLSTREAM_BUS"] = await server.start()
    try:
        await asyncio.to_thread(deployment.run, "topics", "create")
        yield
    finally:
        await server.stop()
        del deployment.environment["CALLSTREAM_BUS"]


async def test_a_full_store_refuses_the_producer_loses_nothing_and_is_continued(
    tmp_path: Path, parts: tuple[Path, Path]
) -> None:
    short, long = parts
    with Deployment(tmp_path / "data", store_gb="0.02", idle_s="3", search="off") as deployment:
        async with no_stage_reads(deployment):
            await asyncio.to_thread(deployment.run, "publish", str(short), "--call", "accepted")
            refused = await asyncio.to_thread(deployment.run, "publish", str(long), "--call", "refused", check=False)
        assert refused.returncode == 5
        [line] = refused.stderr.splitlines()
        assert line.startswith("callstream: the store is full")
        assert "CALLSTREAM_STORE_GB" in line
        assert "--call refused" in line
        deployment.start()
        deployment.wait_ready()
        accepted = deployment.wait_completed("accepted")
        heard = deployment.wait_completed("refused")
        assert deployment.alive
        assert heard["provisional"] is True
        assert heard["reason"] == "idle"
        assert 80.0 < heard["duration_s"] < SILENCE_S
        assert words_of(heard) == words_of(accepted)

        deployment.terminate()
        deployment.environment["CALLSTREAM_STORE_GB"] = "0.1"
        deployment.start()
        deployment.wait_ready()
        deployment.run("publish", str(long), "--call", "refused")
        whole = deployment.wait_completed("refused", revision=2)
    assert whole["duration_s"] == pytest.approx(SPEECH_S[-1] + SILENCE_S)
    assert whole["gaps"] == []
    assert whole["provisional"] is False
    said = " ".join(line["text"] for line in SCRIPT["lines"] if line["end_s"] < SPEECH_S[-1])
    errors, words = word_errors(said, " ".join(turn["text"] for turn in whole["turns"]))
    assert errors <= 0.1 * words, whole["turns"]


@pytest.mark.filterwarnings("ignore:Unclosed file <tempfile")  # of a call that the stopped worker had in hand
async def test_calls_that_grow_beyond_the_store_are_completed_through_kills(tmp_path: Path) -> None:
    """3.2 MB of Opus become 17 MB of utterances, of which a store of 20 MB takes 2 MB at a time."""
    opus = recording("opus", SAMPLE, tmp_path)
    calls = [Sent(CallRef("default", f"call-{number}"), opus) for number in range(16)]
    ids = {sent.call.call_id for sent in calls}
    with patch.object(hash_transcriber, "DELAY_S", (0.0, 0.0)):
        async with small_store(tmp_path / "data", STORE_BYTES) as (bus, settings):
            for sent in calls:
                await send(bus, sent)
            async with transcribing(bus, settings):
                await until_completed(bus, ids, at_least=2, stuck_s=90.0)
            for server in psutil.Process().children():
                if "nats-server" in server.name():
                    server.kill()
            async with transcribing(bus, settings):
                done = await until_completed(bus, ids, stuck_s=90.0)
    gc.collect()
    assert [sent.refusals for sent in calls] == [0] * 16
    assert done.keys() == ids
    assert len({tuple(turn.text for turn in turns) for turns in done.values()}) == 1


def words_of(document: dict[str, Any]) -> list[str]:
    return [word["text"] for turn in document["turns"] for word in turn["words"]]
