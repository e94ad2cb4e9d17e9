"""The wall clock, for logs and metrics. No record's content depends on it (see `stages.protocol.Event`)."""

import time
from typing import Final

SECONDS_PER_DAY: Final = 86_400.0


def unix_time_s() -> float:
    return time.time()  # noqa: TID251  # the one place
