"""What the documents show is what happens: README, and the pages for producers, consumers and operators."""

import asyncio
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli.main import app
from tests.calls.wording import holds, word_errors
from tests.support.brokers.kafka_clients import Consumer
from tests.support.processes.deployment import COMMAND, SAMPLE, SAMPLE_ROLES, Deployment
from tests.support.processes.workers import STAGES, Workers
from tests.support.requirements import require

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
MESSAGES = (REPOSITORY / "schemas" / "README.md").read_text(encoding="utf-8")
OPERATING = (REPOSITORY / "infra" / "README.md").read_text(encoding="utf-8")
DEMO = (REPOSITORY / "tests" / "e2e" / "demo.txt").read_text(encoding="utf-8")
"""All that the demo printed when README was written; README shows lines of it."""
TURN = re.compile(r"^(\d\d:\d\d\.\d)–(\d\d:\d\d\.\d)  (\w+) +(.+)$", re.MULTILINE)
OWNER, PRODUCER, VIEWER = (f"credentials/{name}.nk" for name in ("owner", "producer", "viewer-default"))
GREETING = "Thank you for calling Northwind Energy"
pytestmark = pytest.mark.slow


def section(title: str, page: str = README) -> str:
    return page.partition(f"## {title}\n")[2].partition("\n## ")[0]


def blocks(language: str, text: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands(text: str) -> list[list[str]]:
    """The command lines that a text names in backticks, as the words of each."""
    return [named.replace("\\|", "|").split() for named in re.findall(r"`callstream ([a-z-][^`]*)`", text)]


def programs(folder: Path, page: str) -> None:
    """Write the page's programs to `folder`, each under the name in its first line."""
    for program in blocks("python", page):
        name = re.match(r"# python (\w+\.py)", program)
        assert name is not None
        (folder / name[1]).write_text(program)


COMMANDS = sorted({words[0] for words in commands(section("Commands"))})
OPTIONS = [
    (words[0], option)
    for page in (section("Commands"), OPERATING)
    for words in commands(page)
    for option in re.findall(r"--[a-z-]+", " ".join(words))
]
LETTERS = re.findall(r"`callstream dead-letters (\w+)", section("Dead letters", OPERATING))


def run_script(script: str, deployment: Deployment, folder: Path) -> str:
    """Run a page's lines in `folder` on a deployment, as a shell that finds `callstream` would; what they print."""
    path = f"{Path(COMMAND).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", script],
        cwd=folder,
        env={**deployment.environment, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _seconds(clock: str) -> float:
    minutes, seconds = clock.split(":")
    return 60 * int(minutes) + float(seconds)


def numberless(line: str) -> str:
    """The line without what differs from run to run: its numbers, and how they are padded."""
    return re.sub(r"\d+(\.\d+)?", "#", re.sub(r" +", " ", line))


@contextlib.contextmanager
def started(folder: Path, program: str, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """A program of a page, until the block ends."""
    with subprocess.Popen(
        [sys.executable, program, *arguments], cwd=folder, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def lines_of(process: "subprocess.Popen[str]", start: str, *, until: str) -> list[str]:
    """The lines that begin with `start`, to the first one with `until` in it."""
    printed: list[str] = []
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(start):
            printed.append(line)
            if until in line:
                break
    return printed


# -- README --------------------------------------------------------------------------------------------------------


def test_the_demo_prints_what_readme_shows(running: Deployment) -> None:
    done = running.run("demo")
    expected, printed = TURN.findall(DEMO), TURN.findall(done.stdout)
    assert [turn[2] for turn in printed] == [turn[2] for turn in expected]
    # Another processor sums in another order: a word may come out differently, or a little earlier.
    for turn, shown_turn in zip(printed, expected, strict=True):
        assert _seconds(turn[0]) == pytest.approx(_seconds(shown_turn[0]), abs=0.3)
    errors, words = word_errors(" ".join(turn[3] for turn in expected), " ".join(turn[3] for turn in printed))
    assert errors <= 0.02 * words
    shown = TURN.findall(README)
    assert len(shown) >= 4
    for start, _, speaker, text in shown:
        [same] = [turn for turn in printed if turn[2] == speaker and abs(_seconds(turn[0]) - _seconds(start)) <= 0.3]
        assert holds(same[3], text)
    for line in ("Call of 69.0 s", "Summary (extractive", "Look further:", "interruptions 1"):
        assert line in README
        assert line in DEMO
        assert line in done.stdout
    found = {numberless(line) for line in (done.stdout + done.stderr).splitlines()}
    for line in blocks("text", README)[0].splitlines():
        if line != "…" and not TURN.match(line):
            pattern = ".*".join(map(re.escape, numberless(line).split("…")))
            assert any(re.fullmatch(pattern, candidate) for candidate in found), f"the demo does not print {line!r}"


@pytest.fixture(scope="module")
def helps() -> dict[str, str]:
    """The help of each command, with that of its own commands; in this process, for each start takes seconds."""
    runner = CliRunner()
    found: dict[str, str] = {}
    for command in COMMANDS:
        for words in ([command], *([command, each] for each in (LETTERS if command == "dead-letters" else []))):
            done = runner.invoke(app, [*words, "--help"], terminal_width=120)
            assert done.exit_code == 0, done.output
            found[command] = found.get(command, "") + done.output
    return found


def test_every_command_that_readme_names_explains_itself(running: Deployment, helps: dict[str, str]) -> None:
    assert {"transcribe", "up", "worker", "topics"} <= set(COMMANDS)
    listed = running.run("--help").stdout
    for command, text in helps.items():
        assert f" {command} " in listed
        assert "Usage: " in text
        assert len(text.splitlines()) > 5


def test_every_option_that_readme_and_the_operators_page_name_is_one(helps: dict[str, str]) -> None:
    assert ("transcribe", "--again") in OPTIONS
    assert ("search", "--rebuild") in OPTIONS
    assert LETTERS == ["list", "show", "replay", "drop"]
    assert [(command, option) for command, option in OPTIONS if option not in helps[command]] == []


@pytest.fixture(scope="module")
def example(running: Deployment, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """README's example, run on the sample call: the subtitles that it wrote and what it printed."""
    folder = tmp_path_factory.mktemp("example")
    shutil.copy(SAMPLE, folder / "call.wav")
    [script] = blocks("sh", section("What you get"))
    printed = run_script(script, running, folder)
    return (folder / "call.vtt").read_text(), printed


def test_readme_s_example_writes_subtitles_and_counts_words(example: tuple[str, str]) -> None:
    subtitles, printed = example
    shown_cues, shown_table = blocks("text", section("What you get"))
    written, shown = subtitles.split("\n\n"), shown_cues.split("\n\n")
    assert written[0] == shown[0] == "WEBVTT"
    for line, shown_line in zip(written[1].splitlines(), shown[1].splitlines(), strict=True):
        assert line == shown_line or ("-->" in line and line[:11] == shown_line[:11])
    rows, shown_rows = (
        [line.split() for line in text.partition("speaker  ")[2].splitlines()] for text in (printed, shown_table)
    )
    assert rows[0] == shown_rows[0] == ["turns", "words"]
    assert len(rows) == len(shown_rows) == 5
    assert {row[0] for row in rows[2:4]} == {row[0] for row in shown_rows[2:4]} == {"agent", "customer"}
    for row, shown_row in zip(sorted(rows[2:4]), sorted(shown_rows[2:4]), strict=True):
        assert row[:2] == shown_row[:2]
        assert int(row[2]) == pytest.approx(int(shown_row[2]), rel=0.02)


# -- The operators' page -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("example")
def test_the_sql_of_the_operators_page_runs(running: Deployment) -> None:
    statements = [
        statement.strip() for block in blocks("sql", OPERATING) for statement in block.split(";") if statement.strip()
    ]
    assert statements
    for statement in statements:
        assert len(running.run("sql", statement, "--format", "csv").stdout.splitlines()) > 1


def test_the_tables_and_views_of_the_operators_page_exist(running: Deployment) -> None:
    names = re.findall(r"`(\w+)`", section("SQL", OPERATING).partition("Tables:")[2])
    assert {"audio_sessions", "transcript_segments", "summaries", "processing_jobs", "turns"} <= set(names)
    counts = ", ".join(f"(SELECT count(*) FROM {name}) AS {name}" for name in names)
    [counted] = json.loads(running.run("sql", f"SELECT {counts}", "--format", "json").stdout)
    assert list(counted) == names


@pytest.mark.usefixtures("example")
def test_the_duckdb_client_reads_calls_of_a_running_instance(running: Deployment, tmp_path: Path) -> None:
    programs(tmp_path, OPERATING)
    url, token_file = running.status()["quack_url"], str(running.data / "quack.token")
    done = subprocess.run(
        [sys.executable, "report.py", url, token_file], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert any(line.startswith("bill-1 (completed): customer: ") for line in done.stdout.splitlines())


def test_a_copy_of_a_stopped_data_directory_is_a_backup(greeting: Path, tmp_path: Path) -> None:
    [script] = blocks("sh", section("Backups", OPERATING))
    deployment = Deployment(tmp_path / "data")
    deployment.run("transcribe", str(greeting), "--roles", SAMPLE_ROLES, "--call", "bill-1", "--quiet")
    printed = run_script(script.replace("/backups/callstream", str(tmp_path / "copy")), deployment, tmp_path)
    assert GREETING in printed
    again = deployment.run("transcribe", "--again", "bill-1", "--diff", "--data", str(tmp_path / "copy"))
    assert again.stdout.splitlines()[-1].endswith("0 changed, 0 removed, 0 added: 0.0 % differ")


# -- The page for producers and consumers, on NATS ------------------------------------------------------------------


@pytest.fixture
def nats_folder(running: Deployment, greeting: Path, short_call: Path, tmp_path: Path) -> Path:
    """The page's programs, two calls, the logins to the running instance, and its address in `url`."""
    programs(tmp_path, MESSAGES)
    shutil.copy(greeting, tmp_path / "call.wav")
    shutil.copy(short_call, tmp_path / "longer.wav")
    status = running.status()
    (tmp_path / "url").write_text(status["nats_url"])
    viewer = running.run("credentials", "--viewer", "default").stdout.strip()
    (tmp_path / "credentials").mkdir()
    for name, path in (
        ("producer.nk", status["producer_credentials"]),
        ("owner.nk", status["owner_credentials"]),
        ("viewer-default.nk", viewer),
    ):
        (tmp_path / "credentials" / name).symlink_to(path)
    return tmp_path


def send(folder: Path, call: str) -> None:
    url = (folder / "url").read_text()
    subprocess.run([sys.executable, "nats_send.py", url, PRODUCER, "call.wav", call], cwd=folder, check=True)


def test_the_nats_programs_send_a_call_and_read_it(nats_folder: Path) -> None:
    url = (nats_folder / "url").read_text()
    with started(nats_folder, "nats_read.py", url, OWNER) as reading:
        subprocess.run(
            [sys.executable, "nats_send.py", url, PRODUCER, "call.wav", "my-call"], cwd=nats_folder, check=True
        )
        printed = lines_of(reading, "my-call", until="my-call summary: ")
    assert len(printed) == 2
    assert printed[0].startswith("my-call 0.8 agent: ")
    assert holds(printed[0], GREETING)


def test_the_nats_consumer_is_told_of_a_record_that_nobody_can_use(nats_folder: Path) -> None:
    url = (nats_folder / "url").read_text()
    start = '"encoding": "pcm_s16le"'
    program = (nats_folder / "nats_send.py").read_text()
    assert start in program
    (nats_folder / "nats_send.py").write_text(program.replace(start, '"encoding": "amr"'))
    with started(nats_folder, "nats_read.py", url, OWNER) as reading:
        subprocess.run(
            [sys.executable, "nats_send.py", url, PRODUCER, "call.wav", "unusable"], cwd=nats_folder, check=True
        )
        printed = lines_of(reading, "unusable: calls.audio", until="Invalid enum value 'amr'")
    assert "the value of callstream.call.started cannot be read" in printed[-1]


def test_the_viewer_reads_along_in_a_call_that_did_not_ask_for_partials(running: Deployment, nats_folder: Path) -> None:
    publisher = running.publish(nats_folder / "longer.wav", "my-live-call", "--realtime", "--roles", SAMPLE_ROLES)
    deadline = time.monotonic() + 30
    while running.show("my-live-call") is None:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    done = subprocess.run(
        [sys.executable, "nats_watch.py", (nats_folder / "url").read_text(), VIEWER, PRODUCER, "my-live-call"],
        cwd=nats_folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    publisher.communicate(timeout=60)
    assert publisher.returncode == 0
    lines = done.stdout.splitlines()
    assert any(line.endswith(" …") for line in lines)
    turns = [line for line in lines if not line.endswith("…")]
    assert "customer: Sure, it's 4719-2603." in turns


# -- The same on Kafka ------------------------------------------------------------------------------------------------


@pytest.fixture
def kafka_folder(on_kafka: Workers, greeting: Path, tmp_path: Path) -> Path:
    """Where the page's programs are run: they and a call lie there, and their broker is the tests'."""
    servers = on_kafka.deployment.environment["CALLSTREAM_BUS"].removeprefix("kafka://")
    text = MESSAGES.replace("localhost:9092", servers)
    programs(tmp_path, text)
    [script] = [block for block in blocks("sh", text) if "kcat" in block]
    (tmp_path / "kcat.sh").write_text(script)
    shutil.copy(greeting, tmp_path / "call.wav")
    (tmp_path / "servers").write_text(servers)
    return tmp_path


@pytest.mark.kafka
def test_the_workers_that_are_started_on_kafka_are_all_that_it_takes(on_kafka: Workers) -> None:
    [lines] = [block for block in blocks("sh", section("On Kafka", OPERATING)) if "callstream worker" in block]
    started_by = [line.partition("#")[0].split() for line in lines.splitlines()]
    assert started_by[0] == ["export", "CALLSTREAM_BUS=kafka://localhost:9092"]
    assert [command[1:] for command in started_by[2:]] == [["worker", stage] for stage in STAGES]
    on_kafka.deployment.run(*started_by[1][1:])


@pytest.mark.kafka
def test_the_aiokafka_programs_send_a_call_and_read_it(kafka_folder: Path) -> None:
    servers = (kafka_folder / "servers").read_text()
    with started(kafka_folder, "kafka_read.py", servers) as reading:
        subprocess.run([sys.executable, "kafka_send.py", servers, "call.wav", "my-call"], cwd=kafka_folder, check=True)
        printed = lines_of(reading, "my-call", until="my-call summary: ")
    assert len(printed) == 2
    assert printed[0].startswith("my-call 0.8 agent: ")
    assert holds(printed[0], GREETING)


@pytest.mark.kafka
@pytest.mark.kcat
async def test_the_kcat_commands_send_a_call_and_read_it(kafka_folder: Path) -> None:
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
    assert holds(completed["turns"][0]["text"], GREETING)
