"""`callstream calls`, `callstream show` and `callstream sql`."""

import contextlib
from typing import Annotated

import typer

from pipeline.cli import options
from pipeline.cli.data_directory import DataDirectory, call_ref, read_settings
from pipeline.cli.tables import render
from pipeline.client.sql_limits import SqlLimits
from pipeline.errors import InputError
from pipeline.instance import DATABASE_FILE
from schemas.calls import DEFAULT_TENANT

_FORMATS = ("table", "json", "csv")


def calls(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    data: options.Data = None,
) -> None:
    """List the calls, newest first."""
    with contextlib.closing(DataDirectory(read_settings(data)).open_warehouse()) as reader:
        columns, rows = reader.calls()
    typer.echo(render(columns, rows, "json" if as_json else "table"))


def show(
    call: Annotated[str, typer.Argument(help="Call id.", metavar="ID")],
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    tenant: options.Tenant = DEFAULT_TENANT,
    data: options.Data = None,
) -> None:
    """Show one call: its turns, summary and metrics."""
    with contextlib.closing(DataDirectory(read_settings(data)).open_warehouse()) as reader:
        document = reader.show(call_ref(tenant, call))
    from pipeline.client.exports import to_json, to_txt

    typer.echo(to_json(document) if as_json else to_txt(document))


def sql(
    query: Annotated[str, typer.Argument(help="One SELECT.", metavar="SELECT")],
    output: Annotated[str, typer.Option("--format", help="table, json or csv.")] = "table",
    tenant: Annotated[
        str | None, typer.Option("--tenant", help="The only tenant whose calls are seen; by default all are.")
    ] = None,
    data: options.Data = None,
) -> None:
    """Run read-only SQL over the calls, including calls in progress."""
    if output not in _FORMATS:
        raise InputError(f"--format {output!r}: it is one of {', '.join(_FORMATS)}")
    from pipeline.client import sql as analyst

    settings = read_settings(data)
    columns, rows = analyst.query(settings.data / DATABASE_FILE, query, SqlLimits.of(settings), tenant=tenant)
    typer.echo(render(columns, rows, output))
