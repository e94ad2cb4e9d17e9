"""Statements for read-only SQL, from `attacks.toml`."""

import tomllib
from pathlib import Path
from typing import Final

_LISTS: Final[dict[str, list[str]]] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())

READS: Final = _LISTS["reads"]
WRITES: Final = _LISTS["writes"]
ADMINISTRATION: Final = _LISTS["administration"]
FILES: Final = _LISTS["files"]
RUNAWAYS: Final = _LISTS["runaways"]
