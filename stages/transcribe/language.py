"""The language of a call: a vote of its utterances on all channels, then fixed.

Never per utterance: Whisper takes a short "ja" or "si" for another language, and a call does not change its language
for one word. A producer that knows better says so in the middle of the call (see `decoding_context`).
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from schemas.languages import primary_code

SURE_PROBABILITY: Final = 0.7
SURE_VOICED_S: Final = 1.5
"""An utterance with less speech votes, but never counts as sure."""
SURE_UTTERANCES: Final = 2
ENOUGH_VOICED_S: Final = 8.0
LONG_VOICED_S: Final = 30.0
"""After this much speech the leader stays, however unsure: the alternative is another language every few seconds."""

_REMEMBERED: Final = 3


class LanguageVote(msgspec.Struct, frozen=True):
    """The votes of a call so far: part of its checkpoint, so small.

    `votes`: per language the seconds of speech times the probability, of the languages that led an utterance's
    detection (its best three). `sure`: per language the utterances that were sure of it.
    """

    locked: str | None = None
    votes: dict[str, float] = {}
    sure: dict[str, int] = {}
    voiced_s: float = 0.0

    def heard(self, detected: Mapping[str, float], voiced_s: float) -> "LanguageVote":
        """The vote after one more utterance. `detected`: the probability of each language in it."""
        if self.locked is not None or not detected:
            return self
        best = sorted(detected.items(), key=lambda item: (-item[1], item[0]))[:_REMEMBERED]
        votes = dict(self.votes)
        for language, probability in best:
            votes[language] = votes.get(language, 0.0) + probability * voiced_s
        sure = dict(self.sure)
        language, probability = best[0]
        if probability >= SURE_PROBABILITY and voiced_s >= SURE_VOICED_S:
            sure[language] = sure.get(language, 0) + 1
        return LanguageVote(None, votes, sure, self.voiced_s + voiced_s)._settled()

    def language(self, default: str) -> str:
        """What to decode in: the locked language, else the leader if it is likely, else `default`."""
        if self.locked is not None:
            return self.locked
        leader, share = self._leader()
        return leader if leader is not None and share >= SURE_PROBABILITY else default

    def _settled(self) -> "LanguageVote":
        leader, share = self._leader()
        if leader is None:
            return self
        settled = (
            self.sure.get(leader, 0) >= SURE_UTTERANCES
            or (self.voiced_s >= ENOUGH_VOICED_S and share >= SURE_PROBABILITY)
            or self.voiced_s >= LONG_VOICED_S
        )
        return LanguageVote(leader) if settled else self

    def _leader(self) -> tuple[str | None, float]:
        """The language with the most votes and its mean probability."""
        if self.voiced_s <= 0:
            return None, 0.0
        leader, votes = min(self.votes.items(), key=lambda item: (-item[1], item[0]))
        return leader, votes / self.voiced_s


def language_code(name: str | None, known: frozenset[str]) -> str | None:
    """`name` as one of the `known` codes (`en-US` is `en`), or None if it is none of them and has to be heard."""
    if name is None:
        return None
    code = primary_code(name)
    return code if code in known else None
