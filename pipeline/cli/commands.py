"""The commands by name: each is a function in a module beside this one, imported when it is to run.

Importing all of them takes six times the CPU of `--help`. Help is plain text: typer's own, in boxes, imports a Markdown
parser and a syntax highlighter first, which takes as much CPU as everything else of `--help`.
"""

import ast
import gc
from importlib import import_module, resources
from typing import Any, Final

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

COMMANDS: Final = {
    "demo": "transcribe:demo",
    "transcribe": "transcribe:transcribe",
    "up": "serve:up",
    "worker": "serve:worker",
    "bridge": "bridge:bridge",
    "fanout": "fanout:fanout",
    "status": "status:status",
    "credentials": "credentials:credentials",
    "publish": "publish:publish",
    "watch": "watch:watch",
    "calls": "query:calls",
    "show": "query:show",
    "sql": "query:sql",
    "search": "search:search",
    "ask": "search:ask",
    "summarize": "summarize:summarize",
    "dead-letters": "dead_letters:app",
    "topics": "topics:app",
}
"""Module and function by command. The function's docstring is the help; an `app` returns further commands."""


class Group(TyperGroup):
    """Commands whose help lists each with the whole first paragraph of its own."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, self.summary(name)) for name in self.list_commands(ctx)])

    def summary(self, name: str) -> str:
        return (self.commands[name].help or "").partition("\n\n")[0].replace("\n", " ")


class LazyGroup(Group):
    """The group of `COMMANDS`: one of them is imported when it is to run, none by `--help`."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**{**attributes, "commands": {name: TyperCommand(name) for name in COMMANDS}})

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, found, rest = super().resolve_command(ctx, args)
        return name, None if found is None or name is None else load(name), rest

    def summary(self, name: str) -> str:
        return documented(name).partition("\n\n")[0].replace("\n", " ")


def documented(name: str) -> str:
    """Return the docstring of the command's function, read from the source without importing it."""
    module, _, function = COMMANDS[name].partition(":")
    source = (resources.files("pipeline.cli") / f"{module}.py").read_text(encoding="utf-8")
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and node.name == function:
            return ast.get_docstring(node) or ""
    raise LookupError(f"pipeline.cli.{module} has no function {function}")


def load(name: str) -> Any:
    """Import the command's module and return the command, or the group of commands, as typer runs it."""
    module, _, attribute = COMMANDS[name].partition(":")
    gc.disable()  # importing makes no garbage, and looking for it takes a tenth of the CPU
    try:
        function = getattr(import_module(f"pipeline.cli.{module}"), attribute)
    finally:
        gc.enable()
    return get_command(function() if attribute == "app" else plain(commands={name: function}))


def plain(*, commands: dict[str, Any], help: str | None = None) -> typer.Typer:
    """Return commands by name, with help in plain text; one alone is no group."""
    app = typer.Typer(
        cls=Group,
        help=help,
        no_args_is_help=len(commands) > 1,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    for name, function in commands.items():
        app.command(name)(function)
    return app
