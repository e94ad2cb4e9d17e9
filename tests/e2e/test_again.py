"""A finished call heard again from the audio that the bus still holds."""

import json
from pathlib import Path

import nats
import pytest

from tests.calls import bad
from tests.support.processes.deployment import SAMPLE, SAMPLE_ROLES, Deployment
from tests.support.processes.workers import Workers

pytestmark = pytest.mark.slow


def last_line(stdout: str) -> str:
    return stdout.splitlines()[-1]


def test_with_the_same_model_the_same_words_come_out(running: Deployment, short_call: Path, tmp_path: Path) -> None:
    running.run("transcribe", str(short_call), "--roles", SAMPLE_ROLES, "--call", "again")
    stored = running.show("again")
    assert stored is not None
    out = tmp_path / "{stem}.json"
    done = running.run("transcribe", "--again", "again", "--diff", "--out", str(out))
    n_words = sum(len(turn["text"].split()) for turn in stored["turns"])
    assert done.stdout.splitlines() == [f"{n_words} words equal, 0 changed, 0 removed, 0 added: 0.0 % differ"]
    heard = json.loads((tmp_path / "again.json").read_text())
    assert [turn["words"] for turn in heard["turns"]] == [turn["words"] for turn in stored["turns"]]
    assert heard["metrics"] is not None
    assert heard["summary"] is None
    assert running.show("again") == stored


def test_a_call_that_was_live_is_heard_as_live(running: Deployment, greeting: Path) -> None:
    publisher = running.publish(greeting, "again-live", "--realtime", "--roles", SAMPLE_ROLES)
    publisher.communicate(timeout=60)
    assert publisher.returncode == 0
    running.wait_completed("again-live")
    done = running.run("transcribe", "--again", "again-live", "--diff")
    assert last_line(done.stdout).endswith("0 changed, 0 removed, 0 added: 0.0 % differ")


def test_speakers_of_a_mono_call_are_told_apart_again(running: Deployment, tmp_path: Path) -> None:
    pcm, rate_hz = bad.read_wav(SAMPLE)
    mixed = pcm[: 22 * rate_hz].sum(axis=1, keepdims=True).clip(-32768, 32767)
    path = bad.write_wav(tmp_path / "mono.wav", [mixed], rate_hz=rate_hz)
    running.run("transcribe", str(path), "--call", "again-mono")
    stored = running.show("again-mono")
    assert stored is not None
    running.run("transcribe", "--again", "again-mono", "--out", str(tmp_path / "mono.json"))
    heard = json.loads((tmp_path / "mono.json").read_text())
    said = [[(turn["speaker"], turn["text"]) for turn in one["turns"]] for one in (stored, heard)]
    assert said[0] == said[1]
    assert len({speaker for speaker, _ in said[0]}) > 1


def test_other_settings_are_heard_and_the_words_that_differ_are_shown(running: Deployment, greeting: Path) -> None:
    running.run("transcribe", str(greeting), "--roles", SAMPLE_ROLES, "--call", "again-german")
    done = running.run("transcribe", "--again", "again-german", "--language", "de", "--beam-size", "1", "--diff")
    *turns, counts = done.stdout.splitlines()
    assert "00:00" in turns[0]
    assert "[-" in turns[0]
    assert "{+" in turns[0]
    assert float(counts.rpartition(": ")[2].split()[0]) > 20
    encoded = running.run("transcribe", "--again", "again-german", "--diff", "--json").stdout
    assert json.loads(encoded)["turns"] == []
    assert json.loads(encoded)["counts"]["share"] == 0


def test_whisperx_s_own_pipeline_hears_the_call_too(running: Deployment, short_call: Path, tmp_path: Path) -> None:
    running.run("transcribe", str(short_call), "--roles", SAMPLE_ROLES, "--call", "again-whisperx")
    out = tmp_path / "whisperx.json"
    done = running.run("transcribe", "--again", "again-whisperx", "--diff", "--out", str(out), engine="whisperx")
    assert float(last_line(done.stdout).rpartition(": ")[2].split()[0]) < 20
    words = [word for turn in json.loads(out.read_text())["turns"] for word in turn["words"]]
    assert words
    assert all(word["interpolated"] for word in words)


async def test_what_cannot_be_heard_again_is_told(running: Deployment, greeting: Path) -> None:
    unknown = running.run("transcribe", "--again", "nobody", check=False)
    assert (unknown.returncode, unknown.stderr.strip()) == (
        2,
        "callstream: there is no call 'nobody' of tenant 'default'",
    )
    running.run("transcribe", str(greeting), "--roles", SAMPLE_ROLES, "--call", "again-gone")
    client = await nats.connect(**running.login)
    stream = await client.jetstream().stream_info("calls-audio-batch")
    first = stream.state.last_seq - 3
    await client.jetstream().purge_stream("calls-audio-batch", seq=first)
    cut = running.run("transcribe", "--again", "again-gone", check=False)
    await client.jetstream().purge_stream("calls-audio-batch")
    await client.close()
    gone = running.run("transcribe", "--again", "again-gone", check=False)
    kept = "audio is kept for 7 days (CALLSTREAM_RETENTION_DAYS)"
    assert (cut.returncode, kept in cut.stderr, "no longer holds the start" in cut.stderr) == (2, True, True)
    assert (gone.returncode, f"the bus holds no audio of the call again-gone: {kept}" in gone.stderr) == (2, True)


@pytest.mark.kafka
def test_on_kafka_too(on_kafka: Workers, greeting: Path) -> None:
    deployment = on_kafka.deployment
    publisher = deployment.publish(greeting, "again-kafka", "--roles", SAMPLE_ROLES)
    publisher.communicate(timeout=60)
    assert publisher.returncode == 0
    deployment.wait_completed("again-kafka")
    done = deployment.run("transcribe", "--again", "again-kafka", "--diff")
    assert last_line(done.stdout).endswith("0 changed, 0 removed, 0 added: 0.0 % differ")
