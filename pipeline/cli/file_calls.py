"""Send a recorded file through the pipeline and show its progress."""

import asyncio
import contextlib
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from pipeline.bus.protocol import Feed
from pipeline.cli.display import Display
from pipeline.cli.roles import misfit
from pipeline.cli.target import Target
from pipeline.client.call_progress import FOLLOWED, CallWatch
from pipeline.client.publish import publish_audio
from pipeline.client.warehouse import Reader
from pipeline.errors import CallstreamError, InputError
from schemas.calls import CallRef
from schemas.topics import Lane
from stages.errors import MachineFailure
from stages.separate.decoder import AudioFileError, DecodedAudio, Decoder
from stages.separate.files import open_audio_file

_POLL_S = 0.2
_ASK_WAREHOUSE_S = 3.0


class FileCall(msgspec.Struct, frozen=True, kw_only=True):
    """A file and the call that it becomes."""

    path: Path
    call: CallRef
    roles: list[str]
    language: str | None
    hotwords: list[str] = []


class CallFailed(CallstreamError):
    """The pipeline accepted the call and could not complete it."""


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """Raise InputError for what a file is at fault for, and CallFailed where this machine is."""
    try:
        yield
    except AudioFileError as error:
        raise InputError(str(error)) from error
    except MachineFailure as error:
        raise CallFailed(str(error)) from error


def open_audio(path: Path, decoder: Decoder) -> DecodedAudio:
    """Open the file. Raises InputError with its name and the reason, and CallFailed."""
    with reported():
        return open_audio_file(path, decoder)


def check_audio(path: Path, decoder: Decoder) -> None:
    """Raise InputError if the file cannot be opened or no sample of it can be decoded, and CallFailed."""
    with contextlib.closing(open_audio(path, decoder)) as audio, reported():
        if next(iter(audio), None) is None:
            why = f" ({audio.damages[0].reason})" if audio.damages else ""
            raise InputError(f"{audio.name}: the file holds no audio{why}")
    decoder.prepare()  # the file will be opened again


def damage_note(audio: DecodedAudio, decoded_s: float) -> str | None:
    """Return what is missing of a file that was decoded as far as it could be; None if nothing is."""
    if not audio.truncated:
        return None
    if not audio.damages or audio.damages[0].start_s >= decoded_s:
        return f"the file breaks off after {decoded_s:.1f} s"
    further = f", and at {len(audio.damages) - 1} places more" if len(audio.damages) > 1 else ""
    return f"{audio.damages[0]}{further}"


def new_call_id(path: Path) -> str:
    """Return a call id made of the file's name and a random part, so that a file can be sent again."""
    stem = re.sub(r"[^A-Za-z0-9_.-]+", "-", path.stem)[:64] or "call"
    return f"{stem}-{secrets.token_hex(4)}"


def refuse_finished(reader: Reader, call: CallRef) -> None:
    """Raise InputError if the call has ended and takes no more audio. Closes the reader."""
    with contextlib.closing(reader):
        ended_as = reader.ended_as(call)
    if ended_as is not None:
        raise InputError(f"call {call.call_id!r} is {ended_as} already: publish under another id")


def metadata_of(path: Path, audio: DecodedAudio) -> dict[str, Any]:
    return {"filename": path.name, "container": audio.format, "codec": audio.codec}


async def run_file(target: Target, job: FileCall, display: Display, decoder: Decoder, *, lane: Lane) -> CallWatch:
    """Send the file and wait until the warehouse holds its transcript and summary. Raises CallFailed."""
    watch = CallWatch()
    audio = await asyncio.to_thread(open_audio, job.path, decoder)
    sent_s = 0.0
    if (unfit := misfit(job.roles, audio.channels)) is not None:
        display.note(f"{job.path.name}: {unfit}")

    def note_sent(seconds: float) -> None:
        nonlocal sent_s
        sent_s = seconds

    feed = await target.bus.follow(FOLLOWED, key=job.call.key)
    following = asyncio.create_task(_follow(feed, watch))
    sending = asyncio.create_task(
        publish_audio(
            target.bus,
            audio,
            call=job.call,
            roles=job.roles,
            language=job.language,
            hotwords=job.hotwords,
            metadata=metadata_of(job.path, audio),
            lane=lane,
            on_progress=note_sent,
        )
    )
    loop = asyncio.get_running_loop()
    asked_at = loop.time()
    try:
        while not watch.stored:
            await asyncio.sleep(_POLL_S)
            if sending.done():
                with reported():
                    sending.result()
            if watch.failure is not None:
                raise CallFailed(f"{job.path.name}: {watch.failure}")
            phase = "" if target.own is None or target.own.worker.ready.is_set() else "loading the model"
            display.update(watch, published_s=sent_s, phase=phase)
            if loop.time() - asked_at > _ASK_WAREHOUSE_S:
                asked_at = loop.time()
                if await asyncio.to_thread(_is_stored, target, job.call):
                    break
        display.update(watch, published_s=sent_s)
        if (note := damage_note(audio, sent_s)) is not None:
            display.note(f"{job.path.name}: {note}; that much was transcribed")
    finally:
        sending.cancel()
        await feed.close()
        following.cancel()
        await asyncio.gather(sending, following, return_exceptions=True)
        audio.close()
    return watch


def _is_stored(target: Target, call: CallRef) -> bool:
    with contextlib.closing(target.open_warehouse()) as reader:
        return reader.is_complete(call)


async def _follow(feed: Feed, watch: CallWatch) -> None:
    async for record in feed:
        watch.apply(record)
