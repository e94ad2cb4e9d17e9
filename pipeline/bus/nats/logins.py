"""Logins to the embedded server: NKey seeds in files that only their owner can read.

A folder holds `owner.nk`, `producer.nk` and any number of `viewer-<tenant>.nk`. Each file is one login: the server
takes the public key of its seed, and what the login may do follows from the file's name. A login ends when its file is
removed; owner and producer then get a new one.

| login | may publish | may subscribe |
|---|---|---|
| owner | everything | everything |
| producer | audio events | its acknowledgements, under the inbox prefix `_INBOX_producer` |
| viewer | nothing | live updates of its tenant |

Producers have an inbox prefix of their own because the owner's replies, records among them, arrive under `_INBOX`.

The server acknowledges a publish on the reply subject that the producer names, and checks no permission of that. So a
producer can have an acknowledgement, `{"stream":"calls-audio","seq":7}`, sent to any subject. As a record it becomes a
dead letter at most. As a request to JetStream's API it would purge a stream up to that position, but that a server in
strict mode refuses requests with unknown fields.
"""

import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from pipeline.bus.nats.live_subjects import live_subjects
from pipeline.bus.nats.subjects import PRODUCER_TOPICS, subject_base
from pipeline.errors import ConfigurationError, InputError
from schemas.calls import CallRef

PRODUCER_INBOX: Final = "_INBOX_producer"
_SUFFIX: Final = ".nk"
_OWNER: Final = "owner"
_PRODUCER: Final = "producer"
_VIEWER: Final = re.compile(r"viewer-(.+)")
_LOGIN_WITHIN_S: Final = 60.0
"""NATS's default of 2 s is short for a client on a machine whose cores are all busy with models."""

_NOTHING: Final[Mapping[str, Any]] = {"deny": [">"]}


class Login(msgspec.Struct, frozen=True):
    """A login and its file. `may` says in words what it is for."""

    name: str
    path: Path
    may: str


class Logins:
    """The logins of one embedded server. Nothing is cached: the files are read whenever they are asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def owner(self) -> Path:
        return self._path(_OWNER)

    @property
    def producer(self) -> Path:
        return self._path(_PRODUCER)

    def prepare(self) -> None:
        """Make the folder, and the logins of owner and producer where there are none yet."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path in (self.owner, self.producer):
            _create(path)

    def add_viewer(self, tenant: str) -> Path:
        """Return the file of the tenant's viewers, made where there is none. Raises InputError for an impossible name.

        A running server lets it in within about a second.
        """
        try:
            CallRef.checked(tenant, "any")
        except ValueError as error:
            raise InputError(str(error)) from error
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._path(f"viewer-{tenant}")
        _create(path)
        return path

    def all(self) -> list[Login]:
        """Return all logins, sorted by name. Files with other names are none."""
        found = []
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            name = path.name.removesuffix(_SUFFIX)
            if _permissions(name) is not None:
                found.append(Login(name, path, _purpose(name)))
        return found

    def fingerprint(self) -> tuple[tuple[str, int, int], ...]:
        """Return a value that changes when a login is added, replaced or removed."""
        found = []
        for login in self.all():
            status = login.path.stat()
            found.append((login.name, status.st_ino, status.st_mtime_ns))
        return tuple(found)

    def authorization(self) -> dict[str, Any]:
        """Return the `authorization` block of a server that knows these logins, and nobody else.

        It holds public keys only. Raises ConfigurationError naming the file of owner or producer that holds no seed. A
        viewer's is left out, which is logged.
        """
        users = []
        for login in self.all():
            try:
                users.append({"nkey": _public_key(login.path), **(_permissions(login.name) or {})})
            except ConfigurationError as error:
                if login.path in (self.owner, self.producer):
                    raise
                structlog.get_logger("callstream.logins").error("login left out", reason=str(error))
        return {"timeout": _LOGIN_WITHIN_S, "users": users}

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}{_SUFFIX}"


def _permissions(name: str) -> dict[str, Any] | None:
    """Return what the login of a name may do, as the server's configuration says it; None if it is no login's name."""
    if name == _OWNER:
        return {}
    if name == _PRODUCER:
        audio = [f"{subject_base(topic)}.*" for topic in sorted(PRODUCER_TOPICS)]
        return {"permissions": {"publish": {"allow": audio}, "subscribe": {"allow": [f"{PRODUCER_INBOX}.>"]}}}
    viewer = _VIEWER.fullmatch(name)
    if viewer is None:
        return None
    return {"permissions": {"publish": _NOTHING, "subscribe": {"allow": [live_subjects(viewer[1])]}}}


def _purpose(name: str) -> str:
    if name == _OWNER:
        return "everything"
    return "publish audio events" if name == _PRODUCER else "subscribe to live updates of its tenant"


def _create(path: Path) -> None:
    """Write a new seed unless the file exists. Readers see the whole file or none."""
    if path.exists():
        return
    import nkeys  # it loads libsodium, which takes 60 ms of CPU

    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(file, "wb") as stream:
            stream.write(bytes(nkeys.encode_seed(secrets.token_bytes(32), nkeys.PREFIX_BYTE_USER)) + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _public_key(path: Path) -> str:
    import nkeys

    try:
        pair = nkeys.from_seed(bytearray(path.read_bytes().strip()))
        key: str = pair.public_key.decode()
        pair.wipe()
    except (nkeys.NkeysError, ValueError) as error:
        raise ConfigurationError(f"{path} holds no NKey seed: remove it, and a new login is made") from error
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    return key
