"""The wall clock, for what operators see. No record's content depends on it (see `stages.protocol.Event`)."""

import time


def unix_time_s() -> float:
    return time.time()  # noqa: TID251  # the one place
