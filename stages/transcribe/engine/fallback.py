"""An engine that falls back when its device runs out of memory: to smaller batches, then to int8, then to the CPU.

It never steps up again: what was too much once would be too much again, and each attempt costs time. Each level finds
its own batch size. The rows of a batch that failed are decoded again after the step, so a step loses no text. The CPU
is the last level: an error there is the row's.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import msgspec
import structlog

from stages.transcribe.engine.devices import CPU, Device
from stages.transcribe.engine.out_of_memory import is_out_of_memory
from stages.transcribe.engine.protocol import EngineError, Row, SpeechEngine, Transcription


class Level(msgspec.Struct, frozen=True):
    """A device, and CTranslate2's name for the arithmetic used on it."""

    device: Device
    compute_type: str

    def __str__(self) -> str:
        return f"{self.device} as {self.compute_type}"


def levels_of(device: Device, compute_type: str) -> list[Level]:
    """Return the levels from what was asked for (`auto` is the device's own) to the CPU, each using less device memory.

    Plain int8 computes the rest in float32, so it is no step down from int8_float16. It is one from float32, as on a
    GPU that has no float16.
    """
    if compute_type == "auto":
        compute_type = device.compute_type
    first = Level(device, compute_type)
    if device.kind == "cpu":
        return [first]
    lighter = {"float16": "int8_float16", "float32": "int8"}.get(compute_type)
    return [first, *([Level(device, lighter)] if lighter else []), Level(CPU, CPU.compute_type)]


class LoadedEngine(SpeechEngine, Protocol):
    def close(self) -> None:
        """Free the memory. Only `window_s` may be called afterwards."""
        ...


class StepDown(msgspec.Struct, frozen=True, kw_only=True):
    """A step down, with the level and the batch size in use after it."""

    kind: Literal["batch", "lighter", "cpu"]
    level: Level
    max_batch: int


class _Position(msgspec.Struct, frozen=True):
    """The index of a level, and the batch size on it."""

    index: int
    max_batch: int


class FallbackEngine:
    """A SpeechEngine on the highest level that memory allows. May be used from several threads at once."""

    def __init__(
        self,
        load: Callable[[Level], LoadedEngine],
        levels: Sequence[Level],
        *,
        max_batch: int | None = None,
        on_any_error: bool = False,
        stepped: Callable[[StepDown], None] = lambda _: None,
        used: Callable[[Level, int], None] = lambda *_: None,
    ) -> None:
        """Load the first level that can be used. Raises EngineError if there is none.

        Args:
            load: makes the engine of a level. Raises EngineError.
            levels: from the highest to the lowest, at least one.
            max_batch: rows at once on the first device; the device's own number if None.
            on_any_error: while loading for the first time, fall back after any EngineError, not only out of memory.
            stepped: called for each step down, from any thread.
            used: called with the level and the number of rows for each batch that was transcribed, from any thread.
        """
        self._load_level = load
        self._levels = list(levels)
        self._asked_batch = max_batch
        self._stepped = stepped
        self._used = used
        self._log = structlog.get_logger("callstream.fallback")
        self._turn = threading.Condition()
        self._inside = 0
        self._changing = False
        self._closed = False
        self._engine, self._position = self._load(0, descend=lambda error: on_any_error or is_out_of_memory(error))
        self.model_name = self._engine.model_name
        self.languages = self._engine.languages

    @property
    def level(self) -> Level:
        return self._levels[self._position.index]

    @property
    def max_batch(self) -> int:
        return self._position.max_batch

    def window_s(self, row: Row) -> int:
        return self._engine.window_s(row)

    def transcribe_batch(self, rows: Sequence[Row]) -> list[Transcription]:
        """See `SpeechEngine`. While a lower level is loaded, all callers wait for it."""
        done: list[Transcription] = []
        while len(done) < len(rows):
            done += self._transcribe_first(rows[len(done) :])
        return done

    def _transcribe_first(self, rows: Sequence[Row]) -> list[Transcription]:
        """Return the texts of the first rows, as many as fit a batch; none if a step down was taken instead."""
        engine, position = self._enter()
        rows = rows[: position.max_batch]
        try:
            done = engine.transcribe_batch(rows)
        except Exception as error:
            at_the_bottom = position.max_batch == 1 and position.index == len(self._levels) - 1
            if at_the_bottom or not is_out_of_memory(error):
                raise
            reason = repr(error)
        else:
            self._used(self._levels[position.index], len(rows))
            return done
        finally:
            del engine
            self._leave()
        # Outside the except block: the error's traceback keeps a reference to the engine.
        self._step_down(position, len(rows), reason)
        return []

    def _enter(self) -> tuple[LoadedEngine, _Position]:
        with self._turn:
            self._turn.wait_for(lambda: not self._changing)
            if not self._closed:
                self._inside += 1
                return self._engine, self._position
            self._changing = True
        self._change(self._position.index)  # no level could be loaded when one was needed: try again
        return self._enter()

    def _leave(self) -> None:
        with self._turn:
            self._inside -= 1
            self._turn.notify_all()

    def _step_down(self, tried: _Position, n_rows: int, reason: str) -> None:
        """Leave the position that was `tried`, unless another thread has left it already."""
        with self._turn:
            self._turn.wait_for(lambda: not self._changing)
            if self._position != tried:
                return
            if tried.max_batch > 1:
                self._position = _Position(tried.index, max(1, min(n_rows, tried.max_batch) // 2))
                self._report("batch", self._position, reason)
                return
            self._changing = True
            self._turn.wait_for(lambda: not self._inside)
        self._change(tried.index + 1, reason)

    def _change(self, index: int, reason: str = "") -> None:
        """Replace the engine by that of the level `index`, or of the next that can be loaded. No thread is inside."""
        try:
            if not self._closed:
                self._closed = True
                self._engine.close()
            self._engine, self._position = self._load(index, reason)
            self._closed = False
        finally:
            with self._turn:
                self._changing = False
                self._turn.notify_all()

    def _load(
        self, index: int, reason: str = "", *, descend: Callable[[EngineError], bool] = lambda _: True
    ) -> tuple[LoadedEngine, _Position]:
        """Return an engine on the level `index`, or on a lower one if it fails with an error to `descend` on."""
        level = self._levels[index]
        try:
            engine = self._load_level(level)
        except EngineError as error:
            if index == len(self._levels) - 1 or not descend(error):
                raise
            reason = str(error)
        else:
            asked = self._asked_batch if level.device == self._levels[0].device else None
            position = _Position(index, asked or engine.max_batch)
            if index:
                self._report("cpu" if level.device.kind == "cpu" else "lighter", position, reason)
            return engine, position
        return self._load(index + 1, reason, descend=descend)

    def _report(self, kind: Literal["batch", "lighter", "cpu"], position: _Position, reason: str) -> None:
        level = self._levels[position.index]
        self._log.warning("engine fell back", step=kind, on=str(level), max_batch=position.max_batch, reason=reason)
        self._stepped(StepDown(kind=kind, level=level, max_batch=position.max_batch))
