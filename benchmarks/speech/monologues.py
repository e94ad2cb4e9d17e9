"""Speech of 30 to 60 s without a pause at which an utterance could end.

Sentences of the scripts' stories and explanations are joined so closely that mostly hard cuts divide them. Every second
monologue has noise 15 dB below speech. Sentences with words that another spelling would join or split ("fifteen
dollars", "don't") are left out, so that each compared word has a time.
"""

import itertools
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.speech.corpus import Call, Corpus, TruthLine, TruthWord, Variant, keep
from benchmarks.speech.script import ScriptWriter, drawn_key
from benchmarks.speech.telephone import RATE_HZ, Float, coded, line_noise, surroundings, telephone_voice
from benchmarks.speech.voice import Spoken, Voice
from tests.calls.wording import comparable

N_MONOLOGUES: Final = 24
LENGTH_S: Final = (30.0, 60.0)
PAUSE_S: Final = (0.02, 0.15)
"""Pauses between sentences."""
INNER_PAUSE_S: Final = 0.1
"""Longer pauses inside sentences are shortened to this."""
SNR_DB: Final = 15.0
VARIANTS: Final[tuple[Variant, ...]] = ("clean", "noise")

_FORM: Final = 1
_PITCHES: Final = (0.9, 0.95, 1.0, 1.1, 1.15)
_LENGTHS: Final = (0.92, 1.0, 1.08)
_SILENT: Final = 0.02
"""Share of the loudest sample: quieter edges of a sentence are cut off."""


def monologues(
    folder: Path,
    *,
    n: int = N_MONOLOGUES,
    seed: int = 1,
    on_progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> Corpus:
    """Return the first `n` monologues of `seed`, on one leg each. Missing ones are made, as by `corpus.corpus`."""
    made = folder / f"monologues-{drawn_key(_FORM, seed, LENGTH_S, PAUSE_S, INNER_PAUSE_S, SNR_DB)}"
    made.mkdir(parents=True, exist_ok=True)
    sentences = _sentences(ScriptWriter(seed))
    calls = []
    for number in range(n):
        rng = random.Random(seed * 1000 + number)
        variant = VARIANTS[number % len(VARIANTS)]
        length_s = rng.uniform(*LENGTH_S)
        texts = [next(sentences) for _ in range(int(length_s / 2))]  # more than needed
        truth = made / f"{number:02}-monologue-{variant}.json"
        if not truth.exists():
            on_progress(number, n)
            _make(truth, texts, length_s, variant, rng)
        calls.append(msgspec.json.decode(truth.read_bytes(), type=Call))
    return Corpus(made, calls)


def _sentences(writer: ScriptWriter) -> Iterator[str]:
    while True:
        for sentence in re.split(r"(?<=[.?!]) ", writer.monologue()):
            if len(comparable(sentence).split()) == len(sentence.split()) > 3:
                yield sentence


def _make(truth: Path, texts: list[str], length_s: float, variant: Variant, rng: random.Random) -> None:
    seed = rng.randrange(1 << 30)
    pitch, length, voice = rng.choice(_PITCHES), rng.choice(_LENGTHS), Voice(seed)
    pieces: list[Float] = [np.zeros(RATE_HZ)]
    lines: list[TruthLine] = []
    for text in texts:
        at = sum(map(len, pieces))
        if at >= length_s * RATE_HZ:
            break
        (spoken,) = voice.say(text, length * pitch)
        audio, words = _trimmed(spoken, voice.rate_hz, pitch, at)
        lines.append(TruthLine(0, round(at / RATE_HZ, 4), round((at + len(audio)) / RATE_HZ, 4), text, words))
        pieces += [audio, np.zeros(int(rng.uniform(*PAUSE_S) * RATE_HZ))]
    leg = np.concatenate([*pieces, np.zeros(RATE_HZ)])
    noise = np.random.default_rng(seed)
    leg = leg + (line_noise(len(leg), noise) if variant == "clean" else surroundings(len(leg), SNR_DB, noise))
    keep(truth, coded(leg), lines, variant)


def _trimmed(spoken: Spoken, rate_hz: int, pitch: float, at: int) -> tuple[Float, list[TruthWord]]:
    """Return a sentence without silence and long pauses, and its words in seconds from the monologue's start."""
    audio = telephone_voice(spoken.audio, rate_hz, pitch)
    kept = fluent(audio)
    before = np.concatenate([[0], np.cumsum(kept)])
    words = []
    for word in spoken.words:
        if word.span is None:
            words.append(TruthWord(word.text, None, None))
            continue
        edges = (min(int(edge / (rate_hz * pitch) * RATE_HZ), len(audio)) for edge in word.span)
        start_s, end_s = (round((at + int(before[edge])) / RATE_HZ, 4) for edge in edges)
        words.append(TruthWord(word.text, start_s, end_s))
    return audio[kept], words


def fluent(audio: Float) -> NDArray[np.bool_]:
    """Return a mask, shape (n,), of all but silence at the edges and the middle of pauses over `INNER_PAUSE_S`."""
    block, half = RATE_HZ // 100, int(INNER_PAUSE_S / 2 * RATE_HZ)
    n_blocks = -(-len(audio) // block)
    loudest = np.abs(np.pad(audio, (0, n_blocks * block - len(audio)))).reshape(-1, block).max(axis=1)
    loud = np.flatnonzero(loudest > _SILENT * loudest.max())
    kept = np.zeros(len(audio), bool)
    kept[loud[0] * block : (loud[-1] + 1) * block] = True
    for before, behind in itertools.pairwise(loud):
        kept[(before + 1) * block + half : max(0, behind * block - half)] = False
    return kept
