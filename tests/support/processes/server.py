"""Servers as child processes of a test that can be killed, paused and restarted."""

import os
import signal
import subprocess

STOP_WITHIN_S = 30.0


class ServerProcess:
    """The life cycle of `_process`, which the `start` of a subclass sets."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def __exit__(self, *_error: object) -> None:
        if self._process is not None:
            self.kill()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """Send SIGTERM; after 30 s SIGKILL."""
        process = self._taken()
        process.terminate()
        try:
            process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def kill(self) -> None:
        """kill -9."""
        process = self._taken()
        process.kill()
        process.wait()

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers, as in a long pause of the machine."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def _taken(self) -> "subprocess.Popen[bytes]":
        process, self._process = self._process, None
        assert process is not None
        return process
