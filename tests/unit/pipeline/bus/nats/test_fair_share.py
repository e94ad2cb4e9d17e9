"""Fair shares in any order of the members' steps, on a store with compare and set."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.bus.nats.fair_share import LAPSE_S, LEASE_S, Entry, FairShare, without

NUMBERS = range(8)


class Store:
    """A store with compare and set that can lose everything, like a restarted server with its bucket in memory."""

    def __init__(self) -> None:
        self.entry = Entry()
        self.revision = 0
        self.writes = 0

    def read(self) -> tuple[Entry, int]:
        return Entry(dict(self.entry.beats), dict(self.entry.owners), self.entry.recovering), self.revision

    def write(self, entry: Entry, revision: int) -> bool:
        if revision != self.revision:
            return False
        self.writes += 1
        self.entry, self.revision = entry, self.writes
        return True

    def lose(self) -> None:
        self.entry, self.revision = Entry(), 0


class Member:
    """A worker that decides, writes and settles. It stops reading a number one step after it gives it up."""

    def __init__(self, name: str) -> None:
        self.share = FairShare(name, NUMBERS)
        self.reading: set[int] = set()
        self.renewed = 0.0

    def look(self, store: Store, now: float) -> tuple[Entry, int]:
        before, revision = store.read()
        return self.share.decide(before, now, lost=revision == 0), revision

    def commit(self, store: Store, decided: tuple[Entry, int], now: float) -> None:
        if store.write(*decided):
            self.share.settle(decided[0])
            self.renewed = now
            self.reading |= self.share.held

    def round(self, store: Store, now: float) -> None:
        self.commit(store, self.look(store, now), now)

    def tick(self, now: float) -> None:
        """Run the timer and the reader tasks."""
        if now >= self.renewed + LAPSE_S:
            self.share.lapse()
        ended = self.reading - self.share.held
        self.reading -= ended
        self.share.release(ended)


def settle_down(store: Store, members: list[Member], now: float) -> float:
    for _ in range(40):
        now += 0.5
        for member in members:
            member.tick(now)
            member.round(store, now)
            member.tick(now)
    return now


def held_by(members: list[Member]) -> Counter[int]:
    return Counter(number for member in members for number in member.reading)


steps = st.lists(
    st.tuples(
        st.sampled_from(["round", "round", "round", "race", "leave", "crash", "wait", "lose"]), st.integers(0, 3)
    ),
    max_size=60,
)


@given(steps)
@settings(max_examples=150)
def test_no_number_is_read_twice_and_all_end_up_shared_fairly(script: list[tuple[str, int]]) -> None:
    store, now, names = Store(), 0.0, 0
    members: list[Member] = []
    for action, index in script:
        now += 0.3
        if len(members) <= index:
            names += 1
            members.append(Member(f"worker-{names}"))
            members[-1].renewed = now
        member = members[min(index, len(members) - 1)]
        for each in members:
            each.tick(now)
        if action == "round":
            member.round(store, now)
        elif action == "race":
            decided = [(each, each.look(store, now)) for each in members]
            for each, decision in decided:
                each.commit(store, decision, now)
        elif action == "wait":
            now += 2.0
        elif action == "lose":
            for number in sorted(member.share.held)[:2]:
                member.share.lose(number)
        elif action == "leave":
            members.remove(member)
            entry, revision = store.read()
            store.write(without(entry, member.share.member), revision)
        else:
            members.remove(member)
        for each in members:
            each.tick(now)
        assert max(held_by(members).values(), default=0) <= 1
    if members:
        settle_down(store, members, now)
        assert held_by(members) == Counter(NUMBERS)
        sizes = [len(member.reading) for member in members]
        assert max(sizes) - min(sizes) <= 1


def test_a_crashed_member_s_numbers_are_free_after_a_lease_not_before() -> None:
    store = Store()
    dead, living = Member("a"), Member("b")
    for now in (0.0, 0.1, 0.2):
        for member in (dead, living):
            member.round(store, now)
            member.tick(now)
    assert len(living.reading) == 4
    now = 0.2
    while now + 0.5 < 0.2 + LEASE_S:
        now += 0.5
        living.round(store, now)
        assert len(living.reading) == 4
    living.round(store, now + 1.0)
    living.round(store, now + 1.1)
    assert living.reading == set(NUMBERS)


def test_a_number_that_was_lost_is_taken_again_once_its_reader_has_ended() -> None:
    store = Store()
    member = Member("a")
    member.round(store, 0.0)
    member.share.lose(3)
    member.round(store, 0.1)
    assert member.share.held == set(NUMBERS) - {3}
    member.tick(0.2)
    member.round(store, 0.3)
    assert member.share.held == set(NUMBERS)


def test_a_lost_store_moves_nothing_while_members_run() -> None:
    store = Store()
    members = [Member("a"), Member("b"), Member("c")]
    now = settle_down(store, members, 0.0)
    before = [set(member.reading) for member in members]
    store.lose()
    for step in range(8):
        now += 0.5
        for member in members if step % 2 else members[::-1]:
            member.tick(now)
            member.round(store, now)
            member.tick(now)
        assert [member.reading for member in members] == before
    newcomer = Member("d")
    settle_down(store, [*members, newcomer], now)
    assert newcomer.reading


def test_surplus_goes_to_a_newcomer_only_when_its_readers_have_ended() -> None:
    store = Store()
    old, new = Member("a"), Member("b")
    old.round(store, 0.0)
    new.round(store, 0.1)
    old.round(store, 0.2)
    assert old.share.held == {0, 1, 2, 3}
    new.round(store, 0.3)
    assert new.share.held == frozenset()
    old.tick(0.4)
    old.round(store, 0.5)
    new.round(store, 0.6)
    assert new.share.held == {4, 5, 6, 7}
