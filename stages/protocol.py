"""The contract of a stage: what the runner (`pipeline.runtime.call_runner`) calls and when, and what it relies on.

Inputs
- The events of one call arrive in the order of the bus. Calls run concurrently.
- An event may arrive more than once: after a crash the runner opens the call again from the checkpoint on the bus and
  submits every input that this checkpoint does not release.
- A numbered event has a number within its call, counted from 0 on the topic that it was read from. Numbers are not
  promised to be consecutive: a producer's event may be lost or late.

Numbered outputs (`Output.seq` is set)
- They go to the stage's own topic and count 0, 1, 2, … within the call.
- The same inputs must give the same numbered outputs, whatever clock, random numbers or other calls do. The runner
  relies on this in a replay: it drops outputs whose number is already on the bus.
- Each carries a checkpoint. The last output of an event carries the one taken after that event; the outputs before it
  carry the previous one. So the last output on the bus always holds a state from which, with the inputs that it does
  not release, everything after it follows.

Unnumbered outputs (`Output.seq` is None): ledger entries, live text
- They go to topics to which other stages may publish too.
- They may be published again after a crash. An id must follow from the inputs, or name what it differs in.
- They carry no checkpoint. With `same_partition` they are stored in the partition of the call's numbered records.

Unnumbered inputs
- They are submitted in their turn but finished at any time: their outputs are published while those of other inputs
  wait, and must be unnumbered.
- A change that they make to the state must be in the checkpoint of the next numbered input. Until that checkpoint is on
  the bus, or the processor is finished, a crash delivers them again.
"""

from collections.abc import AsyncIterator
from typing import Protocol, TypeVar

import msgspec

from schemas.calls import CallRef
from stages.errors import RejectedInput

Input = TypeVar("Input", contravariant=True)


class Origin(msgspec.Struct, frozen=True):
    """The position of an input record on the bus."""

    topic: str
    partition: int
    position: int
    key: bytes


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """The metadata of an input record. The decoded record is passed separately."""

    seq: int
    """Its number in the call, on the topic that it was read from; of an unnumbered input, that of the next record."""
    event_id: str
    origin: Origin
    timestamp_s: float
    """Unix time in seconds at which the bus stored it: the only clock that a replay repeats."""
    size_bytes: int = 0
    source: str = ""
    """The CloudEvents source of an outside producer's event. Together with the id, it names the event."""
    producer_time: bool = False
    """True if `timestamp_s` is the time that the producer set: a broker may keep that instead of its own."""


class Output(msgspec.Struct, frozen=True, kw_only=True):
    """A record to publish: `record` is a stage record (msgpack) or a published one (JSON), see `schemas`."""

    topic: str
    record: object
    event_id: str
    event_type: str = "callstream.stage"
    seq: int | None = None
    same_partition: bool = False


class Waiting(msgspec.Struct, frozen=True):
    """What a call waits for: its first missing event. Later ones, numbered below `arrived_below`, are held."""

    missing: int
    arrived_below: int


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A call's state in a stage. It contains the inputs numbered below `released`: they need no replay."""

    state: bytes
    released: int


class CallProcessor(Protocol[Input]):
    """A stage's work on one call. It is not shared between calls, and never called from two tasks at once."""

    def submit(self, record: Input, event: Event) -> AsyncIterator[Output]:
        """Take the next input and return its outputs, in order.

        Called once for each input, in the order of the bus. May return before the work is done: the transcriber queues
        the utterance here and awaits its text while it is iterated. Iterators of numbered inputs are exhausted one
        after the other, so `submit` is usually called again before the last one has ended.

        A repeat of an input that the state already contains must give no outputs.

        Raises stages.errors.RejectedInput, here or in the iterator, for an input that no retry can make usable. The
        state must not have changed. Any other error starts the call again from its last checkpoint. Raises
        stages.errors.MachineFailure for what is not the input's fault: it is retried until it succeeds.
        """
        ...

    def give_up(self, record: Input, event: Event, *, reason: str) -> AsyncIterator[Output]:
        """Take, in place of `submit`, an input on which `submit` has failed too often.

        The outputs say what is lost. If the call cannot go on without the input they end it, and the checkpoint that
        they carry releases all inputs. The runner publishes a dead letter of the input as well.

        Raises stages.errors.RejectedInput if the call goes on as if the input had never been published.
        """
        ...

    def checkpoint(self) -> Checkpoint:
        """Return the state after all inputs whose iterators have ended.

        Called after each numbered input that gave numbered outputs. Not promised to be called for any other.
        """
        ...

    @property
    def idle_position(self) -> int | None:
        """The number of the event that the call waits for; None if calls of the stage do not end by being idle."""
        ...

    @property
    def waiting(self) -> Waiting | None:
        """What the call waits for; None if it waits for nothing, as calls of a stage without order never do."""
        ...

    @property
    def finished(self) -> bool:
        """True if the processor may be dropped from memory. Should the call continue, it is opened from its checkpoint.

        While False, the last input stays unacknowledged, so that a restart brings the call back into memory.
        """
        ...


class SkipsFailedInputs:
    """The base of a processor whose calls go on without an input that was given up."""

    def give_up(self, record: object, event: Event, *, reason: str) -> AsyncIterator[Output]:  # noqa: ARG002
        raise RejectedInput(reason)


class CallStage(Protocol[Input]):
    """A stage: opens a processor for each call.

    `name` is part of consumer groups and event ids, so it must never change.
    """

    name: str
    topic: str
    """The topic of its numbered outputs, and so of its checkpoints."""

    def open(self, call: CallRef, state: bytes | None) -> CallProcessor[Input]:
        """Return a processor that continues from `state`, the call's last checkpoint; None if there is none.

        A call may be opened again and again, in this process or another.
        """
        ...


async def no_outputs() -> AsyncIterator[Output]:
    """Return the outputs of an input that has none."""
    return
    yield
