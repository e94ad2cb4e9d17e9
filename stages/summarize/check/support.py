"""Whether what a summary claims follows from the turns that it cites.

A claim is held against what was said by rules for what can be told apart exactly (numbers and dates, who said or did
it, yes and no, names) and by its likeness for the rest: the nearest of the cited turns, their sentences and
neighbouring pairs as sentence embeddings, and the words in common. It is no proof: a claim that changes the meaning in
words that no rule knows ("most lines are still down" for "most lines are back") passes. `benchmarks.support` says how
often.

Who said it and yes and no are read in English only. Numbers spelled out are, too: in other languages a claim's figures
are looked for where the transcript writes figures at all.
"""

import difflib
import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Literal, Protocol

import msgspec
import numpy as np

from schemas.summaries import Doubt
from schemas.transcripts import Turn
from stages.adapters.embedding import Embedder
from stages.summarize.check.attribution import Line, Side, lines_of, misattributed, names_of, other, side_of
from stages.summarize.check.negation import answered, negates
from stages.summarize.check.quantities import Quantities
from stages.summarize.check.words import content_stems
from stages.summarize.claims import Claim, Judge
from stages.text import sentences, word_set

Signal = Literal["numbers", "names", "speakers", "negation", "embedding", "words"]

LIKE: Final = 0.48
"""The least score of a supported claim with embeddings."""
LIKE_WORDS: Final = 0.22
"""The same for words in common alone."""
LIKE_FOREIGN: Final = 0.35
"""The same for another language than English, which the default model knows little of."""
WORDS_SHARE: Final = 0.25
"""How much of the score is words in common, the rest is the embeddings'."""

MAX_PASSAGES: Final = 8
"""Of what a claim cites that its embedding is compared with, those with the most words in common: bounds the work."""
MAX_WORDS: Final = 60
"""Longer passages are left to their sentences: an embedding of much says little, and of more is cut."""
NEAREST: Final = 4
"""Turns that a claim without citations is held against."""

_NAME: Final = re.compile(r"\b[A-Z][a-zà-ÿ]{2,}\b")
_NO_NAMES: Final = word_set(
    """monday tuesday wednesday thursday friday saturday sunday january february march april may june july
    august september october november december doctor nurse agent customer caller patient internet english
    the mrs miss"""
)
_LIKE_NAME: Final = 0.8
_CAPITALIZING: Final = frozenset(("de", "lb"))
"""Languages that write every noun with a capital."""


class Spoken(Protocol):
    """A turn of the call, as far as the check needs it; `schemas.transcripts.Turn` is one."""

    @property
    def speaker(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def segment_ids(self) -> list[str]: ...


class Support(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a claim. `reason` and `detail` say why it is not supported, `signals` what it was held against."""

    supported: bool
    reason: Doubt | None
    detail: str
    score: float
    """How like what was said the claim is, from 0 to 1: of claims that a rule objects to by their words alone."""
    signals: tuple[Signal, ...]


class SupportCheck:
    """Judges the claims of summaries, without an embedder by rules and words alone. Safe in several threads."""

    def __init__(self, embedder: Embedder | None = None) -> None:
        self._embedder = embedder

    def judge(self, claims: Sequence[Claim], turns: Sequence[Spoken], *, language: str = "en") -> list[Support]:
        """One answer for each claim, in order; `language` is an ISO 639-1 code. A claim that cites nothing is held
        against the turns nearest to it.

        Blocks, for ten claims about half a second of one core. Only what claims cite is embedded, all of it at once,
        and only where no rule objects. The same input gives the same answer. Raises what the embedder raises.
        """
        call = _Call(turns, english=language.split("-")[0] == "en", capitals=language.split("-")[0] in _CAPITALIZING)
        cases = [_Case(claim.text, call, call.cited(claim)) for claim in claims]
        objections = [case.objection() for case in cases]
        unlike = iter(self._likeness([case for case, found in zip(cases, objections, strict=True) if found is None]))
        return [
            self._judged(case, next(unlike)) if found is None else self._objected(case, *found)
            for case, found in zip(cases, objections, strict=True)
        ]

    def _likeness(self, cases: Sequence["_Case"]) -> list[float]:
        """The greatest cosine of each claim with a passage of what it cites; else its words in common."""
        texts = list(dict.fromkeys(text for case in cases for text in (case.text, *case.passages)))
        if self._embedder is None or not texts:
            return [case.in_common for case in cases]
        vectors = self._embedder.passages(texts)
        places = {text: place for place, text in enumerate(texts)}
        return [
            float(np.max(vectors[[places[text] for text in case.passages]] @ vectors[places[case.text]]))
            for case in cases
        ]

    def _objected(self, case: "_Case", reason: Doubt, detail: str) -> Support:
        score = round(case.in_common, 3)
        return Support(supported=False, reason=reason, detail=detail, score=score, signals=(*case.rules, "words"))

    def _judged(self, case: "_Case", likeness: float) -> Support:
        embedded = LIKE if case.call.english else LIKE_FOREIGN
        least = LIKE_WORDS if self._embedder is None else embedded
        score = round(min(max((1 - WORDS_SHARE) * likeness + WORDS_SHARE * case.in_common, 0.0), 1.0), 3)
        supported = score >= least
        return Support(
            supported=supported,
            reason=None if supported else "unlike",
            detail="" if supported else f"likeness {score:.2f} of at least {least:g}",
            score=score,
            signals=(*case.rules, "words" if self._embedder is None else "embedding"),
        )


def judged_by_support(check: Callable[[], SupportCheck]) -> Judge:
    """Return a judge that believes a claim if what it cites supports it. `check` is called at its first use."""

    def judge(claims: Sequence[Claim], turns: Sequence[Turn], language: str) -> list[Doubt | None]:
        answers = iter(check().judge([claim for claim in claims if claim.segment_ids], turns, language=language))
        return [next(answers).reason if claim.segment_ids else "citation" for claim in claims]

    return judge


class _Call:
    """The turns of a call and what is known of it as a whole."""

    def __init__(self, turns: Sequence[Spoken], *, english: bool, capitals: bool) -> None:
        self.turns = turns
        self.english = english
        self.capitals = capitals
        self.names: dict[str, Side] = names_of((turn.speaker, turn.text) for turn in turns) if english else {}
        self._words = set(re.findall(r"[^\W\d_]+", " ".join(turn.text for turn in turns).casefold()))
        self._letters = "".join(char for turn in turns for char in turn.text.casefold() if char.isalpha())
        self._stems: list[set[str]] | None = None

    def cited(self, claim: Claim) -> list[int]:
        """The places of the turns that a claim rests on, in order."""
        ids = set(claim.segment_ids)
        if ids:
            return [place for place, turn in enumerate(self.turns) if ids.intersection(turn.segment_ids)]
        if self._stems is None:
            self._stems = [_stems_and_numbers(turn.text) for turn in self.turns]
        wanted = _stems_and_numbers(claim.text)
        in_common = [sum(1 / _frequency(self._stems, each) for each in wanted & said) for said in self._stems]
        ranking = sorted((place for place, much in enumerate(in_common) if much), key=lambda at: (-in_common[at], at))
        return sorted(ranking[:NEAREST])

    def question_before(self, place: int) -> int | None:
        """The place of the question that a turn answers."""
        if place == 0 or self.turns[place - 1].speaker == self.turns[place].speaker:
            return None
        return place - 1 if self.turns[place - 1].text.rstrip().endswith("?") else None

    def knows(self, name: str) -> bool:
        """Whether a name is said or spelled in the call, also if it is written a little differently."""
        name = name.casefold()
        return name in self._letters or bool(difflib.get_close_matches(name, self._words, n=1, cutoff=_LIKE_NAME))


class _Case:
    """One claim and what it is held against: an answer is read together with the question before it."""

    def __init__(self, text: str, call: _Call, cited: Sequence[int]) -> None:
        self.text = text
        self.call = call
        self._cited = [call.turns[place] for place in cited]
        questions = {place: call.question_before(place) for place in cited}
        self._answers = [
            pair
            for place, before in questions.items()
            if before is not None and (pair := answered(call.turns[before].text, call.turns[place].text))
        ]
        around = sorted({*cited, *(before for before in questions.values() if before is not None)})
        self._around = [call.turns[place] for place in around]
        self._said = " . ".join(turn.text for turn in self._around)
        self._wanted = _stems_and_numbers(text)
        self.passages = self._nearest(_passages(self._around, english=call.english))

    @property
    def rules(self) -> tuple[Signal, ...]:
        return ("numbers", "names", "speakers", "negation") if self.call.english else ("numbers", "names")

    @property
    def in_common(self) -> float:
        """The share of the claim's content words, numbers and dates that were said."""
        return len(self._wanted & _stems_and_numbers(self._said)) / len(self._wanted) if self._wanted else 0.0

    def _nearest(self, passages: Sequence[str]) -> list[str]:
        if len(passages) <= MAX_PASSAGES:
            return list(passages)
        much = [len(self._wanted & _stems_and_numbers(passage)) for passage in passages]
        places = sorted(range(len(passages)), key=lambda place: (-much[place], place))[:MAX_PASSAGES]
        return [passages[place] for place in sorted(places)]

    def objection(self) -> tuple[Doubt, str] | None:
        """The first rule that speaks against the claim."""
        if not self._cited:
            return "citation", "no turn has anything to do with it"
        said = Quantities(self._said)
        missing = Quantities(self.text).missing_from(said)
        if missing and (self.call.english or re.search(r"\d", self._said)):
            return "number", f"{', '.join(missing)} is not said there"
        if unknown := [name for name in self._names() if not self.call.knows(name)]:
            return "name", f"{', '.join(unknown)} is not said in the call"
        if self.call.english:
            lines, around = _lines(self._cited), _lines(self._around)
            if wrong := misattributed(self.text, lines, around, self.call.names):
                return "speaker", wrong
            if wrong := negates(
                self.text, [part for turn in self._around for part in sentences(turn.text)], self._answers
            ):
                return "negation", wrong
        return None

    def _names(self) -> list[str]:
        """Words with a capital that no sentence begins with, or with another such word behind it."""
        if self.call.capitals:
            return []
        found = []
        for sentence in sentences(self.text):
            for match in _NAME.finditer(sentence):
                begins = match.start() == 0 and not re.match(r" [A-Z][a-z]{2,}", sentence[match.end() :])
                if not begins and match[0].casefold() not in _NO_NAMES:
                    found.append(match[0])
        return found


def _lines(turns: Iterable[Spoken]) -> list[Line]:
    return [line for turn in turns for line in lines_of(turn.speaker, turn.text)]


def _passages(turns: Sequence[Spoken], *, english: bool) -> list[str]:
    """What a claim's embedding is compared with: as it was said, and in English as somebody else would tell it."""
    said = [[(turn.speaker, part) for part in sentences(turn.text)] for turn in turns]
    passages: list[str] = []
    for tell in (_as_said, _retold) if english else (_as_said,):
        told = [[tell(*part) for part in turn] for turn in said]
        for turn in told:
            passages += [*turn, *map(" ".join, itertools.pairwise(turn)), " ".join(turn)]
        passages.append(" ".join(part for turn in told for part in turn))
    return [text for text in dict.fromkeys(passages) if text and len(text.split()) <= MAX_WORDS] or passages[:1]


def _as_said(_speaker: str, text: str) -> str:
    return text


def _retold(speaker: str, text: str) -> str:
    """With the sides in place of "I" and "you"."""
    side = side_of(speaker)
    if side is None:
        return text
    own, their = f"the {side}", f"the {other(side)}"
    told = {"i": own, "we": own, "me": own, "us": own, "my": f"{own}'s", "our": f"{own}'s"}
    told |= {"you": their, "your": f"{their}'s"}
    text = text.replace("I'm", "I am")
    return re.sub(r"\b(I|[Ww]e|[Mm]e|us|[Mm]y|[Oo]ur|[Yy]ou|[Yy]our)\b", lambda match: told[match[0].casefold()], text)


def _stems_and_numbers(text: str) -> set[str]:
    quantities = Quantities(text)
    return {*content_stems(text), *quantities.dates, *quantities.values}


def _frequency(documents: Sequence[set[str]], stem: str) -> int:
    return sum(stem in document for document in documents)
