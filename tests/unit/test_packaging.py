"""What `make` installs: the pinned versions fit the ranges, and nothing that is asked for is left unpinned."""

import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).parents[2]


def project() -> dict[str, Any]:
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))


def pins() -> dict[str, str]:
    lines = (REPOSITORY / "infra" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def asked_for() -> list[Requirement]:
    content = project()
    extras, groups = content["project"]["optional-dependencies"], content["dependency-groups"]
    lines = [
        *content["project"]["dependencies"],
        *(line for part in (extras, groups) for v in part.values() for line in v),
    ]
    return [r for r in map(Requirement, lines) if r.name != content["project"]["name"]]


@pytest.mark.parametrize("requirement", asked_for(), ids=str)
def test_every_requirement_is_pinned_to_a_version_in_its_range(requirement: Requirement) -> None:
    name = canonicalize_name(requirement.name)
    assert name in pins(), "run infra/constraints.py"
    assert requirement.specifier.contains(pins()[name])


def test_the_extra_all_is_all_the_extras() -> None:
    extras = project()["project"]["optional-dependencies"]
    (everything,) = (Requirement(line) for line in extras["all"])
    assert everything.extras == extras.keys() - {"all"}


def test_make_without_a_python_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "infra").mkdir()
    for name in ("Makefile", "pyproject.toml", "infra/constraints.txt"):
        (tmp_path / name).write_bytes((REPOSITORY / name).read_bytes())
    made = subprocess.run(
        ["make", "demo", "PYTHON=python3.99"], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False
    )
    assert made.returncode != 0
    assert "needs Python 3.11 or 3.12 and there is no python3.99" in made.stderr
    assert not (tmp_path / ".venv").exists()


def test_make_alone_lists_what_can_be_made() -> None:
    made = subprocess.run(
        ["make", "--no-print-directory"], cwd=REPOSITORY, capture_output=True, text=True, timeout=30, check=True
    )
    assert [line.split("\t")[0] for line in made.stdout.splitlines()] == [
        "make help",
        "make demo",
        "make test",
        "make test-all",
        "make damaged-records",
        "make lint",
        "make clean",
    ]
