"""What a broker did with records, the same on both."""

from collections import Counter
from collections.abc import Sequence
from typing import Protocol

import msgspec

from benchmarks.damaged_records.events import Sound
from benchmarks.damaged_records.mutants import Mutant

STORED = "stored"


class Published(msgspec.Struct):
    """What became of mutants at the broker: by what was changed, and of the stored ones by topic."""

    outcomes: Counter[tuple[str, str]] = msgspec.field(default_factory=Counter)
    stored: Counter[str] = msgspec.field(default_factory=Counter)
    resent: int = 0
    """Mutants that were published again because the connection ended among them."""

    def note(self, mutant: Mutant, outcome: str) -> None:
        self.outcomes[mutant.changed, outcome] += 1
        if outcome == STORED:
            self.stored[mutant.topic] += 1

    def count(self, outcome: str) -> int:
        return sum(count for (_, found), count in self.outcomes.items() if found == outcome)


class Outsider(Protocol):
    """A client that writes its broker's protocol itself."""

    async def send(self, records: Sequence[Sound]) -> None:
        """Store sound records. Raises RuntimeError if the broker does not take each of them."""
        ...

    async def publish(self, mutants: Sequence[Mutant], published: Published) -> None:
        """Publish mutants in the order of their numbers, and note what became of each."""
        ...

    async def close(self) -> None: ...
