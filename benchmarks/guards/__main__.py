"""Words where nobody spoke, and words that guards took from people who did.

    python -m benchmarks.guards [--calls 30] [--json FILE]

Half an hour of telephone audio without speech (`benchmarks.speech.sounds`: silence, noise, tones, music, clicks) goes
through the separate and transcribe stages: every word that comes out was said by nobody. Most of it is stopped by the
voice activity detector, so pieces of every sound are also given to the transcribe stage as if they were speech, to see
what the guards behind the detector stop.

Then the calls of `benchmarks.speech` go through both stages: a true word is dropped when a guard drops the utterance
it lies in, and unheard when no utterance was cut around it; both are found by the script's times.

What it does not show: music and noises as they are recorded from real lines, and people who sing.
"""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import msgspec

from benchmarks.guards.counts import answered, pieces, taken
from benchmarks.harness.command import add_outputs, add_settings, benchmark_parser
from benchmarks.harness.offline import Hearing, settings_of
from benchmarks.harness.report import write_report
from benchmarks.speech.corpus import FOLDER, N_CALLS, SEED, Corpus, corpus
from benchmarks.speech.sounds import calls as sounds
from benchmarks.speech.telephone import RATE_HZ

BLOCK_FRAMES: Final = RATE_HZ // 2


def parser() -> argparse.ArgumentParser:
    made = benchmark_parser("guards", __doc__)
    made.add_argument("--calls", type=int, default=N_CALLS, help=f"script-truth calls; 0 for none ({N_CALLS})")
    made.add_argument("--seed", type=int, default=SEED, help=f"of sounds and calls ({SEED})")
    add_settings(made)
    add_outputs(made)
    return made


def main() -> int:
    given = parser().parse_args()
    spoken = corpus(FOLDER, n_calls=given.calls, seed=given.seed) if given.calls else None
    figures = asyncio.run(measured(spoken, given.seed, given.set))
    show(figures)
    sent = {"minutes_of_sounds": figures["minutes"], "calls": given.calls, "seed": given.seed}
    write_report("guards", figures, given.json, given=sent, runs=1)
    return 0


async def measured(spoken: Corpus | None, seed: int, changes: list[str]) -> dict[str, Any]:
    figures: dict[str, Any] = {"settings": changes, "sounds": {}, "as_speech": {}}
    with tempfile.TemporaryDirectory() as folder:
        async with Hearing(settings_of(Path(folder), changes)) as hearing:
            for name, pcm in sounds(seed).items():
                blocks = (pcm[at : at + BLOCK_FRAMES].tobytes() for at in range(0, len(pcm), BLOCK_FRAMES))
                segments = await hearing.hear(name, RATE_HZ, blocks)
                figures["sounds"][name] = {"seconds": 2 * len(pcm) / RATE_HZ, **answered(segments)}
                segments = await hearing.transcribe(name, pieces(pcm), RATE_HZ)
                figures["as_speech"][name] = answered(segments)
            if spoken is not None:
                heard = await hearing.hear_files([spoken.path(call) for call in spoken.calls])
                figures["speech"] = taken(spoken.calls, heard) | {"input": spoken.described()}
    figures["words_as_speech"] = sum(one["words"] for one in figures["as_speech"].values())
    figures["words"] = sum(one["words"] for one in figures["sounds"].values())
    figures["minutes"] = round(sum(one["seconds"] for one in figures["sounds"].values()) / 60, 1)
    return figures


def show(figures: dict[str, Any]) -> None:
    print(
        "| sound | minutes | utterances | words | given as speech | dropped by | words |\n|---|---|---|---|---|---|---|"
    )
    for name, one in figures["sounds"].items():
        forced = figures["as_speech"][name]
        by = ", ".join(f"{guard} {count}" for guard, count in forced["guards"].items()) or "–"
        row = [name, f"{one['seconds'] / 60:.1f}", one["utterances"], one["words"], forced["utterances"], by]
        print("| " + " | ".join(map(str, [*row, forced["words"]])) + " |")
        for text in (*one["texts"], *forced["texts"]):
            print(f"  said by nobody: {msgspec.json.encode(text).decode()}")
    print(f"{figures['words']} words in {figures['minutes']} minutes in which nobody speaks")
    print(f"{figures['words_as_speech']} words in pieces of it that were given as speech")
    if "speech" in figures:
        one = figures["speech"]
        print(f"of {one['words']} true words {one['dropped_percent']} % were dropped ({one['dropped'] or 'none'})")
        print(f"and {one['unheard_percent']} % lie in no utterance")


if __name__ == "__main__":
    sys.exit(main())
