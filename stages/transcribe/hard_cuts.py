"""Where a hard cut divides speech: one utterance's text ends and the next one's begins between the same two words.

A cut may fall into a word, and a word's measured time is not exact to a tenth of a second, so neither utterance can
tell by itself which words are its own. Both carry audio from beyond the cut. The first is heard to the end of it and
keeps the words whose middle lies before the cut. The second is heard from the start of the last of these on, behind
their text (`Row.prefix`): what the decoder writes after it is the second's own, so no word is said twice or lost.
"""

from typing import Final

import msgspec

from schemas.segments import Word
from schemas.utterances import InterimUtterance, Utterance
from stages.text import word_spans
from stages.transcribe.engine.protocol import Transcription

_CLOSING: Final = " .,!?:;…)]}\"'。，！？：、"
_LEAST_S: Final = 0.01
"""A word that the cut would leave no time keeps this."""


class Seam(msgspec.Struct, frozen=True):
    """The words before a hard cut that are also heard in the utterance behind it, which begins at `first_sample`.

    `start_s` is where the first of them begins, in seconds from the call's start.
    """

    first_sample: int = -1
    start_s: float = 0.0
    text: str = ""

    def before(self, utterance: Utterance | InterimUtterance) -> "Seam":
        """This one, if it lies before `utterance`; else one that says nothing."""
        return self if utterance.before and utterance.first_sample == self.first_sample else NO_SEAM

    def heard_from_s(self, utterance: Utterance | InterimUtterance) -> float:
        """Where the utterance's audio is to be heard from."""
        return self.start_s if self.text else utterance.start_s

    def prefix(self, committed: str, *, spaced: bool) -> str:
        """What is known of the text: the words before the cut and what is committed behind it."""
        return (" " if spaced and self.text and committed else "").join((self.text, committed))

    def behind(self, text: str) -> str:
        """The text without the words before the cut, and without what closes the last of them."""
        return text[len(self.text) :].lstrip(_CLOSING) if self.text and text.startswith(self.text) else text


NO_SEAM: Final = Seam()


def divided(utterance: Utterance, seam: Seam, heard: Transcription, *, committed: str) -> tuple[Transcription, Seam]:
    """What is the utterance's own of what was `heard` from `seam` on, and the seam behind it.

    Times are from `seam.heard_from_s` before and from the utterance's start after. `committed` stays in the text.
    """
    at = word_spans(heard.text, [word.text for word in heard.words])
    if heard.error is not None or at is None:
        return heard, NO_SEAM
    known = len(seam.text) if heard.text.startswith(seam.text) else 0
    first = sum(start < known for start, _ in at)
    last = len(at)
    text = seam.behind(heard.text)
    shift_s = seam.heard_from_s(utterance) - utterance.start_s
    length_s = utterance.end_s - utterance.start_s
    if utterance.behind and last > first:
        begin = at[first][0]
        last = first + sum(
            (word.start_s + word.end_s) / 2 + shift_s < length_s or start < begin + len(committed)
            for word, (start, _) in zip(heard.words[first:], at[first:], strict=True)
        )
        text = heard.text[begin : at[last - 1][1]] if last > first else ""
    words = [_inside(word, shift_s, length_s) for word in heard.words[first:last]]
    return msgspec.structs.replace(heard, text=text, words=words), _seam_behind(utterance, text, words)


def _seam_behind(utterance: Utterance, text: str, words: list[Word]) -> Seam:
    context_s = len(utterance.behind) / 2 / utterance.sample_rate_hz
    from_s = utterance.end_s - utterance.start_s - context_s
    shared = [word for word in words if word.start_s >= from_s] if utterance.behind else []
    if not shared:
        return NO_SEAM
    start = len(text)
    for word in reversed(shared):
        start = text.rindex(word.text, 0, start)
    return Seam(
        first_sample=utterance.first_sample + len(utterance.pcm) // 2,
        start_s=round(utterance.start_s + shared[0].start_s, 3),
        text=text[start:],
    )


def _inside(word: Word, shift_s: float, length_s: float) -> Word:
    start_s = min(max(word.start_s + shift_s, 0.0), length_s - _LEAST_S)
    end_s = min(max(word.end_s + shift_s, start_s + _LEAST_S), length_s)
    return msgspec.structs.replace(word, start_s=round(start_s, 3), end_s=round(end_s, 3))
