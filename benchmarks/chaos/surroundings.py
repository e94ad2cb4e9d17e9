"""What a worker depends on, one of each for every worker, so that a fault hits it alone: link, clock, device."""

import shutil
import struct
import subprocess
from collections.abc import Iterable
from pathlib import Path

from benchmarks.chaos.links import HOST, Link
from benchmarks.harness.hash_transcriber import DEVICE_VARIABLE
from benchmarks.harness.workers import WorkerProcess

CLOCK_SOURCE = Path(__file__).parent / "stepped_clock.c"


class Surroundings:
    """Of one worker. The device fails while its file exists; the clock is off by the seconds in its file."""

    def __init__(self, link: Link, clock: Path, device: Path) -> None:
        self.link = link
        self._clock = clock
        self._device = device
        self.step_clock(0)

    def step_clock(self, offset_s: int) -> None:
        with self._clock.open("r+b" if self._clock.exists() else "wb") as file:
            file.write(struct.pack("=q", offset_s))

    def break_device(self) -> None:
        self._device.touch()

    def repair_device(self) -> None:
        self._device.unlink(missing_ok=True)


class World:
    """The surroundings of all workers. `environment_of` is called for each worker before it starts."""

    def __init__(self, folder: Path, broker_url: str) -> None:
        folder.mkdir()
        self._folder = folder
        self._scheme, self._broker_port = broker_url.partition("://")[0], int(broker_url.rpartition(":")[2])
        self._of: dict[str, Surroundings] = {}
        self._clock_library = folder / "stepped_clock.so"
        self.clocks_not_stepped = _compile(self._clock_library)

    def environment_of(self, name: str) -> dict[str, str]:
        clock, device = self._folder / f"{name}.clock", self._folder / f"{name}.device"
        link = Link(self._broker_port, kafka=self._scheme == "kafka")
        self._of[name] = Surroundings(link, clock, device)
        environment = {"CALLSTREAM_BUS": f"{self._scheme}://{HOST}:{link.port}", DEVICE_VARIABLE: str(device)}
        if not self.clocks_not_stepped:
            environment |= {"LD_PRELOAD": str(self._clock_library), "STEPPED_CLOCK": str(clock)}
        return environment

    def of(self, worker: WorkerProcess) -> Surroundings:
        return self._of[worker.name]

    def device_failures(self) -> int:
        """Return how often an engine was called while its device failed."""
        return sum(path.stat().st_size for path in self._folder.glob("*.device.hits"))

    async def close(self) -> None:
        for link in self._links():
            await link.close()

    def _links(self) -> Iterable[Link]:
        return [surroundings.link for surroundings in self._of.values()]


def _compile(library: Path) -> str:
    """Build the library that steps a process's clock. Returns why it cannot be; empty if it was."""
    compiler = shutil.which("cc")
    if compiler is None:
        return "there is no C compiler for the library that does it"
    command = [compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(CLOCK_SOURCE), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stderr.strip()[:200] if done.returncode else ""
