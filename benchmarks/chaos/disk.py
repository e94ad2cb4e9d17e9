"""A small file system for a broker's store, so that it can be filled."""

import os
import subprocess
import sys
from pathlib import Path

NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
"""Runs a command where it may mount and where all its children end with it. On Linux, without root."""


def namespace() -> tuple[str, ...]:
    """Return the command prefix under which a `Disk` can be made; empty where this machine does not allow it."""
    try:
        done = subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False)
    except OSError:
        return ()
    return () if done.returncode else NAMESPACE


class Disk:
    """A tmpfs at `path`. Raises OSError if it cannot be mounted."""

    def __init__(self, path: Path, size_bytes: int) -> None:
        self.path = path
        path.mkdir(parents=True)
        options = ["-t", "tmpfs", "-o", f"size={size_bytes},mode=0755", "tmpfs", str(path)]
        done = subprocess.run(["mount", *options], capture_output=True, text=True, check=False)
        if done.returncode:
            raise OSError(done.stderr.strip())

    @property
    def _filler(self) -> Path:
        return self.path / "filler"

    def fill(self) -> None:
        """Write until the file system is full."""
        with self._filler.open("wb", buffering=0) as file:
            free = os.statvfs(self.path).f_bavail * os.statvfs(self.path).f_frsize
            try:
                os.posix_fallocate(file.fileno(), 0, max(1, free - (1 << 20)))
                file.seek(0, os.SEEK_END)
                while True:
                    file.write(bytes(4096))
            except OSError as error:
                print(f"the store's disk is full: {error.strerror}", file=sys.stderr)

    def free(self) -> None:
        self._filler.unlink(missing_ok=True)

    def close(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.path)], capture_output=True, check=False)
