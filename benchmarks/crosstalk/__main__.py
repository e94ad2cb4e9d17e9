"""Whose words: a call whose channels carry each other, or the same mix, against its script.

    python -m benchmarks.crosstalk [FILE SCRIPT] [--only NAME …] [--set NAME=VALUE …] [--json FILE]

From a two-channel call with a script (the sample call) these copies are made:

| name | what it is |
|---|---|
| `plain` | the call as it is |
| `-10 dB` … `-40 dB` | each channel also carries the other one, that much lower, 30 and 60 ms later, one way inverted |
| `mono` | the sum of both channels, on both |
| `inverted`, `delayed`, `scaled` | the same, the second channel inverted, 80 ms later, or 12 dB lower |

Each goes through the separate, transcribe and merge stages. The table counts the script's words that are written under
who said them (of a mix: written at all), words that are too many, and lines. `before` has every segment of each
channel, as if nothing were attributed. The cost is that of comparing two channels alone.

What it does not show: echoes with a tail, echo cancellers, codecs between the channels.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.harness.command import add_outputs, add_settings, benchmark_parser
from benchmarks.harness.offline import OfflineStages, merged, settings_of, texts_of
from benchmarks.harness.report import write_report
from benchmarks.speech.scoring import Errors, errors
from schemas.calls import DEFAULT_TENANT, CallRef
from schemas.segments import Segment, SegmentRecord
from schemas.status import JobStatus
from schemas.transcripts import TranscriptCompleted
from schemas.utterances import CallOpened, Channel
from stages.separate.crosstalk import CrosstalkMeter
from tests.calls.bad import read_wav
from tests.support.processes.deployment import SAMPLE

Call = NDArray[np.int16]

LEVELS_DB: Final = (-10, -20, -30, -40)
BLOCK_S: Final = 0.5


def parser() -> argparse.ArgumentParser:
    made = benchmark_parser("crosstalk", __doc__)
    made.add_argument("file", nargs="?", type=Path, default=SAMPLE, metavar="FILE", help="a call (the sample call)")
    made.add_argument(
        "script", nargs="?", type=Path, default=SAMPLE.parent / "script.json", metavar="SCRIPT", help="its lines"
    )
    made.add_argument("--only", nargs="+", default=[], metavar="NAME", help="only these copies")
    add_settings(made)
    add_outputs(made)
    return made


def main() -> int:
    given = parser().parse_args()
    lines = msgspec.json.decode(given.script.read_bytes())["lines"]
    samples, rate_hz = read_wav(given.file)
    figures = asyncio.run(measured(samples, rate_hz, lines, given.only, given.set))
    figures["ms_per_s"] = cost_ms_per_s(samples, rate_hz)
    show(figures)
    write_report("crosstalk", figures, given.json, given={"file": given.file.name, "set": given.set}, runs=1)
    return 0


def copies(samples: Call, rate_hz: int) -> dict[str, Callable[[], Call]]:
    """Return what makes each copy, by name."""
    signal = samples.astype(np.float64)
    agent, customer = signal.T
    mix = (agent + customer) / 2

    def leaking(level_db: int) -> Call:
        gain = 10 ** (level_db / 20)
        first = agent + gain * later(customer, 0.06, rate_hz)
        return stacked(first, customer - gain * later(agent, 0.03, rate_hz))

    levels = {f"{level_db} dB": lambda level_db=level_db: leaking(level_db) for level_db in LEVELS_DB}
    return {
        "plain": lambda: samples,
        **levels,
        "mono": lambda: stacked(mix, mix),
        "inverted": lambda: stacked(mix, -mix),
        "delayed": lambda: stacked(mix, later(mix, 0.08, rate_hz)),
        "scaled": lambda: stacked(mix, mix * 10 ** (-12 / 20)),
    }


def later(signal: NDArray[np.float64], by_s: float, rate_hz: int) -> NDArray[np.float64]:
    n = round(by_s * rate_hz)
    return np.concatenate([np.zeros(n), signal[: len(signal) - n]])


def stacked(*channels: NDArray[np.float64]) -> Call:
    return np.clip(np.rint(np.stack(channels, axis=1)), -32768, 32767).astype(np.int16)


async def measured(
    samples: Call, rate_hz: int, lines: Sequence[dict[str, Any]], only: Sequence[str], changes: Sequence[str]
) -> dict[str, Any]:
    figures: dict[str, Any] = {"copies": {}}
    said = [" ".join(line["text"] for line in lines if line["channel"] == channel) for channel in (0, 1)]
    together = " ".join(line["text"] for line in sorted(lines, key=lambda line: line["start_s"]))
    with tempfile.TemporaryDirectory() as folder:
        async with OfflineStages(settings_of(Path(folder), changes)) as stages:
            for name, made in copies(samples, rate_hz).items():
                if only and name not in only:
                    continue
                records = await stages.records_of_call(name, rate_hz, blocks(made(), rate_hz))
                transcript, detail = await transcribed(records)
                segments = [record for record in records if isinstance(record, Segment)]
                is_mix = name in ("mono", "inverted", "delayed", "scaled")
                before = errors(together, said_in(segments)) if is_mix else scored(said, texts_of(segments))
                legs = [" ".join(turn.text for turn in transcript.turns if turn.channel == leg) for leg in (0, 1)]
                whole = " ".join(turn.text for turn in transcript.turns)
                after = errors(together, whole) if is_mix else scored(said, legs)
                figures["copies"][name] = {
                    "before": before.described(),
                    "after": after.described(),
                    "one_channel": transcript.one_channel,
                    "speakers": sorted({turn.speaker for turn in transcript.turns}),
                    "echoes": detail.get("echoes", {"words": 0, "segments": 0}),
                    "turns": [[turn.channel, turn.speaker, turn.text] for turn in transcript.turns],
                    "overlap_s": transcript.metrics.overlap_s,
                }
    return figures


def said_in(segments: Sequence[Segment]) -> str:
    return " ".join(one.text for one in sorted(segments, key=lambda one: (one.start_s, one.channel)))


def scored(said: Sequence[str], written: Sequence[str]) -> Errors:
    return sum((errors(*pair) for pair in zip(said, written, strict=True)), Errors())


async def transcribed(records: Sequence[SegmentRecord]) -> tuple[TranscriptCompleted, dict[str, Any]]:
    """Return the transcript of a call's records, and the detail of merge's last entry in the ledger."""
    opened, *others = records
    assert isinstance(opened, CallOpened)
    opened = msgspec.structs.replace(opened, channels=[Channel(0, "agent"), Channel(1, "customer")])
    made = [output.record for output in await merged(CallRef(DEFAULT_TENANT, "call"), [opened, *others])]
    transcript = [record for record in made if isinstance(record, TranscriptCompleted)][-1]
    return transcript, [record.detail for record in made if isinstance(record, JobStatus)][-1]


def blocks(samples: Call, rate_hz: int) -> Iterator[bytes]:
    step = round(BLOCK_S * rate_hz)
    return (samples[at : at + step].tobytes() for at in range(0, len(samples), step))


def cost_ms_per_s(samples: Call, rate_hz: int) -> float:
    """Return milliseconds of CPU for each second of the call."""
    step = round(BLOCK_S * rate_hz)
    meter = CrosstalkMeter.begin(rate_hz, 2, seq=0, position=0)
    began = time.process_time()
    for seq, at in enumerate(range(0, len(samples), step)):
        meter.take(seq, samples[at : at + step])
        meter.settle(seq + 1, b"", at)
    return 1000 * (time.process_time() - began) / (len(samples) / rate_hz)


def show(figures: dict[str, Any]) -> None:
    print("| copy | words | before: too many | missing | after: too many | missing | echoes | one channel | speakers |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, row in figures["copies"].items():
        cells = [f"{row[when][kind]}" for when in ("before", "after") for kind in ("inserted", "deleted")]
        used = "no" if row["one_channel"] is None else f"channel {row['one_channel']}"
        facts = [str(row["before"]["words"]), *cells, str(row["echoes"]["words"]), used, ", ".join(row["speakers"])]
        print(f"| {name} | {' | '.join(facts)} |")
    print(f"\ncomparing two channels: {figures['ms_per_s']:.2f} ms of CPU for each second of the call")


if __name__ == "__main__":
    sys.exit(main())
