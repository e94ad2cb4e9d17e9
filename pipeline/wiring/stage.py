"""A stage as the pipeline knows it: the topics it reads and writes, what it may hold, how it is run.

A stage is its folder in `stages/`, one file here with its `StageWiring`, and its topic. Topology, start order, the
`worker` command, dead-letter rules and the commands' texts follow from the list in `pipeline.wiring.stage_list`.
"""

from collections.abc import Awaitable, Callable
from math import inf
from typing import TYPE_CHECKING

import msgspec

from pipeline.bus.protocol import Subscription
from pipeline.settings import Settings
from pipeline.wiring.consumer_group import ConsumerGroup
from schemas.topics import Lane

if TYPE_CHECKING:
    from pipeline.wiring.context import WiringContext


class Topic(msgspec.Struct, frozen=True, kw_only=True):
    """One topic. `share` is its part of the bus's store; topics without one divide the rest.

    - A topic that outsiders write has a share so that its producer is refused while the stages after it still have room
      to finish what was accepted.
    - A topic of audio between two stages has one so that the stage that fills it waits for the one that empties it.
    - Dead letters have one so that they cannot fill the store.
    """

    name: str
    share: float | None = None
    frees: bool = False
    """True if records that the stages have read may be deleted as soon as the store is short of room: no outsider
    reads them."""
    kept_unread: bool = True
    """False if a record expires by its age although a stage has not read it. No result of a call may depend on it."""
    drops_oldest: bool = False
    """True if the oldest records make room for new ones."""
    keep: float = 1.0
    """Retention as a factor of the deployment's."""
    keep_s: float = inf
    """The longest retention in seconds, whatever the deployment's."""
    outside_readers: tuple[str, ...] = ()
    """Readers that are no stage: `consumers`, `operator`."""


Ready = Callable[[], None]
"""Called by a stage once its models are loaded and it reads."""


def _nothing_shown(_settings: Settings) -> dict[str, str]:
    return {}


class StageWiring(msgspec.Struct, frozen=True, kw_only=True):
    """One stage. Importing its file loads no model and opens nothing: `run` does, when it is called."""

    name: str
    """Part of consumer groups, event ids, metrics and ledger entries: it never changes."""
    groups: tuple[ConsumerGroup, ...]
    """The stage's own group first."""
    run: "Callable[[WiringContext, Ready], Awaitable[None]]"
    """Load what the stage needs, call `Ready`, read until cancelled. Raises what no restart of the stage can mend,
    such as ModelError."""
    writes: tuple[Topic, ...] = ()
    enabled: Callable[[Settings], bool] | None = None
    """None for a stage that every call needs. An optional stage tells here if `up` runs it. Beside other stages it
    starts once they are ready, and one that cannot start stops nothing else."""
    owns_data: bool = False
    """The stage's process owns the data directory: it holds the lock, opens the warehouse and serves it."""
    in_order: bool = False
    """The stage skips a record once it has taken a later one of the same call, so a dead letter of it can be replayed
    only until then."""
    shows: Callable[[Settings], dict[str, str]] = _nothing_shown
    """Lines that `up` and `worker` print at the start, by their label."""

    @property
    def optional(self) -> bool:
        return self.enabled is not None

    @property
    def lanes(self) -> tuple[Lane, ...]:
        return self.groups[0].lanes

    @property
    def budget_bytes(self) -> int:
        return self.groups[0].budget_bytes

    def subscription(self, lane: Lane = "live") -> Subscription:
        """What the stage's own group reads in a lane."""
        return self.groups[0].subscription(lane)
