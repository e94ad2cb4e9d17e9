"""Damaged media files through the processes that decode files: does one of them cost more than itself?

    python -m benchmarks.damaged_files [--files 100000] [--minutes M] [--seed 1] [--keep DIR] [--json FILE]

Recordings in fourteen containers are damaged by a seed: cut, bytes overwritten, pieces lost or sent twice, numbers of
the header at their limits, the rest random. Each goes to a decoding process. After every 1,000 a whole recording of
each container is decoded, and its samples compared with those from before. A file must end as audio or as an error
that names its reason; a process must not crash, and its memory must stay bounded.

What it does not show: files that were made to exploit a known fault of a decoder, and faults that need megabytes.
"""

import argparse
import contextlib
import io
import random
import sys
import tempfile
import time
from collections import Counter
from math import inf
from pathlib import Path
from typing import Final

import psutil

from benchmarks.harness.command import add_outputs, benchmark_parser
from benchmarks.harness.report import write_report
from stages.errors import MachineFailure
from stages.separate.decoder import AudioFileError
from stages.separate.decoding.pool import DecoderPool
from stages.separate.formats import format_of
from tests.calls import media

SECONDS: Final = 0.5
CHECKED_EVERY: Final = 1_000
OUTCOMES: Final = ("decoded", "without audio", "refused by FFmpeg", "refused by its first bytes")


class Tally:
    """What became of the files."""

    def __init__(self) -> None:
        self.outcomes: dict[str, Counter[str]] = {kind: Counter() for kind in media.CONTAINERS}
        self.crashes: list[str] = []
        self.slowest_s = 0.0
        self.peak_mb = 0.0
        self.unequal = 0
        self.checked = 0

    def count(self, outcome: str) -> int:
        return sum(counted[outcome] for counted in self.outcomes.values())


def parser() -> argparse.ArgumentParser:
    made = benchmark_parser("damaged_files", __doc__)
    made.add_argument("--files", type=int, default=100_000, help="damaged files (100000)")
    made.add_argument("--minutes", type=float, default=inf, help="stop then, however many they are (never)")
    made.add_argument("--seed", type=int, default=1, help="seed of the damage (1)")
    made.add_argument("--keep", type=Path, metavar="DIR", help="keep files there that crash a process")
    add_outputs(made)
    return made


def main() -> int:
    given = parser().parse_args()
    began = time.monotonic()
    with contextlib.closing(DecoderPool()) as pool:
        tally = fuzz(pool, given.files, given.minutes, random.Random(given.seed), given.keep)
    took_s = time.monotonic() - began
    print(f"| container | {' | '.join(OUTCOMES)} |\n|---|{'---|' * len(OUTCOMES)}")
    for kind, counted in tally.outcomes.items():
        print(f"| {kind} | {' | '.join(str(counted[outcome]) for outcome in OUTCOMES)} |")
    print(f"| all | {' | '.join(str(tally.count(outcome)) for outcome in OUTCOMES)} |")
    n_files = sum(counted.total() for counted in tally.outcomes.values())
    print(f"{n_files} files in {took_s:.0f} s, the slowest {tally.slowest_s:.2f} s")
    print(f"crashes: {len(tally.crashes)}; most memory of a process: {tally.peak_mb:.0f} MB")
    print(f"whole recordings decoded between: {tally.checked}, with other samples: {tally.unequal}")
    report = {
        "outcomes": {kind: dict(counted) for kind, counted in tally.outcomes.items()},
        "crashes": tally.crashes,
        "slowest_s": tally.slowest_s,
        "peak_mb": tally.peak_mb,
        "whole": {"decoded": tally.checked, "unequal": tally.unequal},
        "took_s": took_s,
    }
    write_report("damaged_files", report, given.json, given=f"{n_files} files, seed {given.seed}", runs=1)
    return 1 if tally.crashes or tally.unequal else 0


def fuzz(pool: DecoderPool, n_files: int, minutes: float, chance: random.Random, keep: Path | None) -> Tally:
    tally = Tally()
    until = time.monotonic() + 60 * minutes
    whole = {kind: media.recording(kind, seconds=SECONDS) for kind in media.CONTAINERS}
    expected = {kind: outcome_of(pool, data)[1] for kind, data in whole.items()}
    assert all(expected.values()), "a whole recording has no audio"
    for number in range(n_files):
        if time.monotonic() > until:
            break
        kind = chance.choice(list(whole))
        data = media.mutated(whole[kind], chance)
        began = time.monotonic()
        outcome, _, said = outcome_of(pool, data)
        tally.slowest_s = max(tally.slowest_s, time.monotonic() - began)
        tally.outcomes[kind][outcome] += 1
        crashed = [reason for reason in said if "crash" in reason or outcome == "lost"]
        if crashed:
            tally.crashes.append(f"{kind} {number}: {crashed[0]}")
            if keep is not None:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{number}.{kind}").write_bytes(data)
        if (number + 1) % 100 == 0:
            tally.peak_mb = max([tally.peak_mb, *resident_mb()])
        if (number + 1) % CHECKED_EVERY == 0:
            decoded = {kind: outcome_of(pool, data)[1] for kind, data in whole.items()}
            tally.checked += len(decoded)
            tally.unequal += sum(decoded[kind] != expected[kind] for kind in whole)
            print(f"{number + 1}: {len(tally.crashes)} crashes, {tally.peak_mb:.0f} MB", file=sys.stderr)
    return tally


def outcome_of(pool: DecoderPool, data: bytes) -> tuple[str, bytes, list[str]]:
    """Return what becomes of a file, its audio, and what is said of it."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 (the decoder owns it)
    file.write(data)
    try:
        with contextlib.closing(pool.open(file, "damaged")) as audio:
            pcm = b"".join(audio)
    except AudioFileError as error:
        known = format_of(io.BytesIO(data), "") is not None
        return "refused by FFmpeg" if known else "refused by its first bytes", b"", [error.reason]
    except MachineFailure as error:
        return "lost", b"", [str(error)]
    return "decoded" if pcm else "without audio", pcm, [damage.reason for damage in audio.damages]


def resident_mb() -> list[float]:
    """Return the resident memory of this process's children."""
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            found.append(child.memory_info().rss / 1e6)
    return found


if __name__ == "__main__":
    sys.exit(main())
