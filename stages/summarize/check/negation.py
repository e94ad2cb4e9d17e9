"""Negation: finds claims that affirm what the call denies, or deny what it affirms. English only, plain cases only."""

from collections.abc import Sequence
from typing import Final

from stages.summarize.check.words import content_stems, stem, words
from stages.text import sentences, word_set

_NEGATORS: Final = word_set("not no never nobody none nothing neither nor without cannot against")
_DENIALS: Final = word_set("not never")
_REFUSALS: Final = frozenset(
    map(
        stem,
        word_set(
            """decline refuse reject deny stop prefer instead fail unable lack avoid rather unaware
            uninterested forbid prevent dislike quit unsure yet free trouble problem issue difficult
            difficulty miss unsuccessful impossible hard error broken wrong"""
        ),
    )
)
_ARTICLES: Final = word_set("the a an my your our his her their its this that any and but before")
_PRONOUNS: Final = word_set("i we it he she they that this there")
_OPEN: Final = word_set("if whether when until unless want wants wanted hope hopes ask asks asked wonder wonders")
"""Words that leave open whether something happens: "when will I get it" does not say that it came."""
_UNREAL: Final = _OPEN | word_set("would could should might may still waiting supposed")

REACH: Final = 3
"""Largest distance of a "not" before its verb, in words: "do not just throw"."""


def negates(claim: str, cited: Sequence[str], answers: Sequence[tuple[str, str]]) -> str | None:
    """Say in words why the claim is the opposite of what was said; None if there is no objection.

    `cited` are the sentences that it cites, `answers` the (question, answer) pairs among them.
    """
    claimed = words(claim)
    stems = set(content_stems(claim))
    denied = {stem(word) for index, word in enumerate(claimed) if _denied(claimed[max(index - REACH, 0) : index])}
    open_claim = any(word in _OPEN for word in claimed)
    for question, answer in answers:
        yes = _answer(words(answer))
        if yes is None:
            continue
        asked, rest = set(content_stems(question)), set(content_stems(answer))
        if not stems & asked or stems & rest - asked:
            continue
        if yes and denied & asked and not _turns_down(words(question)):
            return "the answer is yes"
        if not yes and not _turns_down(claimed):
            return "the answer is no"
    said = [_without_particle(words(sentence)) for sentence in cited if not sentence.endswith("?")]
    for index, word in enumerate(claimed):
        verb = stem(word)
        if verb not in stems:
            continue
        lines = [(line, line.index(place)) for line in said for place in line if stem(place) == verb]
        if not lines:
            continue
        if _denied(claimed[max(index - REACH, 0) : index]):
            if not any(_turns_down(line) or any(word in _UNREAL for word in line) for line, _ in lines):
                return f"{word} is denied only in the claim"
        elif (
            not open_claim
            and all(_denied(line[max(at - REACH, 0) : at]) for line, at in lines)
            and not _turns_down(claimed)
        ):
            return f"{word} is denied in the call"
    return None


def _answer(said: Sequence[str]) -> bool | None:
    """Return True for an answer that begins with yes, False for no or "it does not", None for any other."""
    if said[:1] and said[0] in ("yes", "yeah", "yep"):
        return True
    if said[:1] and said[0] in ("no", "nope", "not", "never"):
        return False
    return False if len(said) > 2 and said[0] in _PRONOUNS and said[2] == "not" else None


def _denied(before: Sequence[str]) -> bool:
    """Return True if a "not" applies to the verb after these words. An article ends its reach."""
    for word in reversed(before):
        if word in _ARTICLES:
            return False
        if word in _DENIALS:
            return True
    return False


def _turns_down(said: Sequence[str]) -> bool:
    return any(word in _NEGATORS or stem(word) in _REFUSALS for word in said)


def _without_particle(said: list[str]) -> list[str]:
    """Return an answer without its leading yes or no."""
    return said[1:] if said[:1] and said[0] in ("no", "yes", "yeah") else said


def answered(question: str, answer: str) -> tuple[str, str] | None:
    """Return (question, answer) if the first text ends in a question."""
    asked = sentences(question)
    return (asked[-1], answer) if asked and asked[-1].endswith("?") else None
