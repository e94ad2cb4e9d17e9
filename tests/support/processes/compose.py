"""`docker-compose.kafka.yml` as Compose reads it: anchors and variables resolved, files merged.

Supports only the features of that file: no `extends`, no `env_file`, no `include`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

REPOSITORY = Path(__file__).parents[3]
KAFKA_FILE = REPOSITORY / "docker-compose.kafka.yml"
TLS_FILE = REPOSITORY / "infra" / "docker" / "tls.override.yml"

_VARIABLE = re.compile(r"\$(?:(?P<dollar>\$)|\{(?P<name>[A-Z_]+)(?:(?P<kind>:[-?])(?P<text>[^}]*))?\})")


def read(path: Path) -> dict[str, Any]:
    """Return a file with its anchors and merges resolved, its variables not."""
    content: dict[str, Any] = YAML(typ="safe").load(path)
    return content


def services(*paths: Path, variables: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return the services of the files, later files over earlier ones. Raises KeyError for a missing variable."""
    merged: dict[str, Any] = {}
    for path in paths:
        merged = _laid_over(merged, read(path)["services"])
    resolved: dict[str, dict[str, Any]] = _interpolated(merged, variables)
    return resolved


def variables_of(path: Path) -> set[str]:
    """Return the names of the variables in a file."""
    return {found["name"] for found in _VARIABLE.finditer(path.read_text(encoding="utf-8")) if found["name"]}


def _laid_over(below: Any, above: Any) -> Any:
    if isinstance(below, dict) and isinstance(above, dict):
        return below | {
            name: value if name in ("command", "entrypoint") else _laid_over(below.get(name), value)
            for name, value in above.items()
        }
    if isinstance(below, list) and isinstance(above, list):
        return below + above
    return above


def _interpolated(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {name: _interpolated(item, variables) for name, item in value.items()}
    if isinstance(value, list):
        return [_interpolated(item, variables) for item in value]
    return _VARIABLE.sub(lambda found: _text_of(found, variables), value) if isinstance(value, str) else value


def _text_of(found: "re.Match[str]", variables: Mapping[str, str]) -> str:
    if found["dollar"]:
        return "$"
    if variables.get(found["name"]):
        return variables[found["name"]]
    if found["kind"] == ":-":
        return found["text"]
    raise KeyError(f"{found['name']} is not set: {found['text']}")
