"""Sets of recordings with their references: a corpus under a condition, written as files."""

import hashlib
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import soxr

from benchmarks.heard.clips import Samples
from benchmarks.heard.conditions import applied
from benchmarks.heard.references import Recording, of_call, of_recording, of_stm_recording, read_channels
from benchmarks.speech.corpus import Corpus
from benchmarks.speech.telephone import RATE_HZ

FOLDER: Final = Path("~/.cache/callstream/heard/conditions").expanduser()
OTHERS: Final = 8
"""Legs of other calls that babble is drawn from."""


class Set(msgspec.Struct, frozen=True, kw_only=True):
    """Recordings that are measured together. `language`: None to have it detected."""

    name: str
    corpus: str
    condition: str
    language: str | None
    recordings: list[Recording]
    duration_s: list[float]
    sha256: str

    @property
    def channels(self) -> int:
        return len(self.recordings[0].legs)

    @property
    def channel_s(self) -> float:
        return sum(self.duration_s) * self.channels


def under(corpus: str, calls: Corpus, condition: str, *, language: str | None = "en", folder: Path = FOLDER) -> Set:
    """Return the calls of a corpus under a condition; the files are made if they are missing."""
    place = folder / f"{corpus}-{calls.sha256[:8]}-{condition}".replace(" ", "-").replace(",", "")
    place.mkdir(parents=True, exist_ok=True)
    dry = {call.name: read_channels(calls.path(call))[0] for call in calls.calls}
    recordings, digest = [], hashlib.sha256()
    for call in calls.calls:
        path = place / f"{call.name}.wav"
        if not path.exists():
            others = [leg for name, legs in dry.items() if name != call.name for leg in legs if leg.any()][:OTHERS]
            write(path, applied(condition, call.name, dry[call.name], others or dry[call.name]))
        digest.update(path.read_bytes())
        recordings.append(Recording(name=call.name, file=str(path), legs=of_call(call, dry[call.name])))
    return Set(
        name=f"{corpus}/{condition}",
        corpus=corpus,
        condition=condition,
        language=language,
        recordings=recordings,
        duration_s=[call.duration_s for call in calls.calls],
        sha256=digest.hexdigest(),
    )


def of_files(name: str, files: Sequence[Path], folder: Path, *, language: str | None = "en") -> Set:
    """Return the channels of all files as one recording of which nobody wrote down what is said."""
    channels: list[Samples] = []
    for path in files:
        found, rate_hz = read_channels(path)
        if rate_hz != RATE_HZ:
            raise SystemExit(f"{path} has {rate_hz} Hz, not {RATE_HZ}")
        channels += found
    longest = max(map(len, channels))
    legs = [np.pad(one, (0, longest - len(one))) for one in channels]
    path = folder / f"{name}.wav"
    write(path, legs)
    return Set(
        name=name,
        corpus=name,
        condition="as it is",
        language=language,
        recordings=[Recording(name=name, file=str(path), legs=[of_recording(leg, language or "en") for leg in legs])],
        duration_s=[longest / RATE_HZ],
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    )


def of_stm_file(path: Path, stm: Path, *, language: str | None = "en") -> Set:
    """Return a recording with one channel and its STM reference."""
    [samples, *_], rate_hz = read_channels(path)
    narrow = soxr.resample(samples, rate_hz, RATE_HZ)
    leg = of_stm_recording(stm.read_text(encoding="utf-8"), narrow)
    return Set(
        name=path.stem,
        corpus=path.stem,
        condition="as it is",
        language=language,
        recordings=[Recording(name=path.stem, file=str(path), legs=[leg])],
        duration_s=[len(samples) / rate_hz],
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    )


def every(calls: Corpus, n_calls: int | None) -> Corpus:
    """Return `n_calls` of a corpus, spread over it."""
    if n_calls is None or n_calls >= len(calls.calls):
        return calls
    chosen = [calls.calls[index * len(calls.calls) // n_calls] for index in range(n_calls)]
    return Corpus(calls.folder, chosen)


def write(path: Path, legs: Sequence[Samples]) -> None:
    whole = path.with_suffix(".part")
    with wave.open(str(whole), "wb") as file:
        file.setparams((len(legs), 2, RATE_HZ, 0, "NONE", ""))
        file.writeframes(np.stack(legs, axis=1).astype("<i2").tobytes())
    whole.rename(path)
