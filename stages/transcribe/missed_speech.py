"""Speech that the decoder left out at the end of a row: it may stop after a sentence though more is said.

Seen with Whisper base in speech without pauses, with and without a prefix: text for the first 1 to 5 s of 10 to 14 s,
with a good probability. The last word's time gives it away, which else lies close to the end of speech: within 0.4 s in
24 monologues of `benchmarks.speech cuts`. The rest is then heard as a row of its own.
"""

from typing import Final

import msgspec

from stages.transcribe import guards
from stages.transcribe.engine.protocol import Row, Transcription
from stages.transcribe.engine.windows import SAMPLE_RATE_HZ
from stages.transcribe.engine.words import UNSPACED

MAX_RESTS: Final = 3
"""Of one row."""

_LEFT_OUT_S: Final = 2.0


def rest_of(row: Row, heard: Transcription) -> Row | None:
    """What is to be heard again: all behind the last word, if more than 2 s of it are speech."""
    if heard.error is not None or heard.repeats or not heard.words:
        return None
    from_s = heard.words[-1].end_s
    voiced = [(max(0.0, start - from_s), end - from_s) for start, end in row.voiced if end > from_s]
    if sum(end - start for start, end in voiced) <= _LEFT_OUT_S:
        return None
    audio = row.audio[round(from_s * SAMPLE_RATE_HZ) :]
    return msgspec.structs.replace(row, audio=audio, voiced=voiced, language=heard.language, prefix="")


def joined(heard: Transcription, row: Row, rest: Transcription) -> Transcription | None:
    """Both as one; None where what was heard in the rest's `row` are no words that a guard lets pass."""
    verdict = guards.judge(rest, voiced_s=sum(end - start for start, end in row.voiced))
    if not rest.words or verdict.guard is not None or verdict.flags:
        return None
    from_s = heard.words[-1].end_s
    words = [
        msgspec.structs.replace(word, start_s=round(word.start_s + from_s, 3), end_s=round(word.end_s + from_s, 3))
        for word in rest.words
    ]
    n_words, n_more = len(heard.words), len(words)
    logprob = (heard.average_logprob * n_words + rest.average_logprob * n_more) / (n_words + n_more)
    return msgspec.structs.replace(
        heard,
        text=("" if heard.language in UNSPACED else " ").join((heard.text, rest.text)),
        words=[*heard.words, *words],
        average_logprob=round(logprob, 4),
    )
