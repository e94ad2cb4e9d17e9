"""Calls whose every word is known, made once from a seed and kept in a folder.

A call is a WAV file with two legs (8 kHz, through G.711 μ-law) and a JSON file of its words with their times. Variants:

- `clean`: only the faint noise of a line.
- `noise`: pink noise in the telephone's band on both legs, 15 dB below speech.
- `overlap`: speakers interrupt each other and say "yes" while they listen; each leg carries an echo of the other, 36 dB
  below speech.
"""

import hashlib
import random
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.speech.script import CUSTOMER, ROLES, SETTINGS, ScriptLine, ScriptWriter, drawn_key
from benchmarks.speech.telephone import (
    RATE_HZ,
    Float,
    coded,
    echo,
    line_noise,
    surroundings,
    telephone_voice,
)
from benchmarks.speech.voice import Spoken, Voice

Variant = Literal["clean", "noise", "overlap"]
VARIANTS: Final[tuple[Variant, ...]] = ("clean", "noise", "overlap")

N_CALLS: Final = 30
WORDS_PER_CALL: Final = 170
SEED: Final = 1
SNR_DB: Final = 15.0
FOLDER: Final = Path("~/.cache/callstream/speech").expanduser()

_FORM: Final = 1
"""To be increased when this module makes other calls from the same sentences."""

_PITCHES: Final = ((0.95, 1.0), (0.9, 1.1, 1.15))
"""Pitch factors of agents and of customers. Beyond these the voice no longer sounds human."""
_LENGTHS: Final = (0.92, 1.0, 1.08)


class TruthWord(msgspec.Struct, frozen=True):
    """A word of the script and when it is said; None if the voice does not tell."""

    text: str
    start_s: float | None
    end_s: float | None


class TruthLine(msgspec.Struct, frozen=True):
    """A line spoken in one go. The times are those of its audio, which includes at most some 50 ms of silence."""

    channel: int
    start_s: float
    end_s: float
    text: str
    words: list[TruthWord]


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A call. `file`: its WAV; `sha256`: the digest of its samples; `voices`: who speaks on each leg.

    `language` is that of the call, `languages` those of its lines where they differ.
    """

    name: str
    file: str
    variant: str
    duration_s: float
    sha256: str
    lines: list[TruthLine]
    language: str = "en"
    languages: list[str] = []
    voices: list[str] = []

    def said(self, channel: int) -> str:
        return " ".join(line.text for line in self.lines if line.channel == channel)

    def word_times(self) -> Iterator[tuple[int, float]]:
        """Yield channel and middle of each word. Unknown times follow from the word's position in its line."""
        for line in self.lines:
            for index, word in enumerate(line.words):
                if word.start_s is not None and word.end_s is not None:
                    yield line.channel, (word.start_s + word.end_s) / 2
                else:
                    yield line.channel, line.start_s + (index + 0.5) / len(line.words) * (line.end_s - line.start_s)

    @property
    def n_words(self) -> int:
        return sum(len(line.words) for line in self.lines)


class Corpus(msgspec.Struct, frozen=True):
    """Calls in a folder."""

    folder: Path
    calls: list[Call]

    def path(self, call: Call) -> Path:
        return self.folder / call.file

    def of(self, variant: str) -> "Corpus":
        return Corpus(self.folder, [call for call in self.calls if call.variant == variant])

    @property
    def audio_s(self) -> float:
        """Seconds of both legs together."""
        return sum(call.duration_s for call in self.calls) * len(ROLES)

    @property
    def sha256(self) -> str:
        """Digest of all samples: the same on two machines that use the same calls."""
        return hashlib.sha256("".join(call.sha256 for call in self.calls).encode()).hexdigest()

    def described(self) -> dict[str, Any]:
        """Return a description for reports."""
        return {
            "calls": len(self.calls),
            "variants": {variant: len(self.of(variant).calls) for variant in VARIANTS},
            "words": sum(call.n_words for call in self.calls),
            "channel_s": round(self.audio_s, 1),
            "speech_s": round(sum(line.end_s - line.start_s for call in self.calls for line in call.lines), 1),
            "sha256": self.sha256[:16],
        }


def corpus(
    folder: Path = FOLDER,
    *,
    n_calls: int = N_CALLS,
    seed: int = SEED,
    on_progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> Corpus:
    """Return the first `n_calls` calls of `seed`. Missing ones are made, some 10 CPU seconds each with piper.

    `on_progress(done, total)` is called before each call that is made.
    """
    made = folder / drawn_key(_FORM, seed, WORDS_PER_CALL)
    made.mkdir(parents=True, exist_ok=True)
    writer = ScriptWriter(seed)
    calls = []
    for number in range(n_calls):
        variant = VARIANTS[number % len(VARIANTS)]
        setting = SETTINGS[number // len(VARIANTS) % len(SETTINGS)]
        script = writer.write(setting, WORDS_PER_CALL, backchannels=variant == "overlap")
        truth = made / f"{number:02}-{setting}-{variant}.json"
        if not truth.exists():
            on_progress(number, n_calls)
            _make(truth, script, variant, seed * 1000 + number)
        calls.append(msgspec.json.decode(truth.read_bytes(), type=Call))
    return Corpus(made, calls)


def _make(truth: Path, script: list[ScriptLine], variant: Variant, seed: int) -> None:
    pcm, lines = _spoken(script, Voice(seed), variant, seed)
    keep(truth, pcm, lines, variant)


def keep(truth: Path, pcm: NDArray[np.int16], lines: list[TruthLine], variant: str, **about: Any) -> None:
    """Write a call, shape (n_samples,) or (n_samples, n_channels) at 8 kHz, and then its truth, which completes it.

    `about`: further fields of the `Call`.
    """
    sound = truth.with_suffix(".wav")
    with wave.open(str(sound), "wb") as file:
        file.setparams((1 if pcm.ndim == 1 else pcm.shape[1], 2, RATE_HZ, 0, "NONE", ""))
        file.writeframes(pcm.astype("<i2").tobytes())
    call = Call(
        name=truth.stem,
        file=sound.name,
        variant=variant,
        duration_s=len(pcm) / RATE_HZ,
        sha256=hashlib.sha256(pcm.tobytes()).hexdigest(),
        lines=lines,
        **about,
    )
    truth.write_bytes(msgspec.json.encode(call))


def _spoken(
    script: list[ScriptLine], voice: Voice, variant: Variant, seed: int
) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.int16]], list[TruthLine]]:
    """Return the call as int16, shape (n_samples, 2), and its truth."""
    rng = random.Random(seed)
    pitches, lengths = [rng.choice(_PITCHES[c]) for c in (0, 1)], [rng.choice(_LENGTHS) for _ in (0, 1)]

    def say(line: ScriptLine) -> tuple[Float, list[TruthWord]]:
        pitch = pitches[line.channel]
        return said(voice.say(line.text, lengths[line.channel] * pitch), voice.rate_hz, pitch, rng)

    legs, lines = laid_out(script, say, variant, rng)
    noise = np.random.default_rng(seed)
    heard = [leg + line_noise(len(leg), noise) for leg in legs]
    if variant == "noise":
        heard = [leg + surroundings(len(leg), SNR_DB, noise) for leg in heard]
    elif variant == "overlap":
        heard = [leg + echo(other) for leg, other in zip(heard, reversed(legs), strict=True)]
    return np.stack([coded(leg) for leg in heard], axis=1), lines


def laid_out(
    script: list[ScriptLine],
    say: Callable[[ScriptLine], tuple[Float, list[TruthWord]]],
    variant: Variant,
    rng: random.Random,
) -> tuple[list[Float], list[TruthLine]]:
    """Lay the lines of a script out as a call: its legs, of one length, with nothing but the voices, and its truth.

    `say` returns a line's audio at 8 kHz and its words in seconds from the line's start. In `overlap` speakers
    interrupt each other.
    """
    placed: list[tuple[int, int, Float]] = []
    lines: list[TruthLine] = []
    start, end = 0, int(0.8 * RATE_HZ)
    free = [0, 0]
    for line in script:
        channel = line.channel
        audio, words = say(line)
        if line.manner == "backchannel":
            at = start + int((end - start) * rng.uniform(0.3, 0.7))
        else:
            at = end + int(_gap_s(channel, variant, rng) * RATE_HZ)
        at = max(at, free[channel])
        lines.append(
            TruthLine(
                channel,
                round(at / RATE_HZ, 4),
                round((at + len(audio)) / RATE_HZ, 4),
                line.text,
                [_moved(word, at / RATE_HZ) for word in words],
            )
        )
        placed.append((channel, at, audio))
        free[channel] = at + len(audio) + int(0.3 * RATE_HZ)
        if line.manner == "turn":
            start, end = at, at + len(audio)
    n_samples = max(at + len(audio) for _, at, audio in placed) + RATE_HZ
    legs = [np.zeros(n_samples), np.zeros(n_samples)]
    for channel, at, audio in placed:
        legs[channel][at : at + len(audio)] += audio
    return legs, lines


def _gap_s(channel: int, variant: Variant, rng: random.Random) -> float:
    """Return the seconds between two turns: mostly short, sometimes a hold, in `overlap` often negative."""
    if variant == "overlap" and rng.random() < 0.4:
        return rng.uniform(-1.2, -0.2)
    if channel != CUSTOMER and rng.random() < 0.08:
        return rng.uniform(3.0, 7.0)
    return rng.uniform(0.25, 1.3)


def said(parts: list[Spoken], rate_hz: int, pitch: float, rng: random.Random) -> tuple[Float, list[TruthWord]]:
    """Return a line's audio, with short pauses between sentences, and its words in seconds from the line's start."""
    pieces: list[Float] = []
    words: list[TruthWord] = []
    at = 0
    for part in parts:
        if pieces:
            pause = np.zeros(int(rng.uniform(0.12, 0.45) * RATE_HZ))
            pieces.append(pause)
            at += len(pause)
        piece = telephone_voice(part.audio, rate_hz, pitch)
        for word in part.words:
            if word.span is None:
                words.append(TruthWord(word.text, None, None))
            else:
                start_s, end_s = (at / RATE_HZ + edge / (rate_hz * pitch) for edge in word.span)
                words.append(TruthWord(word.text, start_s, end_s))
        pieces.append(piece)
        at += len(piece)
    return np.concatenate(pieces), words


def _moved(word: TruthWord, by_s: float) -> TruthWord:
    if word.start_s is None or word.end_s is None:
        return word
    return TruthWord(word.text, round(word.start_s + by_s, 4), round(word.end_s + by_s, 4))
