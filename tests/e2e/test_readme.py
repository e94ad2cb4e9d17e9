"""What README shows is what happens."""

import re
from pathlib import Path

import pytest

from tests.calls.wording import word_errors
from tests.deployment import SAMPLE, SAMPLE_ROLES, Deployment

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
TURN = re.compile(r"^(\d\d:\d\d\.\d)–(\d\d:\d\d\.\d)  (\w+) +(.+)$", re.MULTILINE)
COMMANDS = sorted(set(re.findall(r"callstream (transcribe|demo|up|publish|calls|show|sql|status|worker)", README)))

pytestmark = pytest.mark.slow


def section(title: str) -> str:
    return README.partition(f"## {title}\n")[2].partition("\n## ")[0]


def test_the_demo_prints_what_readme_shows(running: Deployment) -> None:
    shown = section("What it prints").partition("```")[2].partition("```")[0]
    done = running.run("demo")
    expected, printed = TURN.findall(shown), TURN.findall(done.stdout)
    assert [(turn[0], turn[2]) for turn in printed] == [(turn[0], turn[2]) for turn in expected]
    errors, words = word_errors(" ".join(turn[3] for turn in expected), " ".join(turn[3] for turn in printed))
    assert errors <= 0.02 * words
    for line in ("Call of 69.0 s", "Summary (extractive", "Look further:", "interruptions 1"):
        assert line in shown
        assert line in done.stdout


def test_every_command_that_readme_names_explains_itself(running: Deployment) -> None:
    assert len(COMMANDS) == 8
    for command in COMMANDS:
        done = running.run(command, "--help")
        assert "Usage: callstream" in done.stdout
        assert len(done.stdout.splitlines()) > 5


def test_readme_s_sql_runs(running: Deployment) -> None:
    running.run("transcribe", str(SAMPLE), "--roles", SAMPLE_ROLES, "--quiet")
    statements = [
        statement.strip()
        for block in re.findall(r"```sql\n(.*?)```", README, re.DOTALL)
        for statement in block.split(";")
        if statement.strip()
    ]
    assert statements
    for statement in statements:
        assert len(running.run("sql", statement, "--format", "csv").stdout.splitlines()) > 1


def test_readme_s_tables_and_views_exist(running: Deployment) -> None:
    names = re.findall(r"`(\w+)`", section("SQL").partition("Tables:")[2])
    assert {"audio_sessions", "transcript_segments", "summaries", "processing_jobs", "turns"} <= set(names)
    for name in names:
        running.run("sql", f"SELECT * FROM {name} LIMIT 1", "--format", "json")
