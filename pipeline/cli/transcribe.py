"""`callstream transcribe` and `callstream demo`."""

import asyncio
import contextlib
import sys
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli import options
from pipeline.cli.data_directory import call_ref
from pipeline.cli.display import Display
from pipeline.cli.file_calls import FileCall, check_audio, new_call_id, refuse_finished, run_file
from pipeline.cli.retranscribe import transcribe_again
from pipeline.cli.roles import parse_roles
from pipeline.cli.target import Target, load_settings, open_target
from pipeline.client.exports import FORMATS, write_export
from pipeline.errors import CallstreamError, InputError
from pipeline.printable import one_line
from schemas.calls import DEFAULT_TENANT, CallRef
from stages.separate.decoder import Decoder
from stages.separate.decoding.pool import DecoderPool

SAMPLE = Path("tests/calls/sample/sample.wav")
SAMPLE_ROLES = "left=agent,right=customer"


def transcribe(
    files: Annotated[
        list[Path] | None, typer.Argument(help="WAV, MP3, FLAC, Opus, M4A…; mono, or one speaker per channel.")
    ] = None,
    roles: options.Roles = None,
    language: options.Language = None,
    hotwords: options.Hotwords = None,
    out: Annotated[
        list[Path] | None,
        typer.Option(
            "--out",
            help="Write the transcript: .json, .vtt, .srt or .txt by its suffix; repeatable. "
            "With several FILEs put {stem} into the name.",
            metavar="F",
        ),
    ] = None,
    call: Annotated[
        str | None, typer.Option("--call", help="Call id (one FILE only); by default made from its name.", metavar="ID")
    ] = None,
    tenant: options.Tenant = DEFAULT_TENANT,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print no turns.")] = False,
    again: Annotated[
        str | None,
        typer.Option(
            "--again",
            help="Instead of FILEs: re-transcribe a finished call from the bus's audio. Stored results stay unchanged.",
            metavar="ID",
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="With --again: Whisper weights (CALLSTREAM_MODEL).", metavar="NAME")
    ] = None,
    beam_size: Annotated[
        int | None, typer.Option("--beam-size", help="With --again: Whisper's beam size (CALLSTREAM_BEAM_SIZE).")
    ] = None,
    diff: Annotated[
        bool, typer.Option("--diff", help="With --again: show the differences from the stored transcript.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --again: as JSON.")] = False,
    data: options.Data = None,
) -> None:
    """Transcribe recorded calls; exits 0 once DuckDB holds them.

    Uses the instance that runs on the data directory, or runs the pipeline until the calls are done.
    """
    outs = out or []
    if again is not None:
        if files or call is not None or roles is not None or hotwords is not None:
            raise InputError("--again cannot be combined with FILE, --call, --roles or --hotwords")
        _check_outs(outs, [])
        settings = load_settings(data, log_level="warning", model=model, beam_size=beam_size)
        work = transcribe_again(
            settings, call_ref(tenant, again), language, outs, diff=diff, as_json=as_json, quiet=quiet
        )
        asyncio.run(work)
        return
    if model is not None or beam_size is not None or diff or as_json:
        raise InputError("--model, --beam-size, --diff and --json go with --again; for new calls set CALLSTREAM_MODEL")
    if not files:
        raise InputError("give one or more FILEs, or a finished call with --again")
    _check_outs(outs, files)
    if call is not None and len(files) > 1:
        raise InputError("--call goes with one file, not with several")
    jobs = [
        FileCall(
            path=path,
            call=call_ref(tenant, call or new_call_id(path)),
            roles=parse_roles(roles),
            language=language,
            hotwords=options.words(hotwords),
        )
        for path in files
    ]
    with contextlib.closing(DecoderPool()) as decoder:
        usable = _usable(jobs, decoder)
        finished = asyncio.run(_transcribe(usable, outs, decoder, several=len(jobs) > 1, quiet=quiet, data=data))
    if finished < len(jobs):
        raise CallstreamError(f"{len(jobs) - finished} of {len(jobs)} files failed")


def demo(data: options.Data = None) -> None:
    """Run the sample call through the whole pipeline and show the results."""
    sample = next(
        (root / SAMPLE for root in (Path.cwd(), Path(__file__).parents[2]) if (root / SAMPLE).is_file()), None
    )
    if sample is None:
        raise InputError(f"{SAMPLE} is missing: run the demo from a checkout")
    with contextlib.closing(DecoderPool()) as decoder:
        asyncio.run(_demo(sample, data, decoder))


def _usable(jobs: list[FileCall], decoder: Decoder) -> list[FileCall]:
    """Return the jobs with readable files and report the others. Raises InputError if the only file is unreadable."""
    usable = []
    for job in jobs:
        try:
            check_audio(job.path, decoder)
        except InputError as error:
            if len(jobs) == 1:
                raise
            print(f"callstream: {one_line(str(error))}", file=sys.stderr)
        else:
            usable.append(job)
    return usable


async def _transcribe(
    jobs: list[FileCall], outs: list[Path], decoder: Decoder, *, several: bool, quiet: bool, data: Path | None
) -> int:
    """Return the number of transcribed files. Of several files failures are reported, of a single one raised."""
    if not jobs:
        return 0
    settings = load_settings(data, log_level="warning")
    finished = 0
    async with open_target(settings) as target:
        for job in jobs:
            try:
                await _transcribe_one(target, job, outs, decoder, quiet=quiet)
                finished += 1
            except CallstreamError as error:
                if not several:
                    raise
                print(f"callstream: {one_line(f'{job.path}: {error}')}", file=sys.stderr)
    return finished


async def _transcribe_one(target: Target, job: FileCall, outs: list[Path], decoder: Decoder, *, quiet: bool) -> None:
    await asyncio.to_thread(lambda: refuse_finished(target.open_warehouse(), job.call))
    with Display(name=job.path.name, turns=not quiet) as display:
        watch = await target.guard(run_file(target, job, display, decoder, lane="batch"))
        display.final_figures(watch, published_s=watch.heard_s)
    document = await asyncio.to_thread(_show, target, job.call)
    for path in outs:
        out = Path(str(path).replace("{stem}", job.path.stem))
        write_export(document, out)
        print(f"wrote {out}", file=sys.stderr)
    print(f"call {job.call.call_id}: callstream show {job.call.call_id} --json", file=sys.stderr)


async def _demo(sample: Path, data: Path | None, decoder: Decoder) -> None:
    settings = load_settings(data, log_level="warning")
    job = FileCall(
        path=sample, call=CallRef(DEFAULT_TENANT, new_call_id(sample)), roles=parse_roles(SAMPLE_ROLES), language=None
    )
    with Display(name=sample.name) as display:
        display.note(f"{sample.name}: audio → bus → separate → transcribe → merge → summarize → DuckDB")
        display.note(f"data directory {settings.data}, Whisper model {settings.model}")
        async with open_target(settings) as target:
            watch = await target.guard(run_file(target, job, display, decoder, lane="batch"))
            display.final_figures(watch, published_s=watch.heard_s)
            if watch.metrics is not None:
                display.metrics(watch.metrics)
            if watch.summary is not None:
                display.summary(watch.summary)
            display.line()
            display.line("Look further:")
            display.line(f"  .venv/bin/callstream show {job.call.call_id}")
            display.line('  .venv/bin/callstream sql "SELECT speaker, start_time, text FROM transcript_segments"')
            display.line('  .venv/bin/callstream sql "SELECT * FROM calls"')


def _show(target: Target, call: CallRef) -> dict[str, object]:
    with contextlib.closing(target.open_warehouse()) as reader:
        return reader.show(call)


def _check_outs(outs: list[Path], files: list[Path]) -> None:
    for path in outs:
        if path.suffix.lower() not in FORMATS:
            raise InputError(f"--out {path}: the suffix must be one of {', '.join(FORMATS)}")
        if len(files) > 1 and "{stem}" not in path.name:
            raise InputError(f"--out {path}: with several files the name must contain {{stem}}")
        if len({file.stem for file in files}) < len(files):
            raise InputError(f"--out {path}: two of the files have the same name")
        if not path.parent.is_dir():
            raise InputError(f"--out {path}: the folder {path.parent} does not exist")
