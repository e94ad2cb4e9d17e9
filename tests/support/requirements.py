"""Parts that some tests need and a machine may lack.

A test that needs one skips, saying how to get it, unless `CALLSTREAM_REQUIRE` names it, as `.ci/run` does: then it
fails.
"""

import os
import shutil
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest

SCRIPTS = Path(__file__).parents[2] / "infra" / "dev"


def missing(part: str, how: str) -> NoReturn:
    """Skip the test, or fail it where `part` is required; `how` says how to get it."""
    message = f"there is no {part} for tests; {how}"
    if part in os.environ.get("CALLSTREAM_REQUIRE", "").replace(",", " ").split():
        pytest.fail(message)
    pytest.skip(message)


def require(program: str) -> str:
    """Where the program is, which Debian has in a package of the same name."""
    path = shutil.which(program)
    if path is None:
        missing(program, f"Debian's is installed by apt-get install {program}")
    return path


def require_built(part: str, how: str) -> dict[str, str]:
    """What `infra/dev/PART.sh --check` says about the part that the script builds."""
    script = SCRIPTS / f"{part}.sh"
    found = subprocess.run([script, "--check"], capture_output=True, text=True, check=False)
    if found.returncode != 0:
        missing(part, f"infra/dev/{part}.sh {how}")
    return dict(line.split("=", 1) for line in found.stdout.splitlines())
