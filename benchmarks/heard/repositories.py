"""Files of public repositories at a fixed commit, fetched by git into a folder."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

GITHUB = "https://github.com/"


def checked_out(repository: str, commit: str, paths: Sequence[str], folder: Path, clones: Path | None = None) -> Path:
    """Return the folder that holds the files of `repository` that match `paths` (git's globs), fetched once.

    They come from GitHub, or from `clones`, a folder of clones named OWNER+NAME or OWNER/NAME, bare or not, where one
    is there. Raises CalledProcessError if git cannot get them.
    """
    tree = folder / repository.replace("/", "+")
    done = tree / f".{commit}-{abs(hash_of(paths))}"
    if not done.exists():
        tree.mkdir(parents=True, exist_ok=True)
        source = _clone(repository, clones) if clones is not None else None
        if source is None:
            source = folder / "clones" / repository
            if not source.exists():
                _git(["init", "--quiet", "--bare", str(source)])
                _git(["-C", str(source), "remote", "add", "origin", GITHUB + repository])
                _git(["-C", str(source), "config", "remote.origin.promisor", "true"])
                _git(["-C", str(source), "config", "remote.origin.partialclonefilter", "blob:none"])
            _git(["-C", str(source), "fetch", "--quiet", "--depth=1", "--filter=blob:none", "origin", commit])
        where = [f"--git-dir={source}", f"--work-tree={tree}"]
        # An index of its own: the clone may belong to somebody else.
        index = {"GIT_INDEX_FILE": str(tree / ".index")}
        _git([*where, "checkout", "--quiet", commit, "--", *(f":(glob){path}" for path in paths)], index)
        done.touch()
    return tree


def hash_of(paths: Sequence[str]) -> int:
    return int.from_bytes("\n".join(paths).encode(), "big") % 1_000_003


def _clone(repository: str, clones: Path) -> Path | None:
    owner, name = repository.split("/")
    for place in (clones / f"{owner}+{name}", clones / owner / name):
        for found in (place / "repo" / ".git", place / "repo", place / ".git", place):
            if (found / "HEAD").exists():
                return found
    return None


def _git(arguments: Sequence[str], environment: dict[str, str] | None = None) -> None:
    subprocess.run(["git", *arguments], check=True, env={**os.environ, **(environment or {})})
