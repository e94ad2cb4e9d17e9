"""Commands are imported when they are to run, and the help is that of their functions."""

import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from pipeline.cli.commands import COMMANDS, documented, load
from stages.sink.tables import Tables

HEAVY = {"aiohttp", "asyncio", "av", "ctranslate2", "duckdb", "faust", "nats", "numpy", "pandas", "pydantic", "torch"}


def imported_by(*arguments: str) -> set[str]:
    """The heavy modules that a command imports, whatever it answers."""
    code = (
        "import atexit, sys; from pipeline.cli.main import main; "
        "atexit.register(lambda: print('modules', *sys.modules, file=sys.stderr)); main()"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    last = done.stderr.splitlines()[-1].split()
    assert last[0] == "modules"
    return {*last, *(name.partition(".")[0] for name in last)} & {*HEAVY, "rich.console", "structlog"}


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["no-such-command"]])
def test_the_command_alone_imports_no_library(arguments: list[str]) -> None:
    assert imported_by(*arguments) == set()


def test_what_an_instance_says_about_itself_is_told_without_importing_a_library(tmp_path: Path) -> None:
    assert imported_by("status", "--data", str(tmp_path)) == set()


@pytest.mark.parametrize("command", [["calls"], ["show", "nobody"]])
def test_reading_the_warehouse_imports_duckdb_alone(command: list[str], tmp_path: Path) -> None:
    Tables(tmp_path / "callstream.duckdb").close()
    assert imported_by(*command, "--data", str(tmp_path)) == {"duckdb"}


def test_an_analysts_query_is_left_to_another_process(tmp_path: Path) -> None:
    Tables(tmp_path / "callstream.duckdb").close()
    assert imported_by("sql", "SELECT 1", "--data", str(tmp_path)) == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_there_and_documented(name: str) -> None:
    module, _, attribute = COMMANDS[name].partition(":")
    function = getattr(import_module(f"pipeline.cli.{module}"), attribute)
    assert inspect.getdoc(function) == documented(name) != ""
    command = load(name)
    assert command.help == documented(name)
