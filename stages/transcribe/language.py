"""The language of a call: a vote of its utterances on all channels, then fixed.

It is never chosen for one short utterance alone: Whisper takes a short "ja" or "si" for another language, and a call
does not change its language for one word. But a long stretch that is surely in another language is decoded in that one,
as Whisper loops or invents text otherwise. A producer that knows the language says so during the call (see
`decoding_context`); then no other is considered.
"""

from collections.abc import Callable, Mapping
from typing import Final

import msgspec
from msgspec import UNSET, UnsetType

from schemas.languages import primary_code

SURE_PROBABILITY: Final = 0.7
SURE_VOICED_S: Final = 1.5
"""An utterance with less speech votes, but never counts as sure."""
SURE_UTTERANCES: Final = 2
ENOUGH_VOICED_S: Final = 8.0
LONG_VOICED_S: Final = 30.0
"""After this much speech the leader is locked, however unsure: a language that changes every few seconds is worse."""

OTHER_PROBABILITY: Final = 0.9
OTHER_VOICED_S: Final = 3.0
"""From these on an utterance is decoded in another language than the call's."""

_CANDIDATES: Final = 3
"""Languages of one utterance that get votes, the most probable first."""


class LanguageVote(msgspec.Struct, frozen=True):
    """The votes of a call so far. They are part of its checkpoint, so they stay small.

    `locked`: the language that the call keeps, once it is known. `votes`: seconds of speech times probability, by
    language. `sure`: the number of utterances that were sure of a language, by language. `voiced_s`: the speech of all
    utterances that voted. `share`: the mean probability of a language that a vote locked; absent if it was named.
    """

    locked: str | None = None
    votes: dict[str, float] = {}
    sure: dict[str, int] = {}
    voiced_s: float = 0.0
    share: float | UnsetType = UNSET

    def counting(self, detected: Mapping[str, float], voiced_s: float) -> "LanguageVote":
        """Return the vote with one more utterance. `detected`: the probability of each language in its audio."""
        if self.locked is not None or not detected:
            return self
        best = sorted(detected.items(), key=lambda item: (-item[1], item[0]))[:_CANDIDATES]
        votes = dict(self.votes)
        for language, probability in best:
            votes[language] = votes.get(language, 0.0) + probability * voiced_s
        sure = dict(self.sure)
        language, probability = best[0]
        if probability >= SURE_PROBABILITY and voiced_s >= SURE_VOICED_S:
            sure[language] = sure.get(language, 0) + 1
        return LanguageVote(None, votes, sure, self.voiced_s + voiced_s)._locked_if_decided()

    def language(self, default: str) -> str:
        """Return the language to decode in: the locked one, else the leader if it is likely, else `default`."""
        if self.locked is not None:
            return self.locked
        leader, share = self._leader()
        return leader if leader is not None and share >= SURE_PROBABILITY else default

    @property
    def admits_others(self) -> bool:
        """True if long stretches may be in another language than the locked one, which was detected and not named."""
        return self.locked is not None and self.share is not UNSET

    def spoken(self, detected: Mapping[str, float], voiced_s: float, default: str) -> str:
        """Return the language of an utterance: the call's, or another one that it is surely in."""
        if self.admits_others and voiced_s >= OTHER_VOICED_S and detected:
            best = min(detected, key=lambda language: (-detected[language], language))
            if detected[best] >= OTHER_PROBABILITY:
                return best
        return self.language(default)

    def choice(self, voiced_s: float, default: str) -> str | Callable[[Mapping[str, float]], str]:
        """Return the locked language, or else how to choose one for an utterance that is not counted in the vote."""
        return self.locked or (lambda detected: self.counting(detected, voiced_s).language(default))

    def _locked_if_decided(self) -> "LanguageVote":
        leader, share = self._leader()
        if leader is None:
            return self
        decided = (
            self.sure.get(leader, 0) >= SURE_UTTERANCES
            or (self.voiced_s >= ENOUGH_VOICED_S and share >= SURE_PROBABILITY)
            or self.voiced_s >= LONG_VOICED_S
        )
        return LanguageVote(leader, share=round(share, 3)) if decided else self

    def _leader(self) -> tuple[str | None, float]:
        """Return the language with the most votes and its mean probability."""
        if self.voiced_s <= 0:
            return None, 0.0
        leader, votes = min(self.votes.items(), key=lambda item: (-item[1], item[0]))
        return leader, votes / self.voiced_s


def language_code(name: str | None, known: frozenset[str]) -> str | None:
    """Return `name` as one of the `known` codes (`en-US` is `en`); None for any other language, which is detected."""
    if name is None:
        return None
    code = primary_code(name)
    return code if code in known else None
