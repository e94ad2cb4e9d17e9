"""Guards against text that nobody said: Whisper answers silence, tones and line noise with stock phrases.

The voice activity detector is the first guard; these look at what came out of the decoder. Whisper's own rule
(no-speech from 0.6 and log probability below -1) misses most of them: on digital zeros it said "you", on ringback
"Beep!", on touch tones "Okay.", on line noise "Thank you.", on silence "Thanks for watching.".
"""

import re
import zlib
from collections.abc import Sequence
from typing import Final

import msgspec

MIN_VOICED_S: Final = 0.2
"""Less speech than this is a click or a breath: nothing that is said is shorter."""

MAX_COMPRESSION: Final = 2.2
"""Text that zlib shrinks further than this repeats itself; OpenAI's Whisper uses 2.4 on longer texts."""

_REPEATED_PHRASE: Final = re.compile(r"(?:\b(\w+(?:\W+\w+){2,}?)\W+\1\b)|(?:\b(\w+(?:\W+\w+)?)(?:\W+\2\b){3,})")
"""Three or more words said again at once, or one or two said four times in a row."""

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
"""What Whisper says to sounds that are no speech, without case and punctuation. Sources: our own runs on zeros, tones,
ringback and noise; Koenecke et al. 2024, "Careless Whisper"; Barański et al. 2025, "Investigation of Whisper ASR
Hallucinations Induced by Non-Speech Audio" ("thank you", "thanks for watching", "so", "bye", …)."""

_SURE_NO_SPEECH: Final = 0.8
_LIKELY_NO_SPEECH: Final = 0.6
_POSSIBLE_NO_SPEECH: Final = 0.4
_SHORT_S: Final = 0.5
_LOW_LOGPROB: Final = -0.7
_POOR_LOGPROB: Final = -1.0
_POOR_PROBABILITY: Final = 0.35

# Tones, music and breaths, decoded as if they were speech, gave words of these mean probabilities (0.003 to 0.37, two
# thirds below 0.15), few for the time they took. Of 877 utterances with words, synthetic calls with noise and a real
# one, no text is so improbable and none so sparse with it. Humming gave "Hmm Hmm" of 0.16, as likely no speech as not.
_GUESSED_PROBABILITY: Final = 0.15
_GUESSED_NO_SPEECH: Final = 0.15
_DOUBTED_PROBABILITY: Final = 0.25
_DOUBTED_NO_SPEECH: Final = 0.5
_SPARSE_PROBABILITY: Final = 0.4
_SPARSE_NO_SPEECH: Final = 0.2
_SPARSE_WORDS_PER_S: Final = 2.0


class Verdict(msgspec.Struct, frozen=True):
    """`guard` names the guard that drops the text, or None; `flags` are doubts about text that is kept."""

    guard: str | None
    flags: list[str]


def too_short(voiced_s: float) -> bool:
    """Whether there is too little speech to be worth decoding: guard `short`."""
    return voiced_s < MIN_VOICED_S


def judge(
    *,
    voiced_s: float,
    text: str,
    average_logprob: float,
    no_speech_probability: float,
    word_probabilities: Sequence[float],
    repeats: bool,
) -> Verdict:
    """Drop the text, keep it, or keep it with flags.

    Guards: `no_words` (nothing but punctuation), `no_speech` (the model is sure that there is no speech; or rather
    sure and unsure of the text, where less doubt is enough in a short stretch), `phrase` (a stock phrase in a short
    stretch that may be no speech), `improbable` (the model hardly believes its own words, and there may be no speech;
    less doubt is enough where there are few words for so much sound).
    Flags: `low_probability`, `repeat`.
    """
    if not text:
        return Verdict(None, [])
    bare = _bare(text)
    if not bare:
        return Verdict("no_words", [])
    if no_speech_probability >= _SURE_NO_SPEECH:
        return Verdict("no_speech", [])
    short = voiced_s < _SHORT_S
    limit = _LOW_LOGPROB if short else _POOR_LOGPROB
    if no_speech_probability >= _LIKELY_NO_SPEECH and average_logprob < limit:
        return Verdict("no_speech", [])
    if short and no_speech_probability > _POSSIBLE_NO_SPEECH and bare in STOCK_PHRASES:
        return Verdict("phrase", [])
    n_words = len(word_probabilities)
    mean = sum(word_probabilities) / n_words if n_words else 0.0
    sparse = n_words <= _SPARSE_WORDS_PER_S * voiced_s
    if n_words and (
        (mean < _GUESSED_PROBABILITY and no_speech_probability >= _GUESSED_NO_SPEECH)
        or (mean < _DOUBTED_PROBABILITY and no_speech_probability >= _DOUBTED_NO_SPEECH)
        or (sparse and mean < _SPARSE_PROBABILITY and no_speech_probability >= _SPARSE_NO_SPEECH)
    ):
        return Verdict("improbable", [])
    flags = []
    if average_logprob < _POOR_LOGPROB or mean < _POOR_PROBABILITY:
        flags.append("low_probability")
    if repeats:
        flags.append("repeat")
    return Verdict(None, flags)


def repeats(text: str) -> bool:
    """Whether a text looks like a decoder that goes round in circles."""
    data = text.encode()
    if data and len(data) / len(zlib.compress(data)) > MAX_COMPRESSION:
        return True
    return _REPEATED_PHRASE.search(text.lower()) is not None


def _bare(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))
