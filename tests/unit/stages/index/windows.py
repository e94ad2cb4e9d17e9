"""Synthetic windows and vectors for tests of search."""

from collections.abc import Sequence

import numpy as np

from schemas.calls import CallRef
from stages.adapters.embedding import Vectors
from stages.index.ranking import Update
from stages.index.windows import Window

DIMENSIONS = 8


def call(number: int, tenant: str = "default") -> CallRef:
    return CallRef(tenant, f"call-{number}")


def window(
    of: CallRef,
    text: str,
    *,
    number: int = 0,
    revision: int = 1,
    part: int = 1,
    agent: str = "",
    started_at: float = 1_700_000_000.0,
) -> Window:
    return Window(
        window_id=str(of.derived_id("window", revision, part, number)),
        tenant=of.tenant,
        call_id=of.call_id,
        revision=revision,
        part=part,
        start_s=10.0 * number,
        end_s=10.0 * number + 9,
        speakers=["agent"],
        turn_ids=[f"turn-{number}"],
        text=text,
        agent=agent,
        started_at=started_at,
    )


def unit(*values: float) -> Vectors:
    vector = np.array([*values, *[0.0] * (DIMENSIONS - len(values))], np.float32)
    return vector / np.linalg.norm(vector)


def update(windows: Sequence[Window], vectors: Sequence[Vectors]) -> Update:
    first = windows[0]
    return Update(first.call, first.revision, first.part, list(windows), np.stack(vectors))


def crowded(far: Vectors, near: Vectors) -> list[Update]:
    """2,000 windows of the tenant `small` about `far`, and 4,000 of another about `near`."""
    chance = np.random.default_rng(1)
    updates = []
    for number in range(60):
        tenant = "small" if number % 3 == 0 else "other"
        of = call(number, tenant)
        vectors = [
            (far if tenant == "small" else near) + chance.normal(0, 0.01, DIMENSIONS).astype(np.float32)
            for _ in range(100)
        ]
        updates.append(update([window(of, f"bill number {number}", number=n) for n in range(100)], vectors))
    return updates
