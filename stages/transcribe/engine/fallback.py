"""An engine that gets by with less when its device has no memory left: smaller batches, then int8, then the CPU.

Every step down stays: what was too much once would be too much again, and each try costs the rows in it their time. A
rung below has a batch size of its own to find. Rows of the batch that failed are heard again on the next footing, so a
step costs time and no text. On a CPU there is nothing below: its error is the row's.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import msgspec
import structlog

from stages.transcribe.engine.devices import CPU, Device
from stages.transcribe.engine.out_of_memory import is_out_of_memory
from stages.transcribe.engine.protocol import EngineError, Row, SpeechEngine, Transcription


class Rung(msgspec.Struct, frozen=True):
    """Where an engine runs, and CTranslate2's name for its arithmetic."""

    device: Device
    compute_type: str

    def __str__(self) -> str:
        return f"{self.device} as {self.compute_type}"


def rungs_of(device: Device, compute_type: str) -> list[Rung]:
    """From what was asked for (`auto` is the device's own) down to the CPU, each with less of the device's memory.

    Plain int8 computes the rest in float32, so it is no step below int8_float16; it is where float32 was asked for,
    as on a GPU that has no float16.
    """
    if compute_type == "auto":
        compute_type = device.compute_type
    first = Rung(device, compute_type)
    if device.kind == "cpu":
        return [first]
    lighter = {"float16": "int8_float16", "float32": "int8"}.get(compute_type)
    return [first, *([Rung(device, lighter)] if lighter else []), Rung(CPU, CPU.compute_type)]


class LoadedEngine(SpeechEngine, Protocol):
    def close(self) -> None:
        """Give the memory back. Afterwards only `window_s` is called."""
        ...


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """A step down. `rung` and `max_batch` are what is used from now on."""

    kind: Literal["batch", "lighter", "cpu"]
    rung: Rung
    max_batch: int


class _Footing(msgspec.Struct, frozen=True):
    number: int
    max_batch: int


class Ladder:
    """A SpeechEngine on the highest of `rungs` that its memory allows. May be used from several threads at once."""

    def __init__(
        self,
        load: Callable[[Rung], LoadedEngine],
        rungs: Sequence[Rung],
        *,
        max_batch: int | None = None,
        makes_do: bool = False,
        stepped: Callable[[Step], None] = lambda _: None,
        used: Callable[[Rung, int], None] = lambda *_: None,
    ) -> None:
        """Load the first rung; a lower one where memory lacks for it, and with `makes_do` where it fails in any way.

        `load` raises EngineError, and so does this where no rung may be used. `max_batch`: rows at once on the first
        device, its own number where None. `stepped` is told of each step down, `used` of each batch that was
        transcribed: the rung and the number of rows. Both are called from any thread.
        """
        self._load_rung = load
        self._rungs = list(rungs)
        self._asked_batch = max_batch
        self._stepped = stepped
        self._used = used
        self._log = structlog.get_logger("callstream.ladder")
        self._turn = threading.Condition()
        self._inside = 0
        self._changing = False
        self._closed = False
        self._engine, self._footing = self._load(0, descends=lambda error: makes_do or is_out_of_memory(error))
        self.model_name = self._engine.model_name
        self.languages = self._engine.languages

    @property
    def rung(self) -> Rung:
        return self._rungs[self._footing.number]

    @property
    def max_batch(self) -> int:
        return self._footing.max_batch

    def window_s(self, row: Row) -> int:
        return self._engine.window_s(row)

    def transcribe_batch(self, rows: Sequence[Row]) -> list[Transcription]:
        """See `SpeechEngine`. While a lower rung is loaded all who call wait for it."""
        done: list[Transcription] = []
        while len(done) < len(rows):
            done += self._begin(rows[len(done) :])
        return done

    def _begin(self, rows: Sequence[Row]) -> list[Transcription]:
        """The texts of as many of the first rows as go at once; none of them where a step down was taken instead."""
        engine, footing = self._enter()
        rows = rows[: footing.max_batch]
        try:
            done = engine.transcribe_batch(rows)
        except Exception as error:
            at_the_bottom = footing.max_batch == 1 and footing.number == len(self._rungs) - 1
            if at_the_bottom or not is_out_of_memory(error):
                raise
            reason = repr(error)
        else:
            self._used(self._rungs[footing.number], len(rows))
            return done
        finally:
            del engine
            self._leave()
        # Behind the except block: the error's traceback holds on to the engine.
        self._step_down(footing, len(rows), reason)
        return []

    def _enter(self) -> tuple[LoadedEngine, _Footing]:
        with self._turn:
            self._turn.wait_for(lambda: not self._changing)
            if not self._closed:
                self._inside += 1
                return self._engine, self._footing
            self._changing = True
        self._change(self._footing.number)  # the rung below could not be loaded when it was needed: try again
        return self._enter()

    def _leave(self) -> None:
        with self._turn:
            self._inside -= 1
            self._turn.notify_all()

    def _step_down(self, tried: _Footing, n_rows: int, reason: str) -> None:
        """From the footing that was `tried`, unless another thread has left it already."""
        with self._turn:
            self._turn.wait_for(lambda: not self._changing)
            if self._footing != tried:
                return
            if tried.max_batch > 1:
                self._footing = _Footing(tried.number, max(1, min(n_rows, tried.max_batch) // 2))
                self._tell("batch", self._footing, reason)
                return
            self._changing = True
            self._turn.wait_for(lambda: not self._inside)
        self._change(tried.number + 1, reason)

    def _change(self, number: int, reason: str = "") -> None:
        """Load the rung `number` or the next that can be, in place of the engine that nobody is inside of any more."""
        try:
            if not self._closed:
                self._closed = True
                self._engine.close()
            self._engine, self._footing = self._load(number, reason)
            self._closed = False
        finally:
            with self._turn:
                self._changing = False
                self._turn.notify_all()

    def _load(
        self, first: int, reason: str = "", *, descends: Callable[[EngineError], bool] = lambda _: True
    ) -> tuple[LoadedEngine, _Footing]:
        """An engine on the rung `first`, or on the next that can be loaded where `descends` says of its error to."""
        rung = self._rungs[first]
        try:
            engine = self._load_rung(rung)
        except EngineError as error:
            if first == len(self._rungs) - 1 or not descends(error):
                raise
            reason = str(error)
        else:
            asked = self._asked_batch if rung.device == self._rungs[0].device else None
            footing = _Footing(first, asked or engine.max_batch)
            if first:
                self._tell("cpu" if rung.device.kind == "cpu" else "lighter", footing, reason)
            return engine, footing
        return self._load(first + 1, reason, descends=descends)

    def _tell(self, kind: Literal["batch", "lighter", "cpu"], footing: _Footing, reason: str) -> None:
        rung = self._rungs[footing.number]
        self._log.warning(
            "the engine goes on with less", step=kind, on=str(rung), max_batch=footing.max_batch, reason=reason
        )
        self._stepped(Step(kind=kind, rung=rung, max_batch=footing.max_batch))
