"""The directories of readers: how many there are at a time, and the copy that several of them read."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from threading import Barrier

import pytest

from pipeline.client.reader_folders import FOLDER, ReadersBusy, provide_copy, reader_folder, sweep

HOLDS = """
import sys, time
from pathlib import Path
from pipeline.client.reader_folders import provide_copy, reader_folder
with reader_folder(Path(sys.argv[1]), readers=1, until_s=time.monotonic()) as folder:
    provide_copy(folder, "copy", time.monotonic(), lambda copy: copy.write_text("old"))
    print("holds", flush=True)
    time.sleep(60)
"""


class Source:
    """What is copied, with the number of times."""

    def __init__(self, text: str = "calls", takes_s: float = 0.0) -> None:
        self.text = text
        self.takes_s = takes_s
        self.taken = 0

    def take(self, copy: Path) -> None:
        self.taken += 1
        copy.write_text(self.text)
        copy.with_name("copy.wal").write_text("log")
        time.sleep(self.takes_s)


def own(data: Path, readers: int = 4, patience_s: float = 0.0) -> "contextlib.AbstractContextManager[Path]":
    return reader_folder(data, readers=readers, until_s=time.monotonic() + patience_s)


@contextlib.contextmanager
def killed(data: Path) -> Iterator[None]:
    """Another process that holds a directory with a copy, and is killed at the end of the context."""
    with subprocess.Popen([sys.executable, "-c", HOLDS, str(data)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"holds\n"
        yield
        process.kill()


def test_there_are_at_most_so_many_at_a_time(tmp_path: Path) -> None:
    with contextlib.ExitStack() as held:
        folders = {held.enter_context(own(tmp_path, 2)) for _ in range(2)}
        assert len(folders) == 2
        with pytest.raises(ReadersBusy), own(tmp_path, 2, patience_s=0.1):
            pass
        with own(tmp_path, 3):
            pass
    with own(tmp_path, 1):
        pass
    assert os.listdir(tmp_path / FOLDER) == []


def test_one_that_waits_goes_on_when_another_ends(tmp_path: Path) -> None:
    def hold() -> float:
        with own(tmp_path, 1, patience_s=30.0):
            time.sleep(0.1)
            return time.monotonic()

    with ThreadPoolExecutor(3) as threads:
        ends = sorted(one.result() for one in [threads.submit(hold) for _ in range(3)])
    assert all(later - earlier >= 0.1 for earlier, later in pairwise(ends))


def test_other_processes_count_until_they_are_killed(tmp_path: Path) -> None:
    with killed(tmp_path), pytest.raises(ReadersBusy), own(tmp_path, 1):
        pass
    with own(tmp_path, 1):
        pass


def test_a_copy_serves_those_that_were_asked_before_it_was_begun(tmp_path: Path) -> None:
    before = Source("one call")
    asked_s = time.monotonic()
    with own(tmp_path) as first, own(tmp_path) as second:
        assert provide_copy(first, "copy", asked_s, before.take).read_text() == "one call"
        assert provide_copy(second, "copy", asked_s, before.take).read_text() == "one call"
        assert (second / "copy.wal").read_text() == "log"
        assert before.taken == 1
        after = Source("two calls")
        with own(tmp_path) as third:
            assert provide_copy(third, "copy", time.monotonic(), after.take).read_text() == "two calls"
        with own(tmp_path) as fourth:
            assert provide_copy(fourth, "copy", asked_s, after.take).read_text() == "two calls"
        assert after.taken == 1
        assert (first / "copy").read_text() == "one call"
    assert os.listdir(tmp_path / FOLDER) == []


def test_readers_that_begin_together_take_two_copies_at_most(tmp_path: Path) -> None:
    source = Source(takes_s=0.05)
    together = Barrier(6)

    def read() -> str:
        with own(tmp_path, 6, patience_s=10.0) as folder:
            together.wait()
            return provide_copy(folder, "copy", time.monotonic(), source.take).read_text()

    with ThreadPoolExecutor(6) as threads:
        assert [one.result() for one in [threads.submit(read) for _ in range(6)]] == ["calls"] * 6
    assert source.taken <= 2
    assert os.listdir(tmp_path / FOLDER) == []


def test_a_copy_that_could_not_be_made_serves_nobody(tmp_path: Path) -> None:
    def fail(copy: Path) -> None:
        copy.write_text("a part")
        raise OSError("no room")

    asked_s = time.monotonic()
    with own(tmp_path) as first, own(tmp_path) as second:
        with pytest.raises(OSError, match="no room"):
            provide_copy(first, "copy", asked_s, fail)
        assert provide_copy(second, "copy", asked_s, Source().take).read_text() == "calls"


def test_the_copy_of_a_killed_process_is_removed_and_not_read(tmp_path: Path) -> None:
    with killed(tmp_path):
        assert (tmp_path / FOLDER / "shared").exists()
    with own(tmp_path) as folder:
        assert provide_copy(folder, "copy", 0.0, Source("new").take).read_text() == "new"
    with killed(tmp_path):
        sweep(tmp_path)
        assert (tmp_path / FOLDER / "shared").exists()
    sweep(tmp_path)
    assert not (tmp_path / FOLDER / "shared").exists()
