"""What README shows is what happens."""

import asyncio
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.calls.wording import holds, word_errors
from tests.support.brokers.kafka_clients import Consumer
from tests.support.processes.deployment import SAMPLE, SAMPLE_ROLES, Deployment
from tests.support.processes.workers import STAGES, Workers
from tests.support.requirements import require

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
TURN = re.compile(r"^(\d\d:\d\d\.\d)–(\d\d:\d\d\.\d)  (\w+) +(.+)$", re.MULTILINE)
pytestmark = pytest.mark.slow


def section(title: str) -> str:
    return README.partition(f"## {title}\n")[2].partition("\n## ")[0]


def blocks(language: str, text: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


COMMANDS = sorted(set(re.findall(r"`callstream ([a-z-]+)", section("Commands"))))


def _seconds(clock: str) -> float:
    minutes, seconds = clock.split(":")
    return 60 * int(minutes) + float(seconds)


def test_the_demo_prints_what_readme_shows(running: Deployment) -> None:
    shown = section("What it prints").partition("```")[2].partition("```")[0]
    done = running.run("demo")
    expected, printed = TURN.findall(shown), TURN.findall(done.stdout)
    assert [turn[2] for turn in printed] == [turn[2] for turn in expected]
    # Another processor sums in another order: a word may be heard otherwise, or a little earlier.
    for turn, shown_turn in zip(printed, expected, strict=True):
        assert _seconds(turn[0]) == pytest.approx(_seconds(shown_turn[0]), abs=0.3)
    errors, words = word_errors(" ".join(turn[3] for turn in expected), " ".join(turn[3] for turn in printed))
    assert errors <= 0.02 * words
    for line in ("Call of 69.0 s", "Summary (extractive", "Look further:", "interruptions 1"):
        assert line in shown
        assert line in done.stdout


def test_every_command_that_readme_names_explains_itself(running: Deployment) -> None:
    assert {"transcribe", "up", "worker", "topics"} <= set(COMMANDS)
    for command in COMMANDS:
        done = running.run(command, "--help")
        assert "Usage: callstream" in done.stdout
        assert len(done.stdout.splitlines()) > 5


def test_readme_s_sql_runs(running: Deployment) -> None:
    running.run("transcribe", str(SAMPLE), "--roles", SAMPLE_ROLES, "--quiet")
    statements = [
        statement.strip() for block in blocks("sql", README) for statement in block.split(";") if statement.strip()
    ]
    assert statements
    for statement in statements:
        assert len(running.run("sql", statement, "--format", "csv").stdout.splitlines()) > 1


def test_readme_s_tables_and_views_exist(running: Deployment) -> None:
    names = re.findall(r"`(\w+)`", section("SQL").partition("Tables:")[2])
    assert {"audio_sessions", "transcript_segments", "summaries", "processing_jobs", "turns"} <= set(names)
    for name in names:
        running.run("sql", f"SELECT * FROM {name} LIMIT 1", "--format", "json")


@pytest.fixture
def kafka_folder(on_kafka: Workers, greeting: Path, tmp_path: Path) -> Path:
    """Where README's programs are run: they and a call lie there, and their broker is the tests'."""
    servers = on_kafka.deployment.environment["CALLSTREAM_BUS"].removeprefix("kafka://")
    text = section("On Kafka").replace("localhost:9092", servers)
    for program in blocks("python", text):
        name = re.match(r"# python (\w+\.py)", program)
        assert name is not None
        (tmp_path / name[1]).write_text(program)
    [script] = [block for block in blocks("sh", text) if "kcat" in block]
    (tmp_path / "kcat.sh").write_text(script)
    shutil.copy(greeting, tmp_path / "call.wav")
    (tmp_path / "servers").write_text(servers)
    return tmp_path


@pytest.fixture
def reading(kafka_folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """`read.py`, until the test ends."""
    servers = (kafka_folder / "servers").read_text()
    with subprocess.Popen(
        [sys.executable, "read.py", servers], cwd=kafka_folder, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def test_the_workers_that_readme_starts_on_kafka_are_all_that_it_takes(on_kafka: Workers) -> None:
    [lines] = [block for block in blocks("sh", section("On Kafka")) if "callstream worker" in block]
    commands = [line.partition("#")[0].split() for line in lines.splitlines()]
    assert commands[0] == ["export", "CALLSTREAM_BUS=kafka://localhost:9092"]
    assert [command[1:] for command in commands[2:]] == [["worker", stage] for stage in STAGES]
    on_kafka.deployment.run(*commands[1][1:])


def test_readme_s_aiokafka_programs_send_a_call_and_read_it(
    kafka_folder: Path, reading: "subprocess.Popen[str]"
) -> None:
    servers = (kafka_folder / "servers").read_text()
    subprocess.run([sys.executable, "send.py", servers, "call.wav", "my-call"], cwd=kafka_folder, check=True)
    printed: list[str] = []
    assert reading.stdout is not None
    for line in reading.stdout:
        if line.startswith("my-call"):
            printed.append(line)
        if "my-call summary: " in line:
            break
    assert len(printed) == 2
    assert printed[0].startswith("my-call 0.8 agent: ")
    assert holds(printed[0], "Thank you for calling Northwind Energy")


async def test_readme_s_kcat_commands_send_a_call_and_read_it(kafka_folder: Path) -> None:
    require("kcat")
    servers = (kafka_folder / "servers").read_text()
    sending, reading = (kafka_folder / "kcat.sh").read_text().split("\n\n")
    await asyncio.to_thread(subprocess.run, ["bash", "-euc", sending], cwd=kafka_folder, check=True)
    async with Consumer(servers, "calls.transcripts") as consumer:
        completed = await consumer.transcript("my-other-call")
    done = await asyncio.to_thread(
        subprocess.run, ["bash", "-euc", reading], cwd=kafka_folder, check=True, capture_output=True, text=True
    )
    lines = [line.removeprefix("my-other-call ") for line in done.stdout.splitlines()]
    assert completed in [json.loads(line) for line in lines if line.startswith("{")]
    assert holds(completed["turns"][0]["text"], "Thank you for calling Northwind Energy")
