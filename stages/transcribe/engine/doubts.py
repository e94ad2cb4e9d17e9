"""Doubts about the text that a window gave, which a longer window settles."""

import msgspec

from stages.transcribe.engine.protocol import Row, Transcription
from stages.transcribe.engine.repetitions import believed, without_unspoken
from stages.transcribe.engine.words import UNSPACED
from stages.transcribe.guards import POOR_LOGPROB, judge, repeats


def in_doubt(transcription: Transcription, row: Row) -> bool:
    """Return whether the row is worth decoding again in a longer window.

    So are a loop, no text at all, copies of words that the audio may not hold, and text that the model doubts or a
    guard would drop. Knocks gave "Beep!" in 10 s, which no guard drops, and an improbable "Bye!" in 30 s. An interim
    shows text early and is not guarded: it is doubted only for its loops and copies.
    """
    if transcription.repeats or not believed(
        transcription.text,
        transcription.words,
        row.voiced,
        prefix=row.prefix,
        spaced=transcription.language not in UNSPACED,
    ):
        return True
    if row.interim:
        return False
    if transcription.average_logprob < POOR_LOGPROB:
        return True
    voiced_s = sum(end - start for start, end in row.voiced)
    return not transcription.text or judge(transcription, voiced_s=voiced_s).guard is not None


def settled(transcription: Transcription, row: Row) -> Transcription:
    """Return the text of the longest window, without copies of words for which the audio has no speech."""
    text, words = without_unspoken(
        transcription.text,
        transcription.words,
        row.voiced,
        prefix=row.prefix,
        spaced=transcription.language not in UNSPACED,
    )
    if text == transcription.text:
        return transcription
    return msgspec.structs.replace(transcription, text=text, words=words, repeats=repeats(text))
