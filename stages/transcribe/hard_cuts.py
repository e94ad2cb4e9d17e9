"""Words around a hard cut: one utterance's text ends and the next one's begins between the same two words.

A cut may fall into a word, and measured word times are not exact to a tenth of a second, so neither utterance can tell
its own words by itself. Both carry audio from beyond the cut. The first is decoded to the end of that audio and keeps
the words whose middle lies before the cut. The second is decoded from the start of the last of these words, with their
text as its prefix (`Row.prefix`): only what the decoder writes after the prefix is its own. So no word is repeated or
lost.
"""

from typing import Final

import msgspec

from schemas.segments import Word
from schemas.utterances import InterimUtterance, Utterance
from stages.text import word_spans
from stages.transcribe.agreement import CommittedText
from stages.transcribe.engine.protocol import Transcription
from stages.transcribe.engine.words import UNSPACED

_CLOSING: Final = " .,!?:;…)]}\"'。，！？：、"
_MIN_WORD_S: Final = 0.01
"""The least duration of a word that is clipped to its utterance."""


class Overlap(msgspec.Struct, frozen=True):
    """Words before a hard cut that the audio of the next utterance, which begins at `first_sample`, repeats.

    `start_s`: where the first of these words begins, in seconds from the call's start.
    """

    first_sample: int = -1
    start_s: float = 0.0
    text: str = ""

    def at_start_of(self, utterance: Utterance | InterimUtterance) -> "Overlap":
        """Return this overlap if it belongs to `utterance`, else an empty one."""
        return self if utterance.before and utterance.first_sample == self.first_sample else NO_OVERLAP

    def audio_start_s(self, utterance: Utterance | InterimUtterance) -> float:
        """Return where the utterance's audio is to be decoded from, in seconds from the call's start."""
        return self.start_s if self.text else utterance.start_s

    def prefix(self, committed: CommittedText) -> str:
        """Return the known beginning of the text: the words before the cut, then what is committed."""
        spaced = committed.language not in UNSPACED
        return (" " if spaced and self.text and committed.text else "").join((self.text, committed.text))

    def removed_from(self, text: str) -> str:
        """Return the text without the words before the cut and the punctuation that closes them."""
        return text[len(self.text) :].lstrip(_CLOSING) if self.text and text.startswith(self.text) else text


NO_OVERLAP: Final = Overlap()


def trim(
    utterance: Utterance, overlap: Overlap, transcription: Transcription, *, committed: str
) -> tuple[Transcription, Overlap]:
    """Return the utterance's own part of what was decoded from `overlap` on, and the overlap with the next utterance.

    Word times change from seconds after `overlap.audio_start_s` to seconds after the utterance's start. `committed`
    stays in the text, wherever its words lie. A failed decode, or text that its words do not spell, is not changed.
    """
    spans = word_spans(transcription.text, [word.text for word in transcription.words])
    if transcription.error is not None or spans is None:
        return transcription, NO_OVERLAP
    n_known = len(overlap.text) if transcription.text.startswith(overlap.text) else 0
    first = sum(start < n_known for start, _ in spans)
    last = len(spans)
    text = overlap.removed_from(transcription.text)
    shift_s = overlap.audio_start_s(utterance) - utterance.start_s
    length_s = utterance.end_s - utterance.start_s
    if utterance.after and last > first:
        begin = spans[first][0]
        last = first + sum(
            (word.start_s + word.end_s) / 2 + shift_s < length_s or start < begin + len(committed)
            for word, (start, _) in zip(transcription.words[first:], spans[first:], strict=True)
        )
        text = transcription.text[begin : spans[last - 1][1]] if last > first else ""
    words = [_clipped(word, shift_s, length_s) for word in transcription.words[first:last]]
    return msgspec.structs.replace(transcription, text=text, words=words), _overlap_after(utterance, text, words)


def _overlap_after(utterance: Utterance, text: str, words: list[Word]) -> Overlap:
    context_s = len(utterance.after) / 2 / utterance.sample_rate_hz
    from_s = utterance.end_s - utterance.start_s - context_s
    shared = [word for word in words if word.start_s >= from_s] if utterance.after else []
    if not shared:
        return NO_OVERLAP
    start = len(text)
    for word in reversed(shared):
        start = text.rindex(word.text, 0, start)
    return Overlap(
        first_sample=utterance.first_sample + len(utterance.pcm) // 2,
        start_s=round(utterance.start_s + shared[0].start_s, 3),
        text=text[start:],
    )


def _clipped(word: Word, shift_s: float, length_s: float) -> Word:
    start_s = min(max(word.start_s + shift_s, 0.0), length_s - _MIN_WORD_S)
    end_s = min(max(word.end_s + shift_s, start_s + _MIN_WORD_S), length_s)
    return msgspec.structs.replace(word, start_s=round(start_s, 3), end_s=round(end_s, 3))
