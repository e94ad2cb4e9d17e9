"""Speech that the decoder left out at the end of a row: it may stop after a sentence though the speaker continues.

Seen with Whisper base in speech without pauses, with and without a prefix: text for the first 1 to 5 s of 10 to 14 s,
with a good probability. The end of the last word shows it: otherwise it lies within 0.4 s of the end of speech (24
monologues of `benchmarks.speech cuts`). The rest is then decoded as a row of its own.
"""

from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from stages.transcribe import guards
from stages.transcribe.engine.protocol import Row, Transcription
from stages.transcribe.engine.windows import SAMPLE_RATE_HZ
from stages.transcribe.engine.words import UNSPACED

MAX_ATTEMPTS: Final = 3
"""The most rests of one row that are decoded."""

_MISSED_S: Final = 2.0


async def decode_whole(row: Row, decode: Callable[[Row], Awaitable[Transcription]]) -> Transcription:
    """Return the transcription of a row, with that of the speech which the decoder left out at first."""
    transcription = await decode(row)
    for _ in range(MAX_ATTEMPTS):
        rest = rest_of(row, transcription)
        longer = None if rest is None else joined(transcription, rest, await decode(rest))
        if longer is None:
            break
        transcription = longer
    return transcription


def rest_of(row: Row, transcription: Transcription) -> Row | None:
    """Return the row after the last word, if it holds more than 2 s of speech."""
    if transcription.error is not None or transcription.repeats or not transcription.words:
        return None
    from_s = transcription.words[-1].end_s
    voiced = [(max(0.0, start - from_s), end - from_s) for start, end in row.voiced if end > from_s]
    if sum(end - start for start, end in voiced) <= _MISSED_S:
        return None
    audio = row.audio[round(from_s * SAMPLE_RATE_HZ) :]
    return msgspec.structs.replace(row, audio=audio, voiced=voiced, language=transcription.language, prefix="")


def joined(transcription: Transcription, rest: Row, addition: Transcription) -> Transcription | None:
    """Return both transcriptions as one; None if a guard drops or doubts the `addition`, the text of `rest`."""
    verdict = guards.judge(addition, voiced_s=sum(end - start for start, end in rest.voiced))
    if not addition.words or verdict.guard is not None or verdict.flags:
        return None
    from_s = transcription.words[-1].end_s
    words = [
        msgspec.structs.replace(word, start_s=round(word.start_s + from_s, 3), end_s=round(word.end_s + from_s, 3))
        for word in addition.words
    ]
    n_words, n_added = len(transcription.words), len(words)
    logprob = (transcription.average_logprob * n_words + addition.average_logprob * n_added) / (n_words + n_added)
    return msgspec.structs.replace(
        transcription,
        text=("" if transcription.language in UNSPACED else " ").join((transcription.text, addition.text)),
        words=[*transcription.words, *words],
        average_logprob=round(logprob, 4),
    )
