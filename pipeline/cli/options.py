"""Options that several commands share."""

import re
from pathlib import Path
from typing import Annotated

import typer

from pipeline.errors import InputError


def _language(code: str | None) -> str | None:
    if code is not None and not re.fullmatch(r"[a-z]{2,3}", code):
        raise InputError(f"--language {code!r}: expected an ISO 639-1 code such as en")
    return code


def words(text: str | None) -> list[str]:
    """Split `A, B` into words."""
    return [word.strip() for word in (text or "").split(",") if word.strip()]


Data = Annotated[
    Path | None,
    typer.Option("--data", help="Data directory (CALLSTREAM_DATA).", show_default=False, metavar="DIR"),
]
BusUrl = Annotated[
    str | None,
    typer.Option(
        "--bus", help="Address of the bus (CALLSTREAM_BUS); by default the running instance's.", metavar="URL"
    ),
]
Roles = Annotated[
    str | None,
    typer.Option("--roles", help="Role of each channel: left=agent,right=customer or 0=…,1=….", metavar="LIST"),
]
Language = Annotated[
    str | None,
    typer.Option("--language", help="ISO 639-1 code; by default detected.", metavar="CODE", callback=_language),
]
Hotwords = Annotated[
    str | None,
    typer.Option("--hotwords", help="Names and words likely in the call: A,B,…", metavar="LIST"),
]
Tenant = Annotated[str, typer.Option("--tenant", help="Tenant of the call.")]
