"""Files and directories that only their owner can read."""

import contextlib
import os
from pathlib import Path
from typing import Final

import structlog

_OTHERS: Final = 0o077


def own_directory(path: Path) -> None:
    """Make a directory that only this user can enter, and take the rights of others away from an existing one.

    Earlier versions made data directories and files by the umask of the user. The files and folders right inside are
    closed too. Symbolic links are left alone, and so is what belongs to another user: that is logged as a warning.
    """
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    log = structlog.get_logger("callstream.private_files")
    owner = path.stat().st_uid
    if owner != os.geteuid():
        log.warning("data directory of another user: they can read all calls", path=str(path), uid=owner)
        return
    for each in (path, *path.iterdir()):
        if _is_open(each):
            with contextlib.suppress(FileNotFoundError):
                each.chmod(each.stat().st_mode & 0o7777 & ~_OTHERS)
            log.info("closed to other users", path=str(each))


def _is_open(path: Path) -> bool:
    """Return True for a file or folder of this user that others have rights on. Symbolic links are not followed."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return False
    return not path.is_symlink() and status.st_uid == os.geteuid() and bool(status.st_mode & _OTHERS)
