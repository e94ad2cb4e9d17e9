"""The support check: judges if the claims of a summary follow from the turns that they cite.

Rules compare what can be told apart exactly: numbers and dates, who said or did it, yes and no, names. The rest is
judged by similarity: sentence embeddings of the claim and of the nearest cited turns, their sentences and neighbouring
pairs, and the words in common. This is no proof: a claim that changes the meaning in words that no rule knows ("most
lines are still down" for "most lines are back") passes. `benchmarks.support` measures how often.

Attribution and negation are checked in English only, and numbers in words are read in English only. In other languages
a claim's digits are compared if the transcript has digits at all.
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
"""Lowest score of a supported claim with embeddings."""
LIKE_WORDS: Final = 0.22
"""The same for words in common alone."""
LIKE_FOREIGN: Final = 0.35
"""The same for languages other than English, of which the default model knows little."""
WORDS_SHARE: Final = 0.25
"""Share of words in common in the score; the rest is the similarity of embeddings."""

MAX_PASSAGES: Final = 8
"""A claim's embedding is compared with this many cited passages, those with the most words in common."""
MAX_WORDS: Final = 60
"""Longer passages are compared sentence by sentence: an embedding of much text says little of each part."""
NEAREST: Final = 4
"""A claim without citations is compared with this many turns."""

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
    """The properties of a turn that the check needs; `schemas.transcripts.Turn` has them."""

    @property
    def speaker(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def segment_ids(self) -> list[str]: ...


class Support(msgspec.Struct, frozen=True, kw_only=True):
    """The judgement of a claim. `reason` and `detail` say why it is not supported, `signals` what was compared."""

    supported: bool
    reason: Doubt | None
    detail: str
    score: float
    """Similarity to the cited turns, from 0 to 1. For claims to which a rule objects, that of the words alone."""
    signals: tuple[Signal, ...]


class SupportCheck:
    """Judges the claims of summaries; without an embedder by rules and words alone. Thread-safe."""

    def __init__(self, embedder: Embedder | None = None) -> None:
        self._embedder = embedder

    def judge(self, claims: Sequence[Claim], turns: Sequence[Spoken], *, language: str = "en") -> list[Support]:
        """Return a judgement for each claim, in order. Deterministic. Raises what the embedder raises.

        A claim without citations is compared with the turns nearest to it. One about the whole call is compared with
        all turns, by numbers, names and likeness alone: over a whole call, most things are both said and denied.
        `language` is an ISO 639-1 code. Blocks: ten claims take about half a second of one core. Only cited passages
        are embedded, all at once, and only for claims to which no rule objects.
        """
        call = _Call(turns, english=language.split("-")[0] == "en", capitals=language.split("-")[0] in _CAPITALIZING)
        cases = [_Case(claim.text, call, call.cited(claim), whole=claim.whole) for claim in claims]
        objections = [case.objection() for case in cases]
        unlike = iter(self._likeness([case for case, found in zip(cases, objections, strict=True) if found is None]))
        return [
            self._judged(case, next(unlike)) if found is None else self._objected(case, *found)
            for case, found in zip(cases, objections, strict=True)
        ]

    def _likeness(self, cases: Sequence["_Case"]) -> list[float]:
        """Return each claim's greatest cosine with a cited passage; without an embedder its words in common."""
        texts = list(dict.fromkeys(text for case in cases for text in (case.text, *case.passages)))
        if self._embedder is None or not texts:
            return [case.in_common for case in cases]
        vectors = self._embedder.passages(texts)
        indexes = {text: index for index, text in enumerate(texts)}
        return [
            float(np.max(vectors[[indexes[text] for text in case.passages]] @ vectors[indexes[case.text]]))
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
        judged = [claim for claim in claims if claim.can_be_judged]
        answers = iter(check().judge(judged, turns, language=language))
        return [next(answers).reason if claim.can_be_judged else "citation" for claim in claims]

    return judge


class _Call:
    """The turns of a call, and its names and words as a whole."""

    def __init__(self, turns: Sequence[Spoken], *, english: bool, capitals: bool) -> None:
        self.turns = turns
        self.english = english
        self.capitals = capitals
        self.names: dict[str, Side] = names_of((turn.speaker, turn.text) for turn in turns) if english else {}
        self._words = set(re.findall(r"[^\W\d_]+", " ".join(turn.text for turn in turns).casefold()))
        self._letters = "".join(char for turn in turns for char in turn.text.casefold() if char.isalpha())
        self._stems: list[set[str]] | None = None

    def cited(self, claim: Claim) -> list[int]:
        """Return the indexes of the turns that a claim cites, in order."""
        ids = set(claim.segment_ids)
        if claim.whole:
            return list(range(len(self.turns)))
        if ids:
            return [index for index, turn in enumerate(self.turns) if ids.intersection(turn.segment_ids)]
        if self._stems is None:
            self._stems = [_stems_and_numbers(turn.text) for turn in self.turns]
        wanted = _stems_and_numbers(claim.text)
        in_common = [sum(1 / _frequency(self._stems, each) for each in wanted & said) for said in self._stems]
        ranking = sorted((index for index, much in enumerate(in_common) if much), key=lambda at: (-in_common[at], at))
        return sorted(ranking[:NEAREST])

    def question_before(self, index: int) -> int | None:
        """Return the index of the question that a turn answers; None if it answers none."""
        if index == 0 or self.turns[index - 1].speaker == self.turns[index].speaker:
            return None
        return index - 1 if self.turns[index - 1].text.rstrip().endswith("?") else None

    def knows(self, name: str) -> bool:
        """Return True if a name is said or spelled in the call, in this or a similar spelling."""
        name = name.casefold()
        return name in self._letters or bool(difflib.get_close_matches(name, self._words, n=1, cutoff=_LIKE_NAME))


class _Case:
    """A claim and the turns that it cites. An answer is read together with the question before it."""

    def __init__(self, text: str, call: _Call, cited: Sequence[int], *, whole: bool = False) -> None:
        self.text = text
        self._whole = whole
        self.call = call
        self._cited = [call.turns[index] for index in cited]
        questions = {index: call.question_before(index) for index in cited}
        self._answers = [
            pair
            for index, before in questions.items()
            if before is not None and (pair := answered(call.turns[before].text, call.turns[index].text))
        ]
        around = sorted({*cited, *(before for before in questions.values() if before is not None)})
        self._around = [call.turns[index] for index in around]
        self._said = " . ".join(turn.text for turn in self._around)
        self._wanted = _stems_and_numbers(text)
        self.passages = self._nearest(_passages(self._around, english=call.english))

    @property
    def rules(self) -> tuple[Signal, ...]:
        if self.call.english and not self._whole:
            return ("numbers", "names", "speakers", "negation")
        return ("numbers", "names")

    @property
    def in_common(self) -> float:
        """Share of the claim's content words, numbers and dates that occur in the cited turns."""
        return len(self._wanted & _stems_and_numbers(self._said)) / len(self._wanted) if self._wanted else 0.0

    def _nearest(self, passages: Sequence[str]) -> list[str]:
        if len(passages) <= MAX_PASSAGES:
            return list(passages)
        much = [len(self._wanted & _stems_and_numbers(passage)) for passage in passages]
        indexes = sorted(range(len(passages)), key=lambda index: (-much[index], index))[:MAX_PASSAGES]
        return [passages[index] for index in sorted(indexes)]

    def objection(self) -> tuple[Doubt, str] | None:
        """Return the objection of the first rule that the claim breaks."""
        if not self._cited:
            return "citation", "no turn has anything to do with it"
        said = Quantities(self._said)
        missing = Quantities(self.text).missing_from(said)
        if missing and (self.call.english or re.search(r"\d", self._said)):
            return "number", f"{', '.join(missing)} is not said there"
        if unknown := [name for name in self._names() if not self.call.knows(name)]:
            return "name", f"{', '.join(unknown)} is not said in the call"
        if self.call.english and not self._whole:
            lines, around = _lines(self._cited), _lines(self._around)
            if wrong := misattributed(self.text, lines, around, self.call.names):
                return "speaker", wrong
            if wrong := negates(
                self.text, [part for turn in self._around for part in sentences(turn.text)], self._answers
            ):
                return "negation", wrong
        return None

    def _names(self) -> list[str]:
        """Return capitalized words inside a sentence, or at its start if another one follows."""
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
    """Return the passages to compare with a claim: as they were said, and in English also in the third person."""
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
    """Replace "I" and "you" by the sides to which they refer."""
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
