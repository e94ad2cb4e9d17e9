"""A deployment for tests: a data directory, `callstream up` as a process that can be killed, and commands.

Everything goes through the installed command, as an operator would do it; nothing of the product is imported.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

from tests.support.processes.ended import has_ended

COMMAND = str(Path(sys.executable).parent / "callstream")
SAMPLE = Path(__file__).parents[2] / "calls" / "sample" / "sample.wav"
SHOWN_EVERY_S = 15.0
"""So often a call that is waited for is asked for with the command, whatever the instance says or nobody does."""
SAMPLE_ROLES = "left=agent,right=customer"


class Deployment:
    """One data directory. `kill` and `terminate` end the whole `up`; `start` starts it on the same directory again."""

    def __init__(self, data: Path, *, command: str = COMMAND, **settings: str) -> None:
        self.data = data
        self.command = command
        self.environment = {
            **{name: text for name, text in os.environ.items() if not name.startswith("CALLSTREAM_")},
            "CALLSTREAM_DATA": str(data),
            "CALLSTREAM_LOG_FORMAT": "json",
            "CALLSTREAM_OLLAMA_URL": "http://127.0.0.1:9",
            **{f"CALLSTREAM_{name.upper()}": text for name, text in settings.items()},
        }
        self.starts = 0
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Deployment":
        return self

    def __exit__(self, *_error: object) -> None:
        if self._process is not None:
            self.terminate()

    # -- the instance ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start `up` and return at once."""
        assert self._process is None
        self.data.mkdir(parents=True, exist_ok=True)
        self.starts += 1
        with open(self.log_path(self.starts), "wb") as log:
            self._process = subprocess.Popen([self.command, "up"], env=self.environment, stdout=log, stderr=log)

    def wait_ready(self, timeout_s: float = 240.0) -> None:
        self.run("status", "--wait", "--timeout", str(timeout_s), timeout_s=timeout_s + 20)

    def kill(self) -> None:
        """kill -9 of the process; its nats-server goes with it."""
        process, self._process = self._process, None
        assert process is not None
        servers = psutil.Process(process.pid).children()
        process.send_signal(signal.SIGKILL)
        process.wait()
        psutil.wait_procs(servers, timeout=10)

    def terminate(self, timeout_s: float = 60.0) -> int:
        process, self._process = self._process, None
        assert process is not None
        process.terminate()
        return process.wait(timeout_s)

    def kill_broker(self) -> None:
        """kill -9 of the nats-server alone. Waits for one that is being restarted."""
        deadline = time.monotonic() + 30
        while not (servers := [child for child in psutil.Process(self.pid).children() if "nats" in child.name()]):
            assert time.monotonic() < deadline, "nats-server is not restarted"
            time.sleep(0.05)
        [server] = servers
        server.kill()
        psutil.wait_procs([server], timeout=10)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def log_path(self, start: int) -> Path:
        return self.data / f"up-{start}.log"

    def log_lines(self, start: int) -> list[dict[str, Any]]:
        """Return the JSON lines that the given start of `up` logged."""
        lines = self.log_path(start).read_text(errors="replace").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def stages_hit(self) -> Counter[str]:
        """Return how often each stage found unacknowledged input after a restart of `up`."""
        found: Counter[str] = Counter()
        for start in range(2, self.starts + 1):
            first: dict[str, int] = {}
            for line in self.log_lines(start):
                if line.get("event") == "stage reads":
                    first.setdefault(line["group"], line["waiting"])
            hit = {group.removesuffix("-batch") for group, waiting in first.items() if waiting}
            found.update(hit)
        return found

    def status(self) -> dict[str, Any]:
        """Return what `callstream status --json` prints. The instance must run."""
        found: dict[str, Any] = json.loads(self.run("status", "--json").stdout)
        return found

    @property
    def login(self) -> dict[str, Any]:
        """Options of `nats.connect` for the owner of the data directory."""
        status = self.status()
        return {"servers": status["nats_url"], "nkeys_seed": status["owner_credentials"]}

    # -- commands ----------------------------------------------------------------------------------------------------

    def run(
        self, *arguments: str, timeout_s: float = 120.0, check: bool = True, **settings: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command, with `settings` besides those of the deployment."""
        done = subprocess.run(
            [self.command, *arguments],
            env=self.environment | {f"CALLSTREAM_{name.upper()}": text for name, text in settings.items()},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"callstream {' '.join(arguments)} exited {done.returncode}:\n{done.stderr}")
        return done

    def publish(self, path: Path, call: str, *more: str) -> "subprocess.Popen[bytes]":
        """Start a producer as a separate process, which outlives the instance."""
        return subprocess.Popen(
            [self.command, "publish", str(path), "--call", call, *more],
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def watch(self, call: str) -> "subprocess.Popen[str]":
        """Start `callstream watch` as a separate process."""
        return subprocess.Popen(
            [self.command, "watch", call],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def show(self, call: str, *, tenant: str = "default") -> dict[str, Any] | None:
        """Return the call's document; None while the call is unknown or nothing answers."""
        done = self.run("show", call, "--tenant", tenant, "--json", check=False)
        return json.loads(done.stdout) if done.returncode == 0 else None

    def wait_completed(
        self, call: str, timeout_s: float = 180.0, *, revision: int = 1, tenant: str = "default"
    ) -> dict[str, Any]:
        """Wait until the call is completed, in this revision or a later one, and summarized. Returns its document."""
        asked_at = time.monotonic()
        deadline = asked_at + timeout_s
        document = None
        while time.monotonic() < deadline:
            if not has_ended(self.data, call, tenant, revision) and time.monotonic() < asked_at + SHOWN_EVERY_S:
                time.sleep(0.1)
                continue
            asked_at = time.monotonic()
            document = self.show(call, tenant=tenant)
            ended = document is not None and document["status"] == "completed" and document["revision"] >= revision
            if document is not None and ended and document["summary"] and document["summary"]["kind"] == "final":
                return document
        raise AssertionError(f"{call} is not completed after {timeout_s} s: {document and document['status']}")


def said(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a document's turns without ids that depend on the call: these must be equal after any kill."""
    names = ("speaker", "channel", "start_s", "end_s", "text", "words")
    return [{name: turn[name] for name in names} for turn in document["turns"]]
