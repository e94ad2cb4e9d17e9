"""`callstream transcribe --again`: transcribe a finished call again, and compare with the stored transcript."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
from rich.text import Text

from pipeline.bus.protocol import Bus
from pipeline.cli.consoles import stderr_console, stdout_console
from pipeline.cli.data_directory import DataDirectory
from pipeline.cli.display import clock_text, turn_line
from pipeline.cli.target import connect
from pipeline.client.difference import Counts, WordRun, by_lines, counted, shown, word_difference
from pipeline.client.exports import Document, write_export
from pipeline.printable import escaped_json, one_line
from pipeline.private_files import own_directory
from pipeline.settings import Settings
from pipeline.wiring.embedded_bus import open_deployment_bus
from schemas.calls import CallRef
from schemas.transcripts import TranscriptCompleted

_PLAIN_EVERY_S = 60.0
"""Without a terminal, a progress line is printed after each such part of the call."""


class DifferingTurn(msgspec.Struct, frozen=True):
    """A stored turn with the runs of equal and differing words."""

    start_s: float
    speaker: str
    channel: int
    steps: list[WordRun]


async def transcribe_again(
    settings: Settings, call: CallRef, language: str | None, outs: list[Path], *, diff: bool, as_json: bool, quiet: bool
) -> None:
    """Print the turns, or with `diff` those that differ. Raises InputError, ModelError and BusError."""
    directory = DataDirectory(settings)
    stored = directory.completed_call(call)
    from pipeline.client.retranscribe import retranscribe

    console = stderr_console()
    whole = clock_text(stored["duration_s"] or 0.0)
    plain_s = 0.0
    with console.status(Text(f"{call.call_id}: loading the model")) as status:

        def progress(heard_s: float) -> None:
            nonlocal plain_s
            text = f"{call.call_id}: transcribed {clock_text(heard_s)} of {whole}"
            status.update(Text(text))
            if not console.is_terminal and heard_s - plain_s >= _PLAIN_EVERY_S:
                plain_s = heard_s
                console.print(text, markup=False)

        async with _bus(directory) as bus:
            transcript = await retranscribe(bus, call, settings, language=language, on_progress=progress)
    document = _document(stored, transcript)
    if as_json:
        encoded = _difference_json(stored, document) if diff else msgspec.json.encode(document)
        print(escaped_json(encoded.decode()))
    elif diff:
        show_difference(stored, document)
    elif not quiet:
        for turn in transcript.turns:
            stdout_console().print(turn_line(turn))
    for path in outs:
        target = Path(str(path).replace("{stem}", call.call_id))
        await asyncio.to_thread(write_export, document, target)
        print(f"wrote {target}", file=sys.stderr)


@contextlib.asynccontextmanager
async def _bus(directory: DataDirectory) -> AsyncIterator[Bus]:
    """The bus that holds the audio: the one set, the running instance's, or the embedded one, started here."""
    settings = directory.settings
    if settings.bus is not None or directory.instance is not None:
        async with connect(directory) as bus:
            yield bus
        return
    own_directory(settings.data)
    async with open_deployment_bus(settings) as opened:
        yield opened.bus


def differing_turns(stored: Document, document: Document) -> tuple[list[DifferingTurn], Counts]:
    """Return the stored turns that differ, channel by channel, and the counts of words."""
    found: list[DifferingTurn] = []
    total = Counts()
    channels = sorted({turn["channel"] for turn in [*stored["turns"], *document["turns"]]})
    for channel in channels:
        old, new = ([turn for turn in each["turns"] if turn["channel"] == channel] for each in (stored, document))
        steps = word_difference(*(" ".join(turn["text"] for turn in turns) for turns in (old, new)))
        total += counted(steps)
        lines = by_lines(steps, [len(turn["text"].split()) for turn in old]) if old else [steps]
        found += [
            DifferingTurn(turn["start_s"], turn["speaker"], channel, line)
            for turn, line in zip(old or new[:1], lines, strict=True)
            if any(step.kind != "equal" for step in line)
        ]
    return sorted(found, key=lambda turn: turn.start_s), total


def show_difference(stored: Document, document: Document) -> None:
    """Print a line for each turn that differs, and the counts."""
    console = stdout_console()
    turns, total = differing_turns(stored, document)
    for turn in turns:
        console.print(Text(f"{clock_text(turn.start_s)}  {one_line(turn.speaker)}  ") + shown(turn.steps))
    console.print(Text(total.sentence, style="bold"))


def _difference_json(stored: Document, document: Document) -> bytes:
    turns, total = differing_turns(stored, document)
    return msgspec.json.encode(
        {"turns": turns, "counts": {**msgspec.structs.asdict(total), "share": total.share}},
    )


def _document(stored: Document, transcript: TranscriptCompleted) -> Document:
    """Return the call's document with the new turns, and without the summary of the stored ones."""
    heard: dict[str, Any] = msgspec.to_builtins(transcript)
    return {
        **stored,
        "turns": heard["turns"],
        "metrics": heard["metrics"],
        "language": transcript.language,
        "summary": None,
        "unheard": heard.get("unheard", []),
    }
