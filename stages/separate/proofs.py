"""Proofs of a call's events: short digests, by which a repeat is told from another event of the same number."""

from bisect import bisect_right
from collections.abc import Iterable
from hashlib import blake2b
from typing import Final

import msgspec

from schemas.audio import AudioChunk, AudioEvent, UnusableUpdate

MAX_PROOFS: Final = 4096
"""Events of a call whose proofs are kept, the last ones: over an hour in chunks of 1 s, for 12 KB of its state."""

MAX_RUNS: Final = 64
"""Runs of consecutive numbers that are kept, so that holes do not make the state large."""

PROOF_BYTES: Final = 3
"""Of 16 million events that are not the same, one passes for a repeat."""


def proof_of(record: AudioEvent) -> bytes:
    """Return the digest of what an event says, whatever its id, source and spelling as JSON."""
    if isinstance(record, AudioChunk):
        return blake2b(record.data, digest_size=PROOF_BYTES).digest()
    content = record.value if isinstance(record, UnusableUpdate) else msgspec.json.encode(record)
    return blake2b(content, digest_size=PROOF_BYTES, person=type(record).__name__.encode()).digest()


class ProofRun(msgspec.Struct, frozen=True, array_like=True):
    """The proofs of events with consecutive numbers, `PROOF_BYTES` each."""

    first_seq: int
    proofs: bytes


class Proofs:
    """The proofs of the last events of a call, of at most `MAX_PROOFS` in at most `MAX_RUNS` runs."""

    def __init__(self, runs: Iterable[ProofRun] = ()) -> None:
        self._firsts: list[int] = []
        self._runs: list[bytearray] = []
        self._n_bytes = 0
        for run in runs:
            self._firsts.append(run.first_seq)
            self._runs.append(bytearray(run.proofs))
            self._n_bytes += len(run.proofs)
        self._next_seq = self._firsts[-1] + len(self._runs[-1]) // PROOF_BYTES if self._runs else -1

    def add(self, seq: int, proof: bytes) -> None:
        """Add the proof of an event whose number is higher than that of all before it."""
        if seq != self._next_seq:
            self._firsts.append(seq)
            self._runs.append(bytearray())
        self._next_seq = seq + 1
        self._runs[-1] += proof
        self._n_bytes += PROOF_BYTES
        if self._n_bytes > MAX_PROOFS * PROOF_BYTES or len(self._runs) > MAX_RUNS:
            self._forget_first()

    def _forget_first(self) -> None:
        """Forget the first proof, or the first run if there are too many."""
        n_bytes = len(self._runs[0]) if len(self._runs) > MAX_RUNS else PROOF_BYTES
        del self._runs[0][:n_bytes]
        self._firsts[0] += n_bytes // PROOF_BYTES
        self._n_bytes -= n_bytes
        if not self._runs[0]:
            del self._runs[0], self._firsts[0]

    def of(self, seq: int) -> bytes | None:
        """Return the proof of an event; None if it was not added or is not kept any more."""
        index = bisect_right(self._firsts, seq) - 1
        if index < 0:
            return None
        at = (seq - self._firsts[index]) * PROOF_BYTES
        return bytes(self._runs[index][at : at + PROOF_BYTES]) or None

    def below(self, seq: int) -> list[ProofRun]:
        """Return the proofs of the events numbered below `seq`."""
        return [
            ProofRun(first, bytes(run[: (seq - first) * PROOF_BYTES]))
            for first, run in zip(self._firsts, self._runs, strict=True)
            if first < seq
        ]
