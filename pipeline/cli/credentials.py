"""`callstream credentials`: the logins to the embedded bus."""

from typing import Annotated

import typer

from pipeline.cli import options
from pipeline.cli.tables import render
from pipeline.cli.target import load_settings
from pipeline.errors import ConfigurationError
from pipeline.private_files import own_directory
from pipeline.wiring.embedded_bus import embedded_logins


def credentials(
    viewer: Annotated[
        str | None,
        typer.Option("--viewer", help="Make a login that may only read this tenant's live updates.", metavar="TENANT"),
    ] = None,
    data: options.Data = None,
) -> None:
    """List the logins to the embedded bus, or make one for a tenant's viewers.

    Each is a file with an NKey seed, as clients of NATS take it. Removing a viewer's file ends its login; removing
    `owner.nk` or `producer.nk` replaces it. A running instance follows within about a second.
    """
    settings = load_settings(data, log_level="warning")
    if settings.bus is not None:
        raise ConfigurationError(f"{settings.bus} has its own logins: these are for the embedded bus")
    logins = embedded_logins(settings)
    if logins is None:
        raise ConfigurationError("CALLSTREAM_BUS_AUTH is off: the embedded bus asks for no login")
    if viewer is not None:
        own_directory(settings.data)
        typer.echo(logins.add_viewer(viewer))
        return
    rows = [(login.name, login.may, str(login.path)) for login in logins.all()]
    typer.echo(render(("login", "may", "file"), rows, "table"))
