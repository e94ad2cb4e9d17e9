"""Fair shares of partition numbers: each worker of a group decides for itself, from one shared entry.

Pure: `leases` reads and writes the entry by compare and set, and passes in the clock. Whatever the order of the
members' steps, a number is in the `held` of one member at most. The one exception is a process that is stopped for a
whole lease, which can neither write nor notice it: it may hold numbers of others until it resumes. What it
publishes then, the store refuses (`outputs`).
"""

from collections.abc import Iterable
from typing import Final

import msgspec

LEASE_S: Final = 5.0
"""How long a member's beat must stand still, by another's clock, before its partitions are free."""
LAPSE_S: Final = 3.5
"""How long a member holds its partitions after its last successful write, by its own clock: less than the lease."""


class Entry(msgspec.Struct):
    """A group's entry: `beats` by member, `owners` by partition number.

    `recovering` names a member that found the store empty although it held numbers. For a lease after that, others may
    not have written again what they hold, so no member takes or gives up anything.
    """

    beats: dict[str, int] = {}
    owners: dict[int, str] = {}
    recovering: str | None = None

    def arrangement(self) -> tuple[frozenset[str], dict[int, str]]:
        """Return the part of the entry whose changes others need at once: all but the beats' values."""
        return frozenset(self.beats), self.owners


class FairShare:
    """One member's view. `decide` proposes the next entry, `settle` is called once that entry is written.

    Its beat never repeats: after it was removed and has returned, others must not take it for the beat that stood
    still.
    """

    def __init__(self, member: str, numbers: Iterable[int]) -> None:
        self.member = member
        self._numbers = sorted(numbers)
        self._mine: set[int] = set()
        self._leaving: set[int] = set()
        self._reading: set[int] = set()
        self._seen: dict[str, tuple[int, float]] = {}
        self._beat = 0
        self._recovering_until = 0.0

    @property
    def held(self) -> frozenset[int]:
        """The numbers that this member is to read now."""
        return frozenset(self._mine - self._leaving)

    def decide(self, before: Entry, now: float, *, lost: bool) -> Entry:
        """Return the next entry: its beat raised, dead members removed, surplus given up, free numbers taken.

        `lost`: the store has no entry.
        """
        if lost and self._mine:
            self._recovering_until = now + LEASE_S
        self._beat += 1
        alive = self._alive(before, now)
        after = Entry(
            beats={member: before.beats.get(member, 0) for member in sorted(alive)} | {self.member: self._beat},
            owners={number: member for number, member in before.owners.items() if member in alive},
            recovering=before.recovering if before.recovering in alive - {self.member} else None,
        )
        if now < self._recovering_until:
            after.recovering = self.member
        for number in self._mine:
            after.owners.setdefault(number, self.member)
        owned = self._owned(after)
        held = sorted(owned & self._mine)
        share = self._share(after)
        for number in (owned - self._mine).union(held[share:]) - self._reading:
            del after.owners[number]
        if after.recovering is None:
            free = [n for n in self._numbers if n not in after.owners and n not in self._reading]
            for number in free[: max(0, share - len(held))]:
                after.owners[number] = self.member
        return after

    def settle(self, entry: Entry) -> None:
        """Adopt an entry that is in the store: numbers that others own are lost, surplus is to be released."""
        self._mine = {n for n in self._owned(entry) if n in self._mine or n not in self._reading}
        self._leaving = set(sorted(self._mine)[self._share(entry) :])
        self._reading |= self.held

    def lapse(self) -> None:
        """Give up everything: the last write was `LAPSE_S` ago, and others may soon take over."""
        self._mine = set()
        self._leaving = set()

    def lose(self, number: int) -> None:
        """Give up one number. If the store still names this member as its owner, it is taken again once released."""
        self._mine.discard(number)
        self._leaving.discard(number)

    def release(self, numbers: Iterable[int]) -> None:
        """Release numbers whose readers have ended. Others get a number that is given up only then."""
        self._reading -= set(numbers) - self.held

    def _alive(self, before: Entry, now: float) -> set[str]:
        self._seen = {member: seen for member, seen in self._seen.items() if member in before.beats}
        for member, beat in before.beats.items():
            if member not in self._seen or self._seen[member][0] != beat:
                self._seen[member] = (beat, now)
        return {self.member} | {member for member, (_, since) in self._seen.items() if now - since < LEASE_S}

    def _owned(self, entry: Entry) -> set[int]:
        return {number for number, member in entry.owners.items() if member == self.member}

    def _share(self, entry: Entry) -> int:
        """Return this member's share of the numbers. The remainder of the division goes to the first by name."""
        if entry.recovering is not None:
            return len(self._numbers)
        whole, rest = divmod(len(self._numbers), len(entry.beats))
        return whole + (sorted(entry.beats).index(self.member) < rest)


def without(entry: Entry, member: str) -> Entry:
    """Return the entry without `member`."""
    return Entry(
        beats={name: beat for name, beat in entry.beats.items() if name != member},
        owners={number: name for number, name in entry.owners.items() if name != member},
        recovering=entry.recovering if entry.recovering != member else None,
    )
