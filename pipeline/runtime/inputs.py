"""An input of a call, by how far it is: see `pipeline.runtime.call_work.CallWork`."""

from collections.abc import AsyncIterator

import msgspec

from pipeline.bus.protocol import Record
from pipeline.runtime.decoding import Decoded
from stages.protocol import Output


class Queued(msgspec.Struct, frozen=True):
    record: Record
    decoded: Decoded


class Started(msgspec.Struct, frozen=True):
    """An input that the processor has taken. `seq` is its number, or without one that of the next numbered input."""

    record: Record
    decoded: Decoded
    seq: int
    outputs: AsyncIterator[Output]

    @property
    def is_numbered(self) -> bool:
        return self.decoded.seq is not None


class Unreleased(msgspec.Struct, frozen=True):
    """An input whose outputs are published, not acknowledged yet."""

    position: int
    seq: int
    is_numbered: bool
