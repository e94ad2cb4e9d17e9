"""Words of known calls that lie in no utterance, and sounds without speech that do.

    python -m benchmarks.detection [FOLDER…] [--minutes 20] [--seed 2] [--json FILE]

A FOLDER holds calls whose words are known, as `benchmarks.speech` makes them (its first twelve without FOLDER). Each
call's legs pass through conditions of a line (`benchmarks.detection.conditions`), and then through the separate stage's
detection and endpointing alone. Nothing is decoded.

| figure | what it is |
|---|---|
| lost | share of the words whose middle lies in no utterance |
| clipped | share of the words that begin over 30 ms before the audio of the utterance around their middle |
| unvoiced | share of the words whose middle lies in an utterance and over 0.1 s from every voiced stretch of it |
| silence | share of the time over 0.5 s from every line that is voiced |

A word without a time gets one from its position in its line, moved to the nearest moment that is not silent.

Then half an hour of sounds without speech (`benchmarks.speech.sounds`): the share of it that lies in utterances, which
the transcribe stage has to decode.

What it does not show: the words that the decoder makes of it (`benchmarks.heard`).
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from benchmarks.detection.conditions import CONDITIONS, heard
from benchmarks.harness.command import add_outputs, benchmark_parser
from benchmarks.harness.report import write_report
from benchmarks.speech.corpus import Call, corpus
from benchmarks.speech.sounds import calls as sounds
from benchmarks.speech.telephone import RATE_HZ, Float
from stages.separate.channel import ChannelSeparator
from stages.separate.codecs import Samples
from stages.separate.endpointing import EndpointingSettings
from stages.separate.packs import Speech
from stages.separate.speech import VoiceActivityModel, load_voice_activity_model
from tests.calls import bad

DEFAULT_CALLS: Final = 12
CHUNK: Final = RATE_HZ // 2
CLIPPED_S: Final = 0.03
NEAR_S: Final = 0.1
FAR_S: Final = 0.5
_STEP: Final = RATE_HZ // 100

Span = tuple[float, float]


def parser() -> argparse.ArgumentParser:
    made = benchmark_parser("detection", __doc__)
    made.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="calls whose words are known")
    made.add_argument("--minutes", type=float, default=20.0, help="of legs, from each folder and condition (20)")
    made.add_argument("--conditions", nargs="+", choices=CONDITIONS, default=list(CONDITIONS), help="only these")
    made.add_argument("--seed", type=int, default=2, help="seed of noises and sounds (2)")
    add_outputs(made)
    return made


def main() -> int:
    given = parser().parse_args()
    folders = given.folders or [corpus(n_calls=DEFAULT_CALLS).folder]
    model = load_voice_activity_model()
    began, figures = time.process_time(), dict[str, Any]()
    for folder in folders:
        calls = list(_calls(folder, 60 * given.minutes))
        figures[folder.name] = {
            condition: _over(model, folder, calls, condition, given.seed) for condition in given.conditions
        }
        show(folder.name, figures[folder.name])
    figures["sounds"] = {name: _in_utterances(model, pcm) for name, pcm in sounds(given.seed).items()}
    seconds, of_s = (sum(one[key] for one in figures["sounds"].values()) for key in ("uttered_s", "seconds"))
    for name, one in figures["sounds"].items():
        if one["uttered_s"]:
            print(f"{name}: {one['uttered_s']:.1f} s of {one['seconds']:.0f} s in {one['utterances']} utterances")
    print(f"sounds without speech: {seconds:.1f} s of {of_s:.0f} s in utterances")
    figures["cpu_s"] = round(time.process_time() - began, 1)
    write_report("detection", figures, given.json, given={"minutes": given.minutes, "seed": given.seed}, runs=1)
    return 0


def show(folder: str, rows: dict[str, Any]) -> None:
    print(f"\n{folder}: {rows[next(iter(rows))]['words']} words\n")
    print("| condition | lost | clipped | unvoiced | silence |\n|---|---|---|---|---|")
    for condition, row in rows.items():
        cells = [f"{row[key]:.2f} %" for key in ("lost", "clipped", "unvoiced", "silence")]
        print("| " + " | ".join([condition, *cells]) + " |", flush=True)


def _calls(folder: Path, seconds: float) -> Iterator[Call]:
    """Yield calls, evenly spread over the folder, until they have this many seconds of legs."""
    truths = sorted(folder.glob("*.json"))
    step = max(1, len(truths) // max(1, round(seconds / 300)))
    for path in [path for first in range(step) for path in truths[first::step]]:
        if seconds <= 0:
            return
        call = msgspec.json.decode(path.read_bytes(), type=Call)
        seconds -= 2 * call.duration_s
        yield call


def _over(
    model: VoiceActivityModel, folder: Path, calls: Sequence[Call], condition: str, seed: int
) -> dict[str, float]:
    counts = Counter[str]()
    for number, call in enumerate(calls):
        pcm, _ = bad.read_wav(folder / call.file)
        legs = pcm.T.astype(np.float64) / 32768
        for index, leg in enumerate(legs):
            other = legs[1 - index] if len(legs) > 1 else np.zeros(len(leg))
            found = separated(model, heard(leg, other, condition, seed * 1000 + number))
            counts += _counted(call, index, leg, found)
    words = counts["words"]
    shares = {key: round(100 * counts[key] / words, 3) for key in ("lost", "clipped", "unvoiced")}
    return {"words": words, **shares, "silence": round(100 * counts["voiced silence"] / max(1, counts["silence"]), 2)}


def separated(model: VoiceActivityModel, samples: Samples) -> list[Speech]:
    channel = ChannelSeparator(RATE_HZ, model, EndpointingSettings())
    found: list[Speech] = []
    for first in range(0, len(samples), CHUNK):
        channel.take(samples[first : first + CHUNK])
        found += channel.run()
    return found + channel.finish()


def _counted(call: Call, channel: int, leg: Float, found: Sequence[Speech]) -> Counter[str]:
    counts = Counter[str]()
    spans = [_span(speech) for speech in found]
    voiced = [stretch for speech in found for stretch in speech.voiced]
    for start_s, middle_s in _word_times(call, channel, leg):
        counts["words"] += 1
        around = [span for span in spans if span[0] <= middle_s <= span[1]]
        if not around:
            counts["lost"] += 1
        elif start_s is not None and start_s < min(first for first, _ in around) - CLIPPED_S:
            # Not where the utterance before it ends there: a cut between two words loses nothing.
            counts["clipped"] += not any(span[0] <= start_s <= span[1] + CLIPPED_S for span in spans)
        if around and not any(first - NEAR_S <= middle_s <= last + NEAR_S for first, last in voiced):
            counts["unvoiced"] += 1
    silent = np.ones(len(leg) // _STEP, bool)
    for line in call.lines:
        if line.channel == channel:
            silent[_steps(line.start_s - FAR_S) : _steps(line.end_s + FAR_S)] = False
    said = np.zeros(len(silent), bool)
    for first, last in voiced:
        said[_steps(first) : _steps(last)] = True
    counts["silence"], counts["voiced silence"] = int(silent.sum()), int((silent & said).sum())
    return counts


def _word_times(call: Call, channel: int, leg: Float) -> Iterator[tuple[float | None, float]]:
    """Yield the start, where it is known, and the middle of each word."""
    for line in call.lines:
        if line.channel != channel:
            continue
        first = _steps(line.start_s)
        part = leg[first * _STEP : max(first + 1, _steps(line.end_s)) * _STEP]
        level = np.square(part[: len(part) // _STEP * _STEP].reshape(-1, _STEP)).mean(axis=1)
        loud = np.flatnonzero(level >= level.max() / 300) if len(level) else np.zeros(1, int)
        for index, word in enumerate(line.words):
            if word.start_s is not None and word.end_s is not None:
                yield word.start_s, (word.start_s + word.end_s) / 2
            else:
                guess = (index + 0.5) / len(line.words) * len(level)
                nearest = loud[np.abs(loud - guess).argmin()]
                start_s = (first + loud[0]) * _STEP / RATE_HZ if index == 0 else None
                yield start_s, (first + nearest + 0.5) * _STEP / RATE_HZ


def _span(speech: Speech) -> Span:
    return speech.first_sample / RATE_HZ, (speech.first_sample + len(speech.pcm) // 2) / RATE_HZ


def _steps(seconds: float) -> int:
    return max(0, round(seconds * RATE_HZ / _STEP))


def _in_utterances(model: VoiceActivityModel, pcm: Samples) -> dict[str, float]:
    found = [speech for leg in pcm.T for speech in separated(model, leg)]
    uttered = sum(last - first for first, last in map(_span, found))
    return {"seconds": pcm.size / RATE_HZ, "uttered_s": round(uttered, 2), "utterances": len(found)}


if __name__ == "__main__":
    sys.exit(main())
