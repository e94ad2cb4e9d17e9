"""The process that decodes files: one after the other, within limits of memory, CPU time and open files.

It opens no file by a name: it gets the descriptor of each. It ends with its parent.
"""

import contextlib
import gc
import io
import os
import resource
import signal
import socket
import struct
from pathlib import Path
from typing import Final

import msgspec

from stages.errors import MachineFailure
from stages.separate.decoder import AudioFileError
from stages.separate.decoding.messages import (
    Block,
    ChildLimits,
    Disconnected,
    Done,
    Job,
    Opened,
    Ready,
    Refused,
    Unreadable,
    receive_job,
    send,
)
from stages.separate.files import AudioFile, open_audio_stream

_PROBE_FRAMES: Final = 800
_THREAD_STACK_BYTES: Final = 8_400_000


def main(descriptor: int, limits_json: bytes) -> None:
    """Serve the parent at the other end of the socket until it is gone."""
    limits = msgspec.json.decode(limits_json, type=ChildLimits)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    connection = socket.socket(fileno=descriptor)
    _decode_probe()
    gc.freeze()  # what was loaded is not searched for garbage after each file
    _limit(limits)
    with contextlib.suppress(Disconnected, BrokenPipeError, ConnectionResetError):
        send(connection, Ready())
        while True:
            _renew_cpu(limits)
            job, file = receive_job(connection)
            _serve(connection, os.fdopen(file, "rb"), job, limits)
            gc.collect()


def _serve(connection: socket.socket, file: io.BufferedReader, job: Job, limits: ChildLimits) -> None:
    """Answer a job. The file is closed before the last answer."""
    try:
        with contextlib.closing(open_audio_stream(file, job.name, job.decode)) as audio:
            _send_audio(connection, audio, job.from_frame, limits)
            done = Done(audio.truncated, audio.damages)
    except AudioFileError as error:
        send(connection, Refused(error.reason))
    except MachineFailure as error:
        send(connection, Unreadable(str(error)))
    else:
        send(connection, done)


def _send_audio(connection: socket.socket, audio: AudioFile, from_frame: int, limits: ChildLimits) -> None:
    send(connection, _opened(audio))
    frame = 0
    for pcm in audio:
        if frame >= from_frame:
            send(connection, Block(frame, pcm))
        frame += len(pcm) // (2 * audio.channels)
        _renew_cpu(limits)


def _opened(audio: AudioFile) -> Opened:
    return Opened(
        audio.format, audio.codec, audio.source_rate_hz, audio.sample_rate_hz, audio.channels, audio.duration_s
    )


def _decode_probe() -> None:
    """Decode a known file: everything that decoding needs is loaded, and this process is proved to work."""
    samples = bytes(2 * _PROBE_FRAMES)
    layout = struct.pack("<IHHIIHH", 16, 1, 1, 32_000, 64_000, 2, 16)
    body = b"WAVEfmt " + layout + b"data" + struct.pack("<I", len(samples)) + samples
    wav = b"RIFF" + struct.pack("<I", len(body)) + body
    decoded = b"".join(open_audio_stream(io.BytesIO(wav), "probe"))
    assert len(decoded) == _PROBE_FRAMES, "a known file is decoded wrongly"


def _limit(limits: ChildLimits) -> None:
    _set(resource.RLIMIT_CORE, 0)
    _set(resource.RLIMIT_FSIZE, 0)
    _set(resource.RLIMIT_NOFILE, limits.open_files)
    statm = Path("/proc/self/statm")
    if statm.exists():  # elsewhere the limit of address space has no effect
        used = int(statm.read_text().split()[0]) * resource.getpagesize()
        # FFmpeg's resampler starts a thread for each CPU, which does nothing.
        stacks = 2 * (os.cpu_count() or 1) * _THREAD_STACK_BYTES
        _set(resource.RLIMIT_AS, used + limits.memory_bytes + stacks)


def _renew_cpu(limits: ChildLimits) -> None:
    """Allow `stall_cpu_s` more of CPU time."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _set(resource.RLIMIT_CPU, int(usage.ru_utime + usage.ru_stime) + 1 + limits.stall_cpu_s)


def _set(which: int, soft: int) -> None:
    """Set the soft limit. The kernel lets nobody but the administrator raise a hard one again."""
    _, hard = resource.getrlimit(which)
    resource.setrlimit(which, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))
