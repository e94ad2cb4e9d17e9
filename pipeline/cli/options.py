"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[
    Path | None,
    typer.Option("--data", help="Data directory (CALLSTREAM_DATA).", show_default=False, metavar="DIR"),
]
Roles = Annotated[
    str | None,
    typer.Option("--roles", help="Who speaks on which channel: left=agent,right=customer or 0=…,1=….", metavar="LIST"),
]
Language = Annotated[
    str | None, typer.Option("--language", help="ISO 639-1 code; detected where not given.", metavar="CODE")
]
Tenant = Annotated[str, typer.Option("--tenant", help="Whose call it is.")]
