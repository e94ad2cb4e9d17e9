"""Prints the versions that an installation of callstream pins: `python infra/constraints.py > infra/constraints.txt`.

Run it in a virtual environment in which everything of `pyproject.toml` is installed and the tests pass. What stands in
that environment for other reasons is left out.
"""

import tomllib
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HEADER = """\
# The versions that the tests passed with: everything that the extras and dependency groups of pyproject.toml bring.
# Made by infra/constraints.py.
"""


def pinned(roots: list[Requirement]) -> dict[str, str]:
    """Version by name of all distributions that `roots` need in this environment. Raises PackageNotFoundError."""
    versions: dict[str, str] = {}
    followed: set[tuple[str, str]] = set()
    waiting = [(requirement, extra) for requirement in roots for extra in ("", *requirement.extras)]
    while waiting:
        requirement, extra = waiting.pop()
        name = canonicalize_name(requirement.name)
        if (name, extra) in followed:
            continue
        followed.add((name, extra))
        installed = distribution(name)
        versions[name] = installed.version
        for line in installed.requires or []:
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                waiting += [(needed, wanted) for wanted in ("", *needed.extras)]
    return versions


def main() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    own = project["project"]["name"]
    groups = [line for group in project["dependency-groups"].values() for line in group]
    versions = pinned([Requirement(f"{own}[all]"), *map(Requirement, groups)])
    del versions[own]
    print(HEADER + "\n".join(f"{name}=={version}" for name, version in sorted(versions.items())))


if __name__ == "__main__":
    main()
