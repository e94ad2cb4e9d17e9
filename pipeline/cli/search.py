"""`callstream search` and `callstream ask`: find what was said, in which call and when."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.text import Text

from pipeline.bus.protocol import Bus
from pipeline.cli import options
from pipeline.cli.consoles import stderr_console, stdout_console
from pipeline.cli.data_directory import DataDirectory
from pipeline.cli.display import clock_text
from pipeline.cli.target import Target, load_settings
from pipeline.errors import InputError, InstanceError, SummaryError
from pipeline.printable import escaped_json, one_line
from pipeline.settings import Settings
from pipeline.wiring import index
from pipeline.wiring.embedded import Embedded
from pipeline.wiring.embedded_bus import store_folder

if TYPE_CHECKING:
    from stages.adapters.embedding import Embedder, QuestionEmbedder
    from stages.index.ranking import Filters, Hit, Searcher

_MAX_SNIPPET_LINES = 6
_SERVED_WITHIN_S = 60.0

From = Annotated[
    str | None,
    typer.Option("--from", help="Only calls that started at or after this ISO date or time.", metavar="DATE"),
]
To = Annotated[
    str | None,
    typer.Option(
        "--to", help="Only calls that started before this ISO time, or on or before this date.", metavar="DATE"
    ),
]
Agent = Annotated[str | None, typer.Option("--agent", help="Only calls whose metadata name this `agent`.")]
Call = Annotated[str | None, typer.Option("--call", help="Only this call.", metavar="ID")]
AnyTenant = Annotated[str | None, typer.Option("--tenant", help="Only this tenant's calls.")]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]


def search(
    words: Annotated[list[str] | None, typer.Argument(help="A question or words.", metavar="WORDS")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=50, help="Maximum number of results.")] = 10,
    tenant: AnyTenant = None,
    since: From = None,
    until: To = None,
    agent: Agent = None,
    call: Call = None,
    rebuild: Annotated[
        bool,
        typer.Option(
            "--rebuild",
            help="Rebuild the index from the warehouse first. No instance may run, unless the index is in Qdrant.",
        ),
    ] = False,
    as_json: Json = False,
    data: options.Data = None,
) -> None:
    """Find what was said, by meaning and by words."""
    text = " ".join(words or []).strip()
    if not text and not rebuild:
        raise InputError("no search query: callstream search WORDS")
    settings = load_settings(data, log_level="warning")
    asyncio.run(_search(settings, text, _filters(tenant, since, until, agent, call), limit, rebuild, as_json))


def ask(
    question: Annotated[list[str], typer.Argument(help="A question about the calls.", metavar="QUESTION")],
    tenant: AnyTenant = None,
    since: From = None,
    until: To = None,
    agent: Agent = None,
    call: Call = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Model name as in `ollama list` (CALLSTREAM_SUMMARY_MODEL).")
    ] = None,
    as_json: Json = False,
    data: options.Data = None,
) -> None:
    """Answer a question from the calls, and cite them with their times."""
    settings = load_settings(data, log_level="warning", summary_model=model)
    asyncio.run(_ask(settings, " ".join(question), _filters(tenant, since, until, agent, call), as_json))


def _filters(
    tenant: str | None, since: str | None, until: str | None, agent: str | None, call: str | None
) -> "Filters":
    from stages.index.ranking import Filters

    return Filters(
        tenant=tenant,
        since=None if since is None else _time("--from", since).timestamp(),
        until=None if until is None else _end("--to", until).timestamp(),
        agent=agent,
        call_id=call,
    )


def _time(option: str, text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(
            f"{option} {text!r}: expected an ISO date such as 2026-11-26, optionally with a time"
        ) from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _end(option: str, text: str) -> datetime:
    time = _time(option, text)
    return time + timedelta(days=1) if len(text) <= len("2026-11-26") else time


async def _search(settings: Settings, text: str, filters: "Filters", limit: int, rebuild: bool, as_json: bool) -> None:
    from pipeline.client.search import find

    console = stderr_console()
    async with _index(settings, console, rebuild=rebuild) as (found, embedder):
        if not text:
            return
        hits = await find(found, embedder, text, filters, limit=limit)
    if as_json:
        typer.echo(escaped_json(msgspec.json.encode(list(map(_described, hits))).decode()))
        return
    if not hits:
        console.print("no results")
    for hit in hits:
        _print(hit)


async def _ask(settings: Settings, question: str, filters: "Filters", as_json: bool) -> None:
    from pipeline.client import search as searching
    from pipeline.wiring.llm import open_llm
    from stages.adapters.llm.protocol import LlmError

    console = stderr_console()
    async with _index(settings, console) as (found, embedder), open_llm(settings) as llm:
        with console.status(f"asking {llm.model}"):
            try:
                answer = await searching.ask(found, embedder, llm, question, filters)
            except LlmError as error:
                raise SummaryError(str(error)) from error
    if as_json:
        shown = {
            "found": answer.found,
            "answer": answer.text,
            "model": answer.model,
            "detail": answer.detail,
            "citations": list(map(_described, answer.hits)),
        }
        typer.echo(escaped_json(msgspec.json.encode(shown).decode()))
        return
    stdout_console().print(Text(answer.text, style="bold"))
    if answer.detail:
        stdout_console().print(Text(answer.detail, style="dim"))
    for hit in answer.hits:
        _print(hit)


@contextlib.asynccontextmanager
async def _index(
    settings: Settings, console: Console, *, rebuild: bool = False
) -> AsyncIterator[tuple["Searcher", "QuestionEmbedder"]]:
    """Open the index once it holds everything that the bus holds."""
    from pipeline.client import search as searching

    if not index.searchable(msgspec.structs.replace(settings, search="auto")):
        raise InputError("search needs packages that are not installed: pip install 'callstream[search]'")

    from pipeline.wiring.embedding import load_embedder

    def load() -> "Embedder":
        with console.status(f"loading {settings.embedding_model}"):
            return load_embedder(settings)

    directory = DataDirectory(settings)
    if rebuild:
        embedder = await asyncio.to_thread(load)
        with (
            console.status("rebuilding the search index") as status,
            contextlib.closing(directory.open_warehouse()) as reader,
        ):

            def show(done: int, of: int) -> None:
                status.update(f"rebuilding the search index: {done} of {of} calls")

            windows = await asyncio.to_thread(searching.rebuild, settings, reader, embedder, on_call=show)
        console.print(f"the search index has {windows} windows")
    elif directory.instance is None and settings.bus is None and store_folder(settings).exists():
        with console.status("indexing new calls"):
            await _catch_up(settings)
    elif directory.instance is not None:
        with console.status("waiting for the running instance's search index"):
            await _until_served(settings)
    with searching.asked_index(settings, load) as asked:
        yield asked


async def _until_served(settings: Settings) -> None:
    """Wait for the index of an instance that is still loading models. Raises InstanceError if it serves none."""
    from pipeline.client.search import is_served

    deadline = asyncio.get_running_loop().time() + _SERVED_WITHIN_S
    while not is_served(settings):
        if asyncio.get_running_loop().time() > deadline:
            raise InstanceError(
                f"search is not enabled on the instance on {settings.data} (see its log); with separate workers, run "
                "`callstream worker index`"
            )
        await asyncio.sleep(0.2)


async def _catch_up(settings: Settings) -> None:
    """Index the calls that the embedded bus still holds."""
    async with Embedded(settings, stages=(index.WIRING,)) as own:
        await Target(own.bus, DataDirectory.owned(settings, own.instance), own).guard(_until_read(own.bus))


async def _until_read(bus: Bus) -> None:
    while await bus.lag(index.WIRING.subscription()):  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(0.2)


def _print(hit: "Hit") -> None:
    console = stdout_console()
    window = hit.window
    began = datetime.fromtimestamp(window.started_at, UTC).strftime("%Y-%m-%d %H:%M")
    times = f"{clock_text(window.start_s)}–{clock_text(window.end_s)}"
    head = Text.assemble((window.call_id, "bold"), f"  {times}  ", (f"{began} UTC  {hit.similarity:.2f}", "dim"))
    console.print(head)
    lines = [one_line(line) for line in window.text.split("\n")]
    for line in lines[:_MAX_SNIPPET_LINES]:
        console.print(f"  {line}", markup=False)
    if len(lines) > _MAX_SNIPPET_LINES:
        console.print(f"  … {len(lines) - _MAX_SNIPPET_LINES} turns more", style="dim")


def _described(hit: "Hit") -> dict[str, Any]:
    window: dict[str, Any] = msgspec.to_builtins(hit.window)
    for name in ("window_id", "part"):
        del window[name]
    return {**window, "score": round(hit.score, 6), "similarity": round(hit.similarity, 4)}
