"""The commands, each with its help; what they do is in the modules beside this one."""

import typer

from pipeline.cli import (
    bridge,
    dead_letters,
    fanout,
    publish,
    query,
    search,
    serve,
    summarize,
    topics,
    transcribe,
    watch,
)


def register(app: typer.Typer) -> None:
    app.command("demo")(transcribe.demo)
    app.command("transcribe")(transcribe.transcribe)
    app.command("up")(serve.up)
    app.command("worker")(serve.worker)
    app.command("bridge")(bridge.bridge)
    app.command("fanout")(fanout.fanout)
    app.command("status")(serve.status)
    app.command("publish")(publish.publish)
    app.command("watch")(watch.watch)
    app.command("calls")(query.calls)
    app.command("show")(query.show)
    app.command("sql")(query.sql)
    app.command("search")(search.search)
    app.command("ask")(search.ask)
    app.command("summarize")(summarize.summarize)
    app.add_typer(dead_letters.app(), name="dead-letters")
    app.add_typer(topics.app(), name="topics")
