"""`callstream publish`: send a recorded file as a producer does."""

import asyncio
import contextlib
import sys
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli import options
from pipeline.cli.data_directory import DataDirectory, call_ref
from pipeline.cli.file_calls import (
    check_audio,
    damage_note,
    metadata_of,
    new_call_id,
    open_audio,
    refuse_finished,
    reported,
)
from pipeline.cli.roles import misfit, parse_roles
from pipeline.cli.target import connect, load_settings
from pipeline.client.publish import publish_audio
from pipeline.errors import InstanceError, StoreFullError
from pipeline.printable import one_line
from schemas.calls import DEFAULT_TENANT, CallRef
from stages.separate.decoder import Decoder
from stages.separate.decoding.pool import DecoderPool

RECONNECT_S = 600.0
"""How long a producer keeps its audio and waits for a broker that is away."""

RESTART_S = 60.0
"""How long it waits for an instance that is being restarted."""


def publish(
    file: Annotated[Path, typer.Argument(help="WAV, MP3, FLAC, Opus, M4A…", metavar="FILE")],
    call: Annotated[str | None, typer.Option("--call", help="Call id; by default made from the file's name.")] = None,
    realtime: Annotated[
        bool,
        typer.Option("--realtime", help="At the speed of speech, in the live lane; by default as fast as possible."),
    ] = False,
    partials: Annotated[
        bool, typer.Option("--partials", help="With --realtime: publish text that is still being spoken.")
    ] = False,
    roles: options.Roles = None,
    language: options.Language = None,
    hotwords: options.Hotwords = None,
    tenant: options.Tenant = DEFAULT_TENANT,
    data: options.Data = None,
) -> None:
    """Send a recorded call to the running instance; exits 0 once the bus holds all of it.

    After an interruption the same command continues the call. The id of a completed call is refused.
    """
    settings = load_settings(data, log_level="warning")
    named = parse_roles(roles)
    reference = call_ref(tenant, call or new_call_id(file))

    async def send(decoder: Decoder) -> None:
        directory = DataDirectory(settings)
        async with connect(directory, reconnect_s=RECONNECT_S) as bus:
            await _refuse_finished(directory, reference)
            audio = open_audio(file, decoder)
            if (unfit := misfit(named, audio.channels)) is not None:
                print(f"callstream: {one_line(f'{file.name}: {unfit}')}", file=sys.stderr)
            try:
                with reported():
                    published = await publish_audio(
                        bus,
                        audio,
                        call=reference,
                        roles=named,
                        language=language,
                        metadata=metadata_of(file, audio),
                        lane="live" if realtime else "batch",
                        realtime=realtime,
                        partials=partials,
                        hotwords=options.words(hotwords),
                    )
            except StoreFullError as error:
                how = f"start it again with more CALLSTREAM_STORE_GB, then continue with --call {reference.call_id}"
                raise StoreFullError(f"{error}; {how}") from error
            finally:
                audio.close()
        damage = damage_note(audio, published.audio_s)
        note = f" ({damage})" if damage else ""
        print(f"published {published.audio_s:.1f} s in {published.events} events{note}", file=sys.stderr)
        print(reference.call_id)

    with contextlib.closing(DecoderPool()) as decoder:
        check_audio(file, decoder)
        asyncio.run(send(decoder))


async def _refuse_finished(directory: DataDirectory, call: CallRef) -> None:
    """Raise InputError if the call is completed. An instance that restarts meanwhile is looked up again."""
    deadline = asyncio.get_running_loop().time() + RESTART_S
    while True:
        try:
            return await asyncio.to_thread(_refuse_finished_in, directory, call)
        except InstanceError:
            if asyncio.get_running_loop().time() > deadline:
                raise
        await asyncio.sleep(0.5)
        directory = DataDirectory(directory.settings)


def _refuse_finished_in(directory: DataDirectory, call: CallRef) -> None:
    refuse_finished(directory.open_warehouse(), call)
