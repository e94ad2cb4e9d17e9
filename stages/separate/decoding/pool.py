"""A pool of processes that decode files, and the audio that comes from one of them.

A process that dies is the file's fault if others, which decode a known file, die at the same place of this one; it is
the machine's otherwise. Another process goes on at the sample where it ended, and the audio is the same.
"""

import contextlib
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import BinaryIO, Final

import msgspec

from stages.errors import DecoderLost, MachineFailure
from stages.separate.decoder import AudioFileError, Damage, DecodeLimits
from stages.separate.decoding.messages import (
    Answer,
    Block,
    ChildLimits,
    Disconnected,
    Done,
    Job,
    Opened,
    Ready,
    Refused,
    Unreadable,
    receive,
    send_job,
)

_STARTING: Final = """
import sys
sys.path[:] = {path!r}
from stages.separate.decoding.child import main
main({descriptor}, {limits!r})
"""

_MAX_FILES: Final = 200
"""Files that a process decodes before another takes its place."""
_MAX_CRASHES: Final = 2
"""Crashes at the same place that prove that the file is their cause."""
_MAX_CRASHES_ANYWHERE: Final = 4
_MAX_DEATHS: Final = 3
"""Processes lost for one file, for other reasons, before that is the machine's failure."""
_START_S: Final = 60.0
_END_S: Final = 5.0

_BY_OTHERS: Final = {signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT}
"""Signals that a decoder cannot cause: someone, or the kernel in want of memory, sent them."""


class DecoderPool:
    """Decodes files in other processes. See `stages.separate.decoder.Decoder`. `close` ends the processes."""

    def __init__(
        self, *, at_once: int = 2, limits: ChildLimits | None = None, decode: DecodeLimits | None = None
    ) -> None:
        self.at_once = at_once
        self.decode = decode or DecodeLimits()
        self._limits = limits or ChildLimits()
        self._idle: list[_Child] = []
        self._busy: set[_Child] = set()
        self._lock = threading.Lock()
        self._closed = False

    def prepare(self) -> None:
        with self._lock:
            if self._idle or self._closed:
                return
        with contextlib.suppress(DecoderLost):
            self.give(self._started())

    def open(self, source: BinaryIO, name: str) -> "PooledAudio":
        return PooledAudio(self, source, name)

    def take(self) -> "_Child":
        """Return a process that is ready. Raises DecoderLost if none starts."""
        while True:
            with self._lock:
                is_new = not self._idle
                if not is_new:
                    child = self._idle.pop()
                    self._busy.add(child)
            if is_new:
                child = self._started()
            try:
                child.wait_ready()
            except DecoderLost:
                self.drop(child)
                if is_new:
                    raise
                continue  # it died while nobody needed it
            return child

    def give(self, child: "_Child") -> None:
        """Take back a process whose file is finished."""
        with self._lock:
            if not self._closed and len(self._idle) < self.at_once and child.files < _MAX_FILES:
                self._busy.discard(child)
                self._idle.append(child)
                return
        self.drop(child)

    def drop(self, child: "_Child") -> None:
        """End a process."""
        with self._lock:
            self._busy.discard(child)
        child.end()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            children = [*self._idle, *self._busy]
            self._idle.clear()
        for child in children:
            child.kill()
        for child in children:
            self.drop(child)

    def _started(self) -> "_Child":
        child = _Child(self._limits)
        with self._lock:
            self._busy.add(child)
            closed = self._closed
        if closed:
            self.drop(child)
            raise DecoderLost("the processes that decode files are ended")
        return child


class _Child:
    """One process. Its owner uses it from one thread at a time."""

    def __init__(self, limits: ChildLimits) -> None:
        """Start it, without waiting until it is ready. Raises DecoderLost if the system does not let it start."""
        self.files = 0
        self._limits = limits
        self._ready = False
        try:
            self._connection, theirs = socket.socketpair()
            self._connection.settimeout(_START_S)
            with theirs:
                given = msgspec.json.encode(limits)
                code = _STARTING.format(path=sys.path, descriptor=theirs.fileno(), limits=given)
                self._process = subprocess.Popen(
                    [sys.executable, "-c", code],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
        except OSError as error:
            raise DecoderLost(f"the process that decodes files does not start: {error}") from error

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_ready(self) -> None:
        """Return once it has decoded a known file. Raises DecoderLost."""
        if self._ready and self._process.poll() is None:
            return
        try:
            answer = self.receive()
        except _Died as death:
            raise DecoderLost(f"the process that decodes files does not start: {death}") from death
        assert isinstance(answer, Ready)
        self._ready = True
        self._connection.settimeout(self._limits.silence_s)

    def begin(self, job: Job, descriptor: int) -> None:
        """Raises _Died."""
        self.files += 1
        try:
            send_job(self._connection, job, descriptor)
        except (Disconnected, OSError) as error:
            raise self._death(error) from error

    def receive(self) -> Answer:
        """Raises _Died."""
        try:
            return receive(self._connection)
        except (Disconnected, OSError, ValueError) as error:
            raise self._death(error) from error

    def _death(self, error: Exception) -> "_Died":
        if isinstance(error, TimeoutError):
            self.kill()
            return _Died(f"it said nothing for {self._connection.gettimeout():g} s", crashed=False)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_S)
        code = self._process.returncode
        self.end()
        if code is None or code >= 0:
            return _Died(f"exit status {code}" if code is not None else "it hung up", crashed=True)
        number = signal.Signals(-code)
        if number is signal.SIGXCPU:
            return _Died("it worked without end", crashed=True)
        return _Died(number.name, crashed=number not in _BY_OTHERS)

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._connection.close()


class _Died(Exception):
    """A process is gone. `crashed` if by what it did itself."""

    def __init__(self, how: str, *, crashed: bool) -> None:
        super().__init__(how)
        self.crashed = crashed


class PooledAudio:
    """A file that a process decodes. See `stages.separate.decoder.DecodedAudio`."""

    def __init__(self, pool: DecoderPool, source: BinaryIO, name: str) -> None:
        self.name = name
        self.truncated = False
        self.damages: list[Damage] = []
        self._pool = pool
        self._source = source
        self._child: _Child | None = None
        self._frames = 0
        self._deaths = 0
        self._crashed_at: list[int] = []
        try:
            opened = self._begun()
        except BaseException:
            self.close()
            raise
        self.format = opened.format
        self.codec = opened.codec
        self.source_rate_hz = opened.source_rate_hz
        self.sample_rate_hz = opened.sample_rate_hz
        self.channels = opened.channels
        self.duration_s = opened.duration_s

    def close(self) -> None:
        """End the process, unless it has finished the file."""
        self._source.close()
        child, self._child = self._child, None
        if child is not None:
            self._pool.drop(child)

    def __iter__(self) -> Iterator[bytes]:
        while self._child is not None:
            try:
                answer = self._child.receive()
            except _Died as death:
                self._go_on_after(death)
                continue
            if isinstance(answer, Block):
                if answer.first_frame != self._frames:
                    self._refuse(answer)
                self._frames += len(answer.pcm) // (2 * self.channels)
                yield answer.pcm
            elif isinstance(answer, Done):
                self.truncated, self.damages = answer.truncated, answer.damages
                self._release()
            else:
                self._refuse(answer)

    def _begun(self) -> Opened:
        """Give the file to a process. Raises AudioFileError if it is refused, or each process crashes while opening."""
        try:
            self._source.flush()
            descriptor = self._source.fileno()
        except OSError as error:  # a full disk: the last bytes of a spooled file are written here
            raise MachineFailure(f"{self.name}: the file cannot be read: {error.strerror}") from error
        while True:
            self._child = self._pool.take()
            try:
                self._child.begin(Job(self.name, self._frames, self._pool.decode), descriptor)
                answer = self._child.receive()
            except _Died as death:
                if self._is_at_fault(death):
                    raise AudioFileError(self.name, f"the decoder crashes on it ({death})") from death
                continue
            if isinstance(answer, Opened):
                return answer
            self._refuse(answer)

    def _go_on_after(self, death: _Died) -> None:
        """Have another process decode the rest, or end the audio here if the file is at fault."""
        reason = f"the decoder crashes on it ({death})"
        if not self._is_at_fault(death):
            try:
                self._begun()
                return
            except AudioFileError as error:
                reason = error.reason
        at_s = self._frames / self.sample_rate_hz
        end_s = min(self.duration_s or 0.0, self._pool.decode.audio_s)
        self.truncated = True
        self.damages.append(Damage(at_s, max(at_s, end_s), reason))
        self._child = None

    def _is_at_fault(self, death: _Died) -> bool:
        """Return True if the file has crashed enough processes at this place. Raises DecoderLost after other deaths.

        Before a process gets a file it has decoded a known one, so the machine can decode.
        """
        child, self._child = self._child, None
        if child is not None:
            self._pool.drop(child)
        if not death.crashed:
            self._deaths += 1
            if self._deaths >= _MAX_DEATHS:
                raise DecoderLost(f"{self.name}: the process that decodes it was lost {self._deaths} times ({death})")
            return False
        self._crashed_at.append(self._frames)
        here = self._crashed_at.count(self._frames)
        return here >= _MAX_CRASHES or len(self._crashed_at) >= _MAX_CRASHES_ANYWHERE

    def _refuse(self, answer: Answer) -> None:
        """Raise what the process says instead of audio."""
        self._release()
        if isinstance(answer, Refused):
            raise AudioFileError(self.name, answer.reason)
        if isinstance(answer, Unreadable):
            raise MachineFailure(f"{self.name}: {answer.reason}")
        raise DecoderLost(f"{self.name}: the process that decodes it answered with {type(answer).__name__}")

    def _release(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            self._pool.give(child)
