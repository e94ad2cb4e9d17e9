"""Debian packages as files in a folder: downloaded by apt, unpacked by dpkg, not installed."""

import subprocess
from collections.abc import Sequence
from pathlib import Path


def unpacked(packages: Sequence[str], folder: Path) -> Path:
    """Return the folder that holds the unpacked packages; downloads what is missing. Needs apt-get and dpkg.

    Raises CalledProcessError if apt does not have a package.
    """
    tree, downloads = folder / "tree", folder / "packages"
    for package in packages:
        done = downloads / f"{package}.unpacked"
        if done.exists():
            continue
        downloads.mkdir(parents=True, exist_ok=True)
        if not list(downloads.glob(f"{package}_*.deb")):
            subprocess.run(["apt-get", "-qq", "download", package], cwd=downloads, check=True)
        for archive in sorted(downloads.glob(f"{package}_*.deb")):
            subprocess.run(["dpkg", "-x", str(archive), str(tree)], check=True)
        done.touch()
    return tree
