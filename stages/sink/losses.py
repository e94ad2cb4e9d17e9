"""What the warehouse knows of records that expired unread. Without imports: every command reads it."""

from typing import NamedTuple


class Loss(NamedTuple):
    """Records of a partition that expired before a stage had read them."""

    stage: str
    topic: str
    partition: int
    records: int
    calls: int
    """How many of their calls are known. A call that lost records twice counts twice."""
    found_at: float
    """Unix time in seconds of the last."""
