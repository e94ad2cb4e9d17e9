"""Words transcribed where nobody spoke, and true words that guards dropped.

    python -m benchmarks.guards [--calls 30] [--json FILE]

Half an hour of telephone audio without speech (`benchmarks.speech.sounds`: silence, noise, tones, music, clicks) goes
through the separate and transcribe stages: every word that comes out is an error. The voice activity detector stops
most of it, so pieces of every sound are also given to the transcribe stage as if they were speech: that measures the
guards after the detector.

Then the calls of `benchmarks.speech` go through both stages. By the script's times, a true word counts as dropped when
a guard drops its utterance, and as unheard when it lies in no utterance.

What it does not show: music and noise recorded from real lines, people who sing.
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
from benchmarks.harness.offline import OfflineStages, settings_of
from benchmarks.harness.report import write_report
from benchmarks.speech.corpus import FOLDER, N_CALLS, SEED, Corpus, corpus
from benchmarks.speech.sounds import calls as sounds
from benchmarks.speech.telephone import RATE_HZ

BLOCK_FRAMES: Final = RATE_HZ // 2


def parser() -> argparse.ArgumentParser:
    made = benchmark_parser("guards", __doc__)
    made.add_argument("--calls", type=int, default=N_CALLS, help=f"script-truth calls; 0 for none ({N_CALLS})")
    made.add_argument("--seed", type=int, default=SEED, help=f"seed of sounds and calls ({SEED})")
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
        async with OfflineStages(settings_of(Path(folder), changes)) as stages:
            for name, pcm in sounds(seed).items():
                blocks = (pcm[at : at + BLOCK_FRAMES].tobytes() for at in range(0, len(pcm), BLOCK_FRAMES))
                segments = await stages.transcribe_call(name, RATE_HZ, blocks)
                figures["sounds"][name] = {"seconds": 2 * len(pcm) / RATE_HZ, **answered(segments)}
                segments = await stages.transcribe_utterances(name, pieces(pcm), RATE_HZ)
                figures["as_speech"][name] = answered(segments)
            if spoken is not None:
                heard = await stages.transcribe_files([spoken.path(call) for call in spoken.calls])
                figures["speech"] = taken(spoken.calls, heard) | {"input": spoken.described()}
    figures["words_as_speech"] = sum(one["words"] for one in figures["as_speech"].values())
    figures["words"] = sum(one["words"] for one in figures["sounds"].values())
    figures["decoded_s"] = round(sum(one["decoded_s"] for one in figures["sounds"].values()), 1)
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
            print(f"  spoken by nobody: {msgspec.json.encode(text).decode()}")
    decoded = f"{figures['decoded_s']} s of them reached the decoder"
    print(f"{figures['words']} words in {figures['minutes']} minutes in which nobody speaks; {decoded}")
    print(f"{figures['words_as_speech']} words in pieces of it that were given to the transcriber as speech")
    if "speech" in figures:
        one = figures["speech"]
        print(f"of {one['words']} true words {one['dropped_percent']} % were dropped ({one['dropped'] or 'none'})")
        print(f"and {one['unheard_percent']} % lie in no utterance")


if __name__ == "__main__":
    sys.exit(main())
