"""`callstream summarize`: re-summarize a finished call without changing stored results."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.text import Text

from pipeline.cli import options
from pipeline.cli.consoles import stdout_console
from pipeline.cli.data_directory import DataDirectory, call_ref
from pipeline.cli.target import load_settings
from pipeline.client.difference import counted, shown, word_difference
from pipeline.client.exports import Document, summary_lines, turns_of
from pipeline.errors import InputError, SummaryError
from pipeline.printable import escaped_json, one_line
from schemas.calls import DEFAULT_TENANT

if TYPE_CHECKING:
    from stages.summarize.writer import WrittenSummary


def summarize(
    call: Annotated[str, typer.Argument(help="Call id.", metavar="ID")],
    model: Annotated[
        str | None, typer.Option("--model", help="Model name as in `ollama list` (CALLSTREAM_SUMMARY_MODEL).")
    ] = None,
    prompt: Annotated[
        Path | None, typer.Option("--prompt", help="Prompt to use instead of the built-in one.", metavar="FILE")
    ] = None,
    diff: Annotated[bool, typer.Option("--diff", help="Show the differences from the stored summary.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    tenant: options.Tenant = DEFAULT_TENANT,
    data: options.Data = None,
) -> None:
    """Re-summarize a finished call with another model or prompt. Stored results stay unchanged."""
    settings = load_settings(data, log_level="warning", summary_model=model)
    document = DataDirectory(settings).completed_call(call_ref(tenant, call))
    text = _prompt_text(prompt) if prompt is not None else None
    console = stdout_console()
    with console.status(f"Summarizing {len(document['turns'])} turns"):
        written = asyncio.run(_written(settings, document, model, prompt.name if prompt else None, text))
    new = {"method": "llm", **msgspec.to_builtins(written)}
    old = document["summary"]
    if as_json:
        both = {"old": old, "new": new, "counts": _counts(old, new)} if diff else new
        typer.echo(escaped_json(msgspec.json.encode(both).decode()))
        return
    head = f"Summary (by {written.model}, prompt {written.prompt}"
    console.print(
        Text(f"{head}, read in {written.windows} parts)" if written.windows > 1 else f"{head})", style="bold")
    )
    if not diff or old is None:
        console.print(one_line(written.text), markup=False)
        for line in summary_lines(new):
            console.print(f"  {line}", markup=False)
        return
    console.print(Text(f"against the stored one ({old['method']}, {old['model']}): [-stored-] {{+new+}}", style="dim"))
    steps = word_difference(_whole(old), _whole(new))
    for before, after in zip(_lines(old, new), _lines(new, old), strict=True):
        console.print(shown(word_difference(before, after)))
    console.print(Text(counted(steps).sentence, style="bold"))


def _prompt_text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as text: {error}") from error
    if "{language}" not in text:
        raise InputError(
            f"{path} must contain {{language}} for the transcript's language, and ask for the JSON of a summary"
        )
    return text


async def _written(
    settings: Any, document: Document, model: str | None, prompt_name: str | None, prompt: str | None
) -> "WrittenSummary":
    from pipeline.wiring.llm import open_writer
    from stages.adapters.llm.protocol import LlmError
    from stages.summarize.writer import PROMPT

    named = (document["metadata"] or {}).get("call_type")
    call_type = named if isinstance(named, str) and model is None else ""
    async with open_writer(settings, prompt_name=prompt_name or PROMPT, prompt=prompt) as writer:
        try:
            return await writer.write(turns_of(document), language=document["language"] or "und", call_type=call_type)
        except LlmError as error:
            raise SummaryError(str(error)) from error


def _lines(one: Document, other: Document) -> list[str]:
    """Return the text and the lines, padded to the longer of two summaries."""
    lines, others = ([summary["text"], *summary_lines(summary)] for summary in (one, other))
    return [*lines, *[""] * (len(others) - len(lines))]


def _whole(summary: Document) -> str:
    return "\n".join([summary["text"], *summary_lines(summary)])


def _counts(old: Document | None, new: Document) -> dict[str, Any] | None:
    return None if old is None else msgspec.to_builtins(counted(word_difference(_whole(old), _whole(new))))
