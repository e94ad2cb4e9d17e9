"""Parts that some tests need and a machine may lack.

A test without its part skips and says how to get it. If `CALLSTREAM_REQUIRE` names the part, as in `.ci/run`, it fails.
"""

import os
import shutil
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest

OPTIONAL = ("asyncapi", "kafka", "kcat", "ollama", "qdrant")
"""Tests that need one of these are left to `make test-all`."""
marked: set[str] | None = None
"""The parts that the running test is marked with; None outside of a test."""

SCRIPTS = Path(__file__).parents[2] / "infra" / "dev"


def check_marked(part: str) -> None:
    """Fail a test that lacks the mark of a part that it needs: `make test` would run it."""
    if marked is not None and part in OPTIONAL and part not in marked:
        pytest.fail(f"the test needs {part}: mark it with pytest.mark.{part}")


def missing(part: str, how: str) -> NoReturn:
    """Skip the test, or fail it if `part` is required. `how` says how to get the part."""
    check_marked(part)
    message = f"there is no {part} for tests; {how}"
    if part in os.environ.get("CALLSTREAM_REQUIRE", "").replace(",", " ").split():
        pytest.fail(message)
    pytest.skip(message)


def require(program: str) -> str:
    """Return the path of a program that Debian has in a package of the same name."""
    check_marked(program)
    path = shutil.which(program)
    if path is None:
        missing(program, f"Debian's is installed by apt-get install {program}")
    return path


def require_built(part: str, how: str) -> dict[str, str]:
    """Return the variables that `infra/dev/PART.sh --check` prints about the part that the script builds."""
    check_marked(part)
    script = SCRIPTS / f"{part}.sh"
    found = subprocess.run([script, "--check"], capture_output=True, text=True, check=False)
    if found.returncode != 0:
        missing(part, f"infra/dev/{part}.sh {how}")
    return dict(line.split("=", 1) for line in found.stdout.splitlines())
