"""The number of a producer's event in its call: its epoch, and within the epoch its `callseq`.

A producer that restarts in the middle of a call, and cannot know how far it had counted, counts from 0 again in a
higher epoch. Both make one number, so that the events of a later epoch follow those of an earlier one. In epoch 0,
which most calls never leave, the number is the `callseq`.
"""

from typing import Final

EPOCH_EVENTS: Final = 2**31
"""Numbers of an epoch: 1.3 years of audio in chunks of 20 ms. Later records count missing events in 32 bits."""

MAX_EPOCH: Final = 2**31 - 1
"""The highest epoch. Unix time in seconds fits until 2038, and every number fits in 64 bits."""


def event_number(epoch: int, callseq: int) -> int:
    return epoch * EPOCH_EVENTS + callseq


def epoch_of(number: int) -> int:
    return number // EPOCH_EVENTS


def callseq_of(number: int) -> int:
    return number % EPOCH_EVENTS
