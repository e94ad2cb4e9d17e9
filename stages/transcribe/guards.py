"""Guards against text that nobody said: Whisper transcribes silence, tones and line noise as stock phrases.

The voice activity detector is the first guard; these look at the decoder's output. What they would drop of a shorter
window, the engine decodes in the full one first, and they judge that (`engine.doubts`).

Whisper's own rule (no-speech from 0.6 and log probability below -1) misses most of it: digital zeros gave "you",
ringback "Beep!", touch tones "Okay.", line noise "Thank you.", silence "Thanks for watching.".
"""

import re
import zlib
from collections.abc import Sequence
from typing import Final, Protocol

import msgspec

from schemas.segments import Word

MIN_VOICED_S: Final = 0.2
"""Less speech than this is a click or a breath: no word is shorter."""

MAX_COMPRESSION: Final = 2.2
"""Text that zlib compresses by more than this factor repeats itself; OpenAI's Whisper uses 2.4 on longer texts."""

_REPEATED_PHRASE: Final = re.compile(r"(?:\b(\w+(?:\W+\w+){2,}?)\W+\1\b)|(?:\b(\w+(?:\W+\w+)?)(?:\W+\2\b){3,})")
"""Three or more words repeated at once, or one or two four times in a row."""

STOCK_PHRASES: Final = frozenset(
    {
        "beep",
        "bye",
        "bye bye",
        "hmm",
        "mm hmm",
        "music",
        "oh",
        "okay",
        "please subscribe",
        "so",
        "subtitles by the amara org community",
        "thank you",
        "thank you for watching",
        "thank you so much for watching",
        "thank you very much",
        "thanks for watching",
        "the end",
        "you",
    }
)
"""Whisper's usual text for sounds that are no speech, without case and punctuation.

Sources: our own runs on zeros, tones, ringback and noise; Koenecke et al. 2024, "Careless Whisper"; Barański et al.
2025, "Investigation of Whisper ASR Hallucinations Induced by Non-Speech Audio" ("thank you", "thanks for watching",
"so", "bye", …).
"""

_SURE_NO_SPEECH: Final = 0.8
_LIKELY_NO_SPEECH: Final = 0.6
_POSSIBLE_NO_SPEECH: Final = 0.4
_SHORT_S: Final = 0.5
_LOW_LOGPROB: Final = -0.7
POOR_LOGPROB: Final = -1.0
"""Below this the model doubts its text, as in Whisper's own rule."""
_POOR_PROBABILITY: Final = 0.35

# Tones, music and breaths, decoded as if they were speech, gave few words for their length, with mean probabilities of
# 0.003 to 0.37 (two thirds below 0.15). Of 877 utterances with words, from synthetic calls with noise and a real call,
# none is as improbable, and none as sparse at such a probability. Humming gave "Hmm Hmm" at 0.16, as likely no speech
# as speech.
_GUESSED_PROBABILITY: Final = 0.15
_GUESSED_NO_SPEECH: Final = 0.15
_DOUBTED_PROBABILITY: Final = 0.25
_DOUBTED_NO_SPEECH: Final = 0.5
_SPARSE_PROBABILITY: Final = 0.4
_SPARSE_NO_SPEECH: Final = 0.2
_SPARSE_WORDS_PER_S: Final = 2.0


class Decoded(Protocol):
    """The part of a `Transcription` that the guards look at."""

    @property
    def text(self) -> str: ...
    @property
    def words(self) -> Sequence[Word]: ...
    @property
    def average_logprob(self) -> float: ...
    @property
    def no_speech_probability(self) -> float: ...
    @property
    def repeats(self) -> bool: ...
    @property
    def error(self) -> str | None: ...


class Verdict(msgspec.Struct, frozen=True):
    """The guard that drops the text, or None, and the doubts (`flags`) about text that is kept."""

    guard: str | None
    flags: list[str]


def too_short(voiced_s: float) -> bool:
    """Return whether there is too little speech to be worth decoding: guard `short`."""
    return voiced_s < MIN_VOICED_S


def judge(decoded: Decoded, *, voiced_s: float, shown: bool = False) -> Verdict:
    """Drop the text of `voiced_s` seconds of speech, keep it, or keep it with flags.

    Guards:
    - `error`: the engine could not decode the speech.
    - `no_words`: nothing but punctuation.
    - `no_speech`: the model is sure that there is no speech; or it is rather sure and unsure of the text, where less
      doubt is enough in a short stretch.
    - `phrase`: a stock phrase in a short stretch that may be no speech.
    - `improbable`: the model hardly believes its own words and there may be no speech; less doubt is enough where there
      are few words for so much sound.

    Flags: `low_probability`, `repeat`. If viewers were `shown` part of the text it is never dropped: the guard becomes
    a flag.
    """
    guard = _guard(decoded, voiced_s)
    if guard is None:
        return Verdict(None, _flags(decoded))
    return Verdict(None, [guard]) if shown else Verdict(guard, [])


def _guard(decoded: Decoded, voiced_s: float) -> str | None:
    no_speech, average_logprob = decoded.no_speech_probability, decoded.average_logprob
    if decoded.error is not None:
        return "error"
    if not decoded.text:
        return None
    bare = _bare(decoded.text)
    if not bare:
        return "no_words"
    short = voiced_s < _SHORT_S
    limit = _LOW_LOGPROB if short else POOR_LOGPROB
    if no_speech >= _SURE_NO_SPEECH or (no_speech >= _LIKELY_NO_SPEECH and average_logprob < limit):
        return "no_speech"
    if short and no_speech > _POSSIBLE_NO_SPEECH and bare in STOCK_PHRASES:
        return "phrase"
    mean = _mean_probability(decoded)
    sparse = len(decoded.words) <= _SPARSE_WORDS_PER_S * voiced_s
    if decoded.words and (
        (mean < _GUESSED_PROBABILITY and no_speech >= _GUESSED_NO_SPEECH)
        or (mean < _DOUBTED_PROBABILITY and no_speech >= _DOUBTED_NO_SPEECH)
        or (sparse and mean < _SPARSE_PROBABILITY and no_speech >= _SPARSE_NO_SPEECH)
    ):
        return "improbable"
    return None


def _flags(decoded: Decoded) -> list[str]:
    flags = []
    if decoded.text and (decoded.average_logprob < POOR_LOGPROB or _mean_probability(decoded) < _POOR_PROBABILITY):
        flags.append("low_probability")
    if decoded.text and decoded.repeats:
        flags.append("repeat")
    return flags


def _mean_probability(decoded: Decoded) -> float:
    return sum(word.probability for word in decoded.words) / len(decoded.words) if decoded.words else 0.0


def repeats(text: str) -> bool:
    """Return whether the decoder that wrote the text seems to be in a loop."""
    data = text.encode()
    if data and len(data) / len(zlib.compress(data)) > MAX_COMPRESSION:
        return True
    return _REPEATED_PHRASE.search(text.lower()) is not None


def _bare(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))
