"""Files decoded in real processes that are killed, stopped, or crash."""

import contextlib
import io
import os
import random
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

import pytest

from stages.errors import DecoderLost, MachineFailure
from stages.separate.decoder import AudioFileError, Damage
from stages.separate.decoding import pool as pool_module
from stages.separate.decoding.messages import ChildLimits
from stages.separate.decoding.pool import DecoderPool, PooledAudio
from stages.separate.files import open_audio_stream
from tests.calls import media

FUZZED: Final = 300

needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")


@pytest.fixture
def pool() -> Iterator[DecoderPool]:
    made = DecoderPool()
    yield made
    made.close()


@pytest.fixture(scope="module")
def minutes() -> bytes:
    """Audio of more bytes than a socket holds."""
    return media.recording("flac", seconds=180.0)


def stored(data: bytes) -> BinaryIO:
    file = tempfile.TemporaryFile()  # noqa: SIM115 (the decoder owns it)
    file.write(data)
    return file


def locally(data: bytes) -> bytes:
    return b"".join(open_audio_stream(io.BytesIO(data), "call"))


def decoded(pool: DecoderPool, data: bytes) -> tuple[PooledAudio, bytes]:
    with contextlib.closing(pool.open(stored(data), "call")) as audio:
        return audio, b"".join(audio)


def pids(pool: DecoderPool) -> list[int]:
    return [child.pid for child in [*pool._busy, *pool._idle]]


def misbehaving(monkeypatch: pytest.MonkeyPatch, at_frame: int, what: str) -> None:
    """Let every decoding process do `what` instead of sending the block at `at_frame`."""
    patch = (
        "import os, signal, time; from stages.separate.decoding import child; send = child.send\n"
        "def sending(connection, message):\n"
        f"    if isinstance(message, child.Block) and message.first_frame == {at_frame}:\n"
        f"        {what}\n"
        "    send(connection, message)\n"
        "child.send = sending\n"
    )
    code = "import sys; sys.path[:] = {path!r}\n" + patch + "child.main({descriptor}, {limits!r})"
    monkeypatch.setattr(pool_module, "_STARTING", code)


# -- the same audio --------------------------------------------------------------------------------------------------


def test_the_audio_is_that_of_decoding_in_this_process(pool: DecoderPool) -> None:
    for kind in media.CONTAINERS:
        data = media.recording(kind)
        audio, pcm = decoded(pool, data)
        plain = open_audio_stream(io.BytesIO(data), "call")
        assert pcm == b"".join(plain), kind
        described = ("format", "codec", "source_rate_hz", "sample_rate_hz", "channels", "duration_s", "truncated")
        assert [getattr(audio, name) for name in described] == [getattr(plain, name) for name in described]
    assert len(pids(pool)) == 1, "one process decoded all of them"


def test_a_file_that_cannot_be_used_is_refused_and_the_process_goes_on(pool: DecoderPool) -> None:
    with pytest.raises(AudioFileError, match="call: not a readable audio file"):
        pool.open(stored(b"Call recording failed: license expired."), "call")
    with pytest.raises(AudioFileError, match="call: the file is empty"):
        pool.open(stored(b""), "call")
    [first] = pids(pool)
    decoded(pool, media.recording("wav"))
    assert pids(pool) == [first]


def test_what_is_damaged_is_said(pool: DecoderPool) -> None:
    data = media.recording("wav")
    audio, pcm = decoded(pool, data[: len(data) // 2])
    assert audio.truncated
    assert audio.damages == [Damage(len(pcm) / 4 / 8_000, len(pcm) / 4 / 8_000, "the file breaks off")]


def test_a_spooled_file_is_read_whether_it_is_in_memory_or_not(pool: DecoderPool) -> None:
    data = media.recording("wav")
    with tempfile.SpooledTemporaryFile(max_size=10**9) as spool:
        spool.write(data)
        assert b"".join(pool.open(spool, "call")) == locally(data)  # type: ignore[arg-type]


# -- processes that die ----------------------------------------------------------------------------------------------


def test_after_a_kill_another_process_goes_on_at_the_same_sample(pool: DecoderPool, minutes: bytes) -> None:
    blocks = []
    with contextlib.closing(pool.open(stored(minutes), "call")) as audio:
        for number, block in enumerate(audio):
            blocks.append(block)
            if number in (3, 30):
                os.kill(pids(pool)[0], signal.SIGKILL)
    assert b"".join(blocks) == locally(minutes)
    assert (audio.truncated, audio.damages) == (False, [])


def test_a_process_killed_while_it_is_idle_is_replaced(pool: DecoderPool) -> None:
    data = media.recording("wav")
    decoded(pool, data)
    os.kill(pids(pool)[0], signal.SIGKILL)
    assert decoded(pool, data)[1] == locally(data)


def test_processes_killed_again_and_again_are_the_machines_failure(pool: DecoderPool, minutes: bytes) -> None:
    def take_all() -> None:
        with contextlib.closing(pool.open(stored(minutes), "call")) as audio:
            for _ in audio:
                os.kill(pids(pool)[0], signal.SIGKILL)

    with pytest.raises(DecoderLost, match=r"call: the process that decodes it was lost 3 times \(SIGKILL\)") as lost:
        take_all()
    assert isinstance(lost.value, MachineFailure)


def test_a_crash_at_the_same_place_each_time_is_the_files_fault(
    pool: DecoderPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    misbehaving(monkeypatch, at_frame=8_000, what="os.kill(os.getpid(), signal.SIGSEGV)")
    data = media.recording("wav")
    audio, pcm = decoded(pool, data)
    assert pcm == locally(data)[: 8_000 * 4]
    assert audio.truncated
    assert audio.damages == [Damage(1.0, 2.0, "the decoder crashes on it (SIGSEGV)")]


def test_a_file_that_no_process_survives_opening_is_refused(pool: DecoderPool, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import sys, os; sys.path[:] = {path!r}; from stages.separate.decoding import child\n"
        "child._serve = lambda *_: os.abort()\n"
        "child.main({descriptor}, {limits!r})"
    )
    monkeypatch.setattr(pool_module, "_STARTING", code)
    with pytest.raises(AudioFileError, match=r"call: the decoder crashes on it \(SIGABRT\)"):
        decoded(pool, media.recording("wav"))


def test_a_file_on_which_the_decoder_works_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = DecoderPool(limits=ChildLimits(stall_cpu_s=0))
    misbehaving(monkeypatch, at_frame=8_000, what="exec('while True: pass')")
    audio, pcm = decoded(pool, media.recording("wav"))
    pool.close()
    assert len(pcm) == 8_000 * 4
    assert audio.damages[0].reason == "the decoder crashes on it (it worked without end)"


def test_a_process_that_stands_still_is_the_machines_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = DecoderPool(limits=ChildLimits(silence_s=0.5))
    misbehaving(monkeypatch, at_frame=8_000, what="time.sleep(100)")
    with pytest.raises(DecoderLost, match=r"it said nothing for 0.5 s"):
        decoded(pool, media.recording("wav"))
    assert pids(pool) == []
    pool.close()


def test_a_process_that_does_not_start_is_the_machines_failure(
    pool: DecoderPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "_STARTING", "raise SystemExit(3)")
    with pytest.raises(DecoderLost, match="the process that decodes files does not start: exit status 3"):
        pool.open(stored(media.recording("wav")), "call")


# -- limits ----------------------------------------------------------------------------------------------------------


@needs_proc
def test_a_process_has_limits_and_keeps_no_file_open(pool: DecoderPool) -> None:
    decoded(pool, media.recording("wav"))
    [pid] = pids(pool)
    limits = Path(f"/proc/{pid}/limits").read_text()
    soft = {line[:26].strip(): line[26:].split()[0] for line in limits.splitlines()[1:]}
    assert int(soft["Max open files"]) == 16
    assert int(soft["Max file size"]) == int(soft["Max core file size"]) == 0
    assert int(soft["Max cpu time"]) < 20
    assert 500_000_000 < int(soft["Max address space"]) < 2_000_000_000
    assert all(os.readlink(entry) == "/dev/null" or "socket" in os.readlink(entry) for entry in _open_files(pid))


def _open_files(pid: int) -> list[Path]:
    return list(Path(f"/proc/{pid}/fd").iterdir())


@needs_proc
def test_a_decoder_that_wants_too_much_memory_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = DecoderPool(limits=ChildLimits(memory_bytes=50_000_000))
    misbehaving(monkeypatch, at_frame=8_000, what="bytearray(10**9)")
    audio, pcm = decoded(pool, media.recording("wav"))
    pool.close()
    assert len(pcm) == 8_000 * 4
    assert audio.damages[0].reason == "the decoder crashes on it (exit status 1)"


def test_closing_the_pool_ends_its_processes_and_files_in_work(minutes: bytes) -> None:
    pool = DecoderPool()
    pool.prepare()
    started = pids(pool)
    audio = pool.open(stored(minutes), "call")
    next(iter(audio))
    assert pids(pool) == started, "it was prepared"
    pool.close()
    with pytest.raises(DecoderLost, match="are ended"), contextlib.closing(audio):
        list(audio)
    with pytest.raises(ProcessLookupError):
        os.kill(started[0], 0)


def test_closing_an_audio_frees_its_process(pool: DecoderPool, minutes: bytes) -> None:
    audio = pool.open(stored(minutes), "call")
    next(iter(audio))
    audio.close()
    assert pids(pool) == []
    assert decoded(pool, minutes)[1] == locally(minutes)


def test_several_files_at_a_time_are_decoded_apart(pool: DecoderPool) -> None:
    files = {kind: media.recording(kind, seconds=5.0) for kind in ("wav", "mp3", "flac", "amr")}
    results: dict[str, bytes] = {}
    threads = [
        threading.Thread(target=lambda kind=kind: results.update({kind: decoded(pool, files[kind])[1]}))
        for kind in files
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {kind: locally(data) for kind, data in files.items()}
    assert len(pids(pool)) <= pool.at_once


# -- mutants ---------------------------------------------------------------------------------------------------------


@needs_proc
def test_damaged_files_give_audio_or_a_reason_and_leave_the_process_whole(pool: DecoderPool) -> None:
    seed = 20
    chance = random.Random(seed)
    whole = {kind: media.recording(kind, seconds=0.5) for kind in media.CONTAINERS}
    expected = {kind: locally(data) for kind, data in whole.items()}
    parsed = 0
    began = time.monotonic()
    for number in range(FUZZED):
        kind = chance.choice(list(whole))
        said: list[str] = []
        try:
            audio, _ = decoded(pool, media.mutated(whole[kind], chance))
            said += [damage.reason for damage in audio.damages]
            parsed += 1
        except AudioFileError as error:
            said.append(error.reason)
        assert not [reason for reason in said if "crash" in reason], (seed, number, kind)
        if number % 50 == 0:
            assert decoded(pool, whole[kind])[1] == expected[kind], (seed, number, kind)
    assert parsed > 0.3 * FUZZED
    assert time.monotonic() - began < 60
    for pid in pids(pool):
        [peak] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
        assert int(peak.split()[1]) < 150_000, f"{peak} after {number + 1} files, seed {seed}"
