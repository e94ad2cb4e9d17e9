"""What became of an utterance's speech: words, dropped by a guard, or unheard.

The account of a call, in whole milliseconds of all of its channels:

    received = silence + worded + dropped (by guard) + unheard (by reason)

received
    The call's duration times its channels. Silence takes the place of missing audio, so it counts as silence.
silence
    What is in no stretch of detected speech.
worded
    Detected speech that words account for, as `coverage` lays them over it, with what lies between and beside words in
    pieces under 0.3 s.
dropped
    The speech of utterances whose text a guard dropped; and, under the guard `short`, stretches under 0.3 s between two
    pauses without a word.
unheard
    All other detected speech: `Segment.unheard`.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

from schemas.segments import Segment, Unheard
from schemas.utterances import Utterance
from stages.transcribe.audio import PackedTimes
from stages.transcribe.coverage import MIN_UNHEARD_MS, SpanMs, clipped, coverage, length_ms, stretches, to_ms

SILENT_DBFS: Final = -120.0
"""The level of digital silence."""

NO_TEXT_GUARDS: Final = frozenset({"error", "no_words"})
"""Guards of utterances that have no text which could have been dropped: their speech is unheard."""

_ROUNDED_MS: Final = 2
_FULL_SCALE: Final = 32768.0


class SpeechAccount(msgspec.Struct, frozen=True, omit_defaults=True):
    """Milliseconds of detected speech, `voiced`, and its parts: `dropped` is by guard, `unheard` by reason."""

    voiced: int = 0
    worded: int = 0
    dropped: dict[str, int] = {}
    unheard: dict[str, int] = {}

    def __add__(self, other: "SpeechAccount") -> "SpeechAccount":
        return SpeechAccount(
            self.voiced + other.voiced,
            self.worded + other.worded,
            dict(Counter(self.dropped) + Counter(other.dropped)),
            dict(Counter(self.unheard) + Counter(other.unheard)),
        )

    def described(self, *, received_ms: int) -> dict[str, float | dict[str, float]]:
        """Return the account of a call in seconds, as its ledger holds it."""
        return {
            "received_s": received_ms / 1000,
            "silence_s": (received_ms - self.voiced) / 1000,
            "worded_s": self.worded / 1000,
            "dropped_s": {guard: ms / 1000 for guard, ms in sorted(self.dropped.items())},
            "unheard_s": {reason: ms / 1000 for reason, ms in sorted(self.unheard.items())},
        }


def account(segment: Segment) -> SpeechAccount:
    """Return the account of one segment's speech. It follows from the record alone."""
    voiced = length_ms(stretches(segment.voiced))
    if segment.guard is not None and segment.guard not in NO_TEXT_GUARDS:
        return SpeechAccount(voiced, 0, {segment.guard: voiced}, {})
    unheard: Counter[str] = Counter()
    for one in segment.unheard or []:
        unheard[one.reason] += length_ms([to_ms((one.start_s, one.end_s))])
    words = [*segment.words, *(word for one in segment.apart or [] for word in one.words)]
    brief = length_ms(coverage(segment.voiced, words).brief)
    worded = voiced - brief - sum(unheard.values())
    return SpeechAccount(voiced, worded, {"short": brief} if brief else {}, dict(unheard))


def unheard(utterance: Utterance, spans: Sequence[tuple[SpanMs, str]]) -> list[Unheard]:
    """Return stretches of an utterance's speech, in milliseconds of the call and with their reasons, as its segment
    holds them. What is no detected speech is left out.
    """
    return [
        Unheard(
            start_s=start / 1000,
            end_s=end / 1000,
            level_dbfs=level_dbfs(utterance, (start / 1000, end / 1000)),
            reason=reason,
        )
        for span, reason in spans
        for start, end in clipped(stretches(utterance.voiced), span)
        if end - start >= MIN_UNHEARD_MS - _ROUNDED_MS
    ]


def level_dbfs(utterance: Utterance, span: tuple[float, float]) -> float:
    """Return the RMS level of a stretch of the call that lies in one part of the utterance."""
    rate_hz = utterance.sample_rate_hz
    samples = np.frombuffer(utterance.pcm[: len(utterance.pcm) // 2 * 2], "<i2").astype(np.float64)
    first, last = (round(at_s * rate_hz) for at_s in PackedTimes(utterance).in_audio([span])[0])
    inside = samples[max(0, first) : max(0, last)] / _FULL_SCALE
    power = float(np.mean(np.square(inside))) if len(inside) else 0.0
    return max(SILENT_DBFS, round(10 * math.log10(power), 1)) if power > 0 else SILENT_DBFS
