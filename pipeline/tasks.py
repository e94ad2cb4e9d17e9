"""Background tasks that do not die unnoticed."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


def owned(
    work: Coroutine[Any, Any, None], *, name: str, failed: Callable[[Exception], None], ends: bool = False
) -> "asyncio.Task[None]":
    """Start `work`. If it ends without being cancelled, `failed` is called with its error, in the event loop.

    Args:
        work: runs until cancelled.
        name: of the task, and in the error of one that ends without an error.
        failed: tells the owner.
        ends: the work may end without an error.
    """
    task = asyncio.create_task(work, name=name)

    def note_end(task: "asyncio.Task[None]") -> None:
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, Exception):
            failed(error)
        elif error is None and not ends:
            failed(RuntimeError(f"{name} ended"))

    task.add_done_callback(note_end)
    return task
