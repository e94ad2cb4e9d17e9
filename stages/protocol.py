"""What a stage is, seen from the runner: per call, events in and outputs out, and when an input need not be replayed.

How the runner (`pipeline.runtime.call_runner`) uses these, and what makes the result exact:

- Events of one call arrive in the order of the bus, at least once. Different calls run concurrently.
- `CallProcessor.submit` is called once for each event, in order; its outputs are published in order, and the outputs
  of one event before those of the next. `submit` itself may start work at once (the transcriber queues the utterance
  and awaits the text while iterating) or be an async generator that works while it is iterated.
- An output on the stage's own topic (`Output.seq` is a number) is one of the call's sequence 0, 1, 2, … there. The
  same inputs must give the same sequence of outputs, because after a crash a processor is restored from a checkpoint,
  gets every input again that was not released, and the runner drops the outputs whose number is already on the bus.
- The last output of an event carries `checkpoint()`, taken after the event; earlier ones carry the one before it.
  So the last output on the bus always holds a state that, with the inputs not released in it, gives everything after.
- An output without `seq` (ledger entries) goes to a topic that others write too. It has a deterministic id and may
  be published again. With `same_partition` it is stored in the partition of the call's numbered records.
- An input without a number (`submit` is called for it in its turn) holds up no other: its outputs have no `seq` either,
  and are published beside those of the other inputs. What it changes in the state must be in the checkpoint of the
  next numbered input; until that is on the bus, or the processor is finished, it is delivered again after a crash.
"""

from collections.abc import AsyncIterator
from typing import Protocol, TypeVar

import msgspec

from schemas.calls import CallRef

Input = TypeVar("Input", contravariant=True)


class Origin(msgspec.Struct, frozen=True):
    """Where an input record lies on the bus."""

    topic: str
    partition: int
    position: int
    key: bytes


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Where and when an input record was read; the decoded record travels beside it."""

    seq: int
    """Its number in the call, on the topic that it was read from; without one of its own, that of the next record."""
    event_id: str
    origin: Origin
    timestamp_s: float
    """Unix time in seconds at which the bus stored it: the only clock that a replay repeats."""
    size_bytes: int = 0


class Output(msgspec.Struct, frozen=True, kw_only=True):
    """One record to publish. `record` is a stage record (msgpack) or a published one (JSON), see `schemas`."""

    topic: str
    record: object
    event_id: str
    event_type: str = "callstream.stage"
    seq: int | None = None
    same_partition: bool = False


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A call's state in a stage. Inputs numbered below `released` are in it and need no replay."""

    state: bytes
    released: int


class CallProcessor(Protocol[Input]):
    """A stage's work on one call. Not shared between calls; never called from two tasks at once."""

    def submit(self, record: Input, event: Event) -> AsyncIterator[Output]:
        """Take the next input. A repeat of an input that was taken before gives no outputs.

        Raises stages.errors.RejectedInput (before any change of state) for input that no retry can make usable.
        """
        ...

    def checkpoint(self) -> Checkpoint:
        """The state after all inputs whose iterators have ended."""
        ...

    @property
    def idle_position(self) -> int | None:
        """The number of the event that the call waits for; None where calls of the stage do not end by being idle."""
        ...

    @property
    def finished(self) -> bool:
        """Whether the processor may be dropped from memory, to be restored from its checkpoint if needed again."""
        ...


class CallStage(Protocol[Input]):
    """A stage: makes processors. `name` is stable, it is part of consumer names and event ids."""

    name: str
    topic: str
    """The topic of its numbered outputs, where its checkpoints are kept."""

    def open(self, call: CallRef, state: bytes | None) -> CallProcessor[Input]:
        """A processor for `call`, from the state of its last checkpoint or from nothing."""
        ...


async def no_outputs() -> AsyncIterator[Output]:
    """What a processor answers to a record that nothing follows from."""
    return
    yield
