"""`callstream publish`: a recorded file as a producer."""

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli import options
from pipeline.cli.data_directory import call_ref, open_warehouse
from pipeline.cli.file_calls import check_audio, metadata_of, new_call_id, open_audio, refuse_finished
from pipeline.cli.roles import parse_roles
from pipeline.cli.target import bus_url, connect, load_settings
from pipeline.client.publish import publish_audio
from pipeline.errors import InstanceError, StoreFullError
from pipeline.settings import Settings
from schemas.calls import DEFAULT_TENANT, CallRef

RECONNECT_S = 600.0
"""How long a producer waits for a broker that is away, with its audio kept."""

RESTART_S = 60.0
"""How long it waits for an instance that answered before and is being restarted."""


def publish(
    file: Annotated[Path, typer.Argument(help="WAV, MP3, FLAC, Opus, M4A…", metavar="FILE")],
    call: Annotated[str | None, typer.Option("--call", help="Call id; else made from the file's name.")] = None,
    realtime: Annotated[
        bool, typer.Option("--realtime", help="At the speed of speech, on the live lane; else as fast as it goes.")
    ] = False,
    partials: Annotated[
        bool, typer.Option("--partials", help="Show text while it is being spoken; with --realtime.")
    ] = False,
    roles: options.Roles = None,
    language: options.Language = None,
    hotwords: options.Hotwords = None,
    tenant: options.Tenant = DEFAULT_TENANT,
    data: options.Data = None,
) -> None:
    """Send a recorded call to the running instance; exits 0 once the bus holds all of it.

    Sending again after an interruption continues the call; an id that is completed already is refused.
    """
    settings = load_settings(data, log_level="warning")
    check_audio(file)
    reference = call_ref(tenant, call or new_call_id(file))

    async def send() -> None:
        async with connect(bus_url(settings), settings, reconnect_s=RECONNECT_S) as bus:
            await _refuse_finished(settings, reference)
            audio = open_audio(file)
            try:
                published = await publish_audio(
                    bus,
                    audio,
                    call=reference,
                    roles=parse_roles(roles),
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
        note = " (the file breaks off there)" if audio.truncated else ""
        print(f"published {published.audio_s:.1f} s in {published.events} events{note}", file=sys.stderr)
        print(reference.call_id)

    asyncio.run(send())


async def _refuse_finished(settings: Settings, call: CallRef) -> None:
    """Ask whether the call is completed, again while the instance that would know starts anew."""
    deadline = asyncio.get_running_loop().time() + RESTART_S
    while True:
        try:
            return await asyncio.to_thread(lambda: refuse_finished(open_warehouse(settings), call))
        except InstanceError:
            if asyncio.get_running_loop().time() > deadline:
                raise
        await asyncio.sleep(0.5)
