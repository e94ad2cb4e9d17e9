"""Stages on a bus in this process: one of them (`callstream worker STAGE`) or all (`pipeline.wiring.embedded`)."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

import structlog

from pipeline.errors import ModelError
from pipeline.tasks import owned
from pipeline.wiring.context import WiringContext
from pipeline.wiring.stage import Ready, StageWiring
from stages.errors import StageError


class Worker:
    """Runs stages until stopped. `ready` is set once the models of all but the optional ones are loaded."""

    def __init__(self, context: WiringContext, stages: Sequence[StageWiring]) -> None:
        self.ready = asyncio.Event()
        self._context = context
        self._stages = tuple(stages)
        self._tasks: list[asyncio.Task[None]] = []
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._log = structlog.get_logger("callstream.worker")

    def start(self) -> None:
        """Start the stages and return at once: `wait` raises what failed."""
        awaited = [asyncio.Event() for _ in self._stages]
        for wiring, loaded in zip(self._stages, awaited, strict=True):
            if wiring.optional and len(self._stages) > 1:
                loaded.set()
                self.own(self._run_optional(wiring), name=wiring.name, ends=True)
            else:
                self.own(self._run(wiring, loaded.set), name=wiring.name)
        self.own(self._announce(awaited), name="announce", ends=True)

    async def wait(self) -> None:
        """Wait until something fails that no restart of a stage can mend, such as a missing model, and raise it."""
        await asyncio.shield(self._failed)

    async def stop(self) -> None:
        """Stop reading. What is not acknowledged is delivered again to the next worker."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._failed.cancel()

    def own(self, work: Coroutine[Any, Any, None], *, name: str, ends: bool = False) -> None:
        """Run `work` beside the stages until stopped. Its failure is one that `wait` raises."""
        self._tasks.append(owned(work, name=name, failed=self.fail, ends=ends))

    async def _run(self, wiring: StageWiring, ready: Ready) -> None:
        await wiring.run(self._context, ready)

    async def _run_optional(self, wiring: StageWiring) -> None:
        """Run a stage that calls do not need: after the models of the others, and without stopping them by its own."""
        await self.ready.wait()
        try:
            await wiring.run(self._context, lambda: None)
        except (StageError, ModelError) as error:
            self._log.error("optional stage does not run", stage=wiring.name, error=str(error))

    async def _announce(self, awaited: list[asyncio.Event]) -> None:
        await asyncio.gather(*(event.wait() for event in awaited))
        self.ready.set()

    def fail(self, error: Exception) -> None:
        """Let `wait` raise `error`."""
        if isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        if not self._failed.done():
            self._failed.set_exception(error)
