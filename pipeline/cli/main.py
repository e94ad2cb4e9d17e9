"""The `callstream` command."""

import gc
import os
import sys
from typing import Annotated

import typer

from pipeline.cli.commands import LazyGroup
from pipeline.errors import CallstreamError, ConfigurationError, InputError
from pipeline.printable import one_line, without_controls
from stages.errors import StageError

app = typer.Typer(
    name="callstream",
    cls=LazyGroup,
    help="Telephone calls to speaker-labelled, word-timed transcripts, summaries and metrics, on your own machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"callstream {version('callstream')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Telephone calls to speaker-labelled, word-timed transcripts, summaries and metrics, on your own machine."""


def _said(error: Exception) -> str:
    """Return an error's text. Further lines, as of DuckDB's, are indented: none looks like a message of its own."""
    return without_controls(str(error)).replace("\n", "\n  ")


def main() -> None:
    """Run the command. An error of callstream is a message on standard error, never a traceback.

    Calls are private: what a command writes can be read by its user alone, whatever the shell's umask is.
    """
    os.umask(0o077)
    try:
        app()
    except (CallstreamError, StageError) as error:
        print(f"callstream: {_said(error)}", file=sys.stderr)
        sys.exit(error.exit_code if isinstance(error, CallstreamError) else 1)
    except PermissionError as error:
        print(f"callstream: {one_line(str(error.filename))}: {error.strerror}", file=sys.stderr)
        sys.exit(InputError.exit_code)
    except ModuleNotFoundError as error:
        hint = "`pip install 'callstream[all]'` has every part"
        print(f"callstream: {error.name} is not installed; {hint}", file=sys.stderr)
        sys.exit(ConfigurationError.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        gc.freeze()  # else the interpreter searches torch for garbage at exit, which takes seconds
