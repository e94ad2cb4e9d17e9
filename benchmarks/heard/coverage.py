"""What of the reference speech reached the transcript: by utterances, by words, by marks of what is not understood."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from benchmarks.heard.references import Leg, Span, joined

AROUND_UTTERANCE_S: Final = 0.1
AROUND_WORD_S: Final = 0.3
"""Speech this near to an utterance, or to a word's times, lies in it."""
AROUND_GUESS_S: Final = 1.0
"""The same for a word whose time in the reference is not known, but spread over its line."""


Written = tuple[str, float, float]
"""A word of a transcript with its start and end in seconds."""


class Heard(msgspec.Struct, frozen=True, kw_only=True):
    """What a transcriber made of a leg. None where it does not say: `utterances`, what reached its decoder; `words`
    with their times; `unheard`, spans marked as not understood.
    """

    text: str
    utterances: list[Span] | None = None
    words: list[Written] | None = None
    unheard: list[Span] | None = None


class Coverage(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds of the reference's speech, and its words. None: the transcriber does not say where it heard something.

    `words_without`: words with no transcribed word at their time; those of them in an `unheard` span are
    `words_unheard`. `silent_unheard_s`: seconds marked as unheard in which the reference is silent.
    """

    speech_s: float = 0.0
    outside_utterances_s: float | None = None
    outside_words_s: float | None = None
    words: int = 0
    words_outside_utterances: int | None = None
    words_without: int | None = None
    words_unheard: int = 0
    unheard_s: float = 0.0
    silent_unheard_s: float = 0.0
    silent_s: float = 0.0

    def described(self) -> dict[str, Any]:
        neither = None if self.words_without is None else self.words_without - self.words_unheard
        return {
            **msgspec.structs.asdict(self),
            "percent": {
                "speech_outside_utterances": _percent(self.outside_utterances_s, self.speech_s),
                "speech_outside_words": _percent(self.outside_words_s, self.speech_s),
                "words_outside_utterances": _percent(self.words_outside_utterances, self.words),
                "words_unheard": _percent(self.words_unheard, self.words),
                "words_in_neither": _percent(neither, self.words),
                "silence_marked_unheard": _percent(self.silent_unheard_s, self.silent_s),
            },
        }


def coverage(leg: Leg, heard: Heard, duration_s: float) -> Coverage:
    """Return what of a leg's speech reached a transcript. `duration_s`: the leg's."""
    speech = joined(leg.speech)
    silent = _without([(0.0, duration_s)], _wider(speech, AROUND_WORD_S))
    utterances = None if heard.utterances is None else _wider(heard.utterances, AROUND_UTTERANCE_S)
    words = None if heard.words is None else _wider([word[1:] for word in heard.words], AROUND_WORD_S)
    unheard = joined(heard.unheard or [])
    middles = [(start + end) / 2 for start, end in leg.words]
    near = words if leg.exact or heard.words is None else _wider([word[1:] for word in heard.words], AROUND_GUESS_S)
    missing = [] if near is None else [at for at in middles if not _holds(near, at)]
    return Coverage(
        speech_s=_length(speech),
        outside_utterances_s=None if utterances is None else _length(_without(speech, utterances)),
        outside_words_s=None if words is None else _length(_without(speech, words)),
        words=len(middles),
        words_outside_utterances=None if utterances is None else sum(not _holds(utterances, at) for at in middles),
        words_without=None if words is None else len(missing),
        words_unheard=sum(_holds(_wider(unheard, AROUND_UTTERANCE_S), at) for at in missing),
        unheard_s=_length(unheard),
        silent_unheard_s=_length(unheard) - _length(_without(unheard, silent)),
        silent_s=_length(silent),
    )


def without_words(leg: Leg, heard: Heard) -> list[Span]:
    """Return the speech of at least 0.3 s that no word accounts for."""
    words = _wider([word[1:] for word in heard.words or []], AROUND_WORD_S)
    return [(round(a, 2), round(b, 2)) for a, b in _without(joined(leg.speech), words) if b - a >= AROUND_WORD_S]


def total(all_: Sequence[Coverage]) -> Coverage:
    """Return the sum; a count that one of them lacks is None."""
    sums: dict[str, Any] = {}
    for name in Coverage.__struct_fields__:
        values = [msgspec.structs.asdict(one)[name] for one in all_]
        sums[name] = None if None in values else round(sum(values), 3)
    return Coverage(**sums)


def _wider(spans: Sequence[Span], by_s: float) -> list[Span]:
    return joined([(start - by_s, end + by_s) for start, end in spans])


def _without(spans: Sequence[Span], taken: Sequence[Span]) -> list[Span]:
    """Return what is left of disjoint, ordered spans without others."""
    left: list[Span] = []
    for start, end in spans:
        at = start
        for low, high in taken:
            if high <= at or low >= end:
                continue
            if low > at:
                left.append((at, low))
            at = max(at, high)
        if at < end:
            left.append((at, end))
    return left


def _holds(spans: Sequence[Span], at: float) -> bool:
    return any(start <= at <= end for start, end in spans)


def _length(spans: Sequence[Span]) -> float:
    return round(sum(end - start for start, end in spans), 3)


def _percent(part: float | None, whole: float) -> float | None:
    return None if part is None or not whole else round(100 * part / whole, 3)
