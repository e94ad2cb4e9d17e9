"""From an utterance's audio to the call and back, where its parts were heard without the pauses between them."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

import msgspec

from schemas.segments import Word
from schemas.utterances import Utterance

Span = tuple[float, float]

_SPILL_S: Final = 0.05
"""A word that reaches no further into the speech of a part was measured into it, not said in it."""


class Places:
    """Where the parts of an utterance lie. Times in its audio are seconds from the audio's start."""

    def __init__(self, utterance: Utterance) -> None:
        rate_hz = utterance.sample_rate_hz
        places = utterance.places
        lengths_s = [place.n_samples / rate_hz for place in places]
        self._audio_s = [0.0, *accumulate(lengths_s)]
        self.in_call: list[Span] = [
            (place.first_sample / rate_hz, place.first_sample / rate_hz + length_s)
            for place, length_s in zip(places, lengths_s, strict=True)
        ]
        """The parts in seconds from the call's start."""
        self._speech = [_speech_in(part, utterance.voiced) for part in self.in_call]

    def in_audio(self, voiced: Sequence[Span]) -> list[Span]:
        """Stretches of the call, each inside one part, as they lie in the audio."""
        found, index = [], 0
        for start_s, end_s in voiced:
            while index + 1 < len(self.in_call) and start_s >= self.in_call[index][1]:
                index += 1
            shift_s = self._audio_s[index] - self.in_call[index][0]
            found.append((max(self._audio_s[index], start_s + shift_s), end_s + shift_s))
        return found

    def timed(self, words: Sequence[Word]) -> list[Word]:
        """Words of the audio with their times in the call.

        A word lies in the last part whose speech it reaches into: cross-attention turns to a word in the pause before
        it. (Of 1,983 words of synthetic telephone calls 8 reached over an edge; so all lay in the right part, by their
        middles 5.) What of its time lies beyond the speech of its part was measured into a pause.
        """
        return [self._timed(word) for word in words]

    def _timed(self, word: Word) -> Word:
        index = self._part_of(word)
        shift_s = self.in_call[index][0] - self._audio_s[index]
        start_s, end_s = word.start_s + shift_s, word.end_s + shift_s
        if len(self.in_call) > 1:
            start_s, end_s = _inside(start_s, end_s, self._speech[index], self.in_call[index])
        return msgspec.structs.replace(word, start_s=round(start_s, 3), end_s=round(end_s, 3))

    def _part_of(self, word: Word) -> int:
        first, middle, last = (
            min(bisect_right(self._audio_s, time_s), len(self.in_call)) - 1
            for time_s in (word.start_s, (word.start_s + word.end_s) / 2, word.end_s)
        )
        for index in range(last, first - 1, -1):
            shift_s = self.in_call[index][0] - self._audio_s[index]
            start_s, end_s = self._speech[index]
            if min(word.end_s + shift_s, end_s) - max(word.start_s + shift_s, start_s) > _SPILL_S:
                return index
        return middle


def _speech_in(part: Span, voiced: Sequence[Span]) -> Span:
    """From the first to the last speech in a part; the part itself if there is none."""
    inside = [span for span in voiced if part[0] <= span[0] < part[1]]
    return (inside[0][0], inside[-1][1]) if inside else part


def _inside(start_s: float, end_s: float, speech: Span, part: Span) -> Span:
    """Clipped to the speech; to the part where nothing would be left."""
    for first_s, last_s in (speech, part):
        clipped = max(start_s, first_s), min(end_s, last_s)
        if clipped[0] < clipped[1]:
            return clipped
    return part[0], part[0]
