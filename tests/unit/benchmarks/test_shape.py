"""Every folder of `benchmarks` but the harness is a benchmark: `python -m benchmarks.NAME`, with the same options."""

import argparse
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import benchmarks

FOLDER = Path(benchmarks.__path__[0])
NAMES = sorted(path.parent.name for path in FOLDER.glob("*/__main__.py"))


def parser_of(name: str) -> argparse.ArgumentParser:
    parser = importlib.import_module(f"benchmarks.{name}.__main__").parser()
    assert isinstance(parser, argparse.ArgumentParser)
    return parser


def commands_of(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yield the parser itself, or those of its subcommands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.values()
            return
    yield parser


def test_every_folder_but_the_harness_is_a_benchmark() -> None:
    found = {path.name for path in FOLDER.iterdir()} - {"__pycache__"}
    assert found == {"README.md", "__init__.py", "harness", *NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_help_describes_the_benchmark_and_its_limits(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main = importlib.import_module(f"benchmarks.{name}.__main__").main
    monkeypatch.setattr("sys.argv", ["the name is not taken from here", "--help"])
    with pytest.raises(SystemExit) as ended:
        main()
    printed = capsys.readouterr().out
    assert ended.value.code == 0
    assert printed.startswith(f"usage: python -m benchmarks.{name} ")
    assert "does not show" in printed or "do not show" in printed


@pytest.mark.parametrize("name", NAMES)
def test_figures_can_be_written_and_every_option_has_help(name: str) -> None:
    for command in commands_of(parser_of(name)):
        options = {option: action for action in command._actions for option in action.option_strings or [action.dest]}
        assert "--json" in options
        assert [option for option, action in options.items() if not action.help] == []


@pytest.mark.parametrize("name", NAMES)
def test_the_options_that_a_description_shows_exist(name: str) -> None:
    parser = parser_of(name)
    shown = {
        option for line in re.findall(r"^ +python -m .+$", str(parser.description), re.M) for option in line.split()
    }
    commands = list(commands_of(parser))
    known = {option for command in commands for action in command._actions for option in action.option_strings}
    assert {option.strip("[]…") for option in shown if option.startswith(("--", "[--"))} <= known


def test_benchmarks_with_a_plot_have_the_option_for_it() -> None:
    drawn = (FOLDER / "harness" / "plots.py").read_text(encoding="utf-8")
    with_plot = [
        name for name in NAMES if any("--plot" in command.format_help() for command in commands_of(parser_of(name)))
    ]
    assert [name for name in NAMES if f"def draw_{name}(" in drawn] == with_plot
