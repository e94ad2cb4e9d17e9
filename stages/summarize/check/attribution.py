"""Attribution: compares who does or says something in a claim with who does in the call.

A call has two sides: the agent, with the company they speak for, and the customer. "I" refers to the speaker's own
side, "you" to the other. English only.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Final, Literal

import msgspec

from stages.summarize.check.words import FUNCTION_WORDS, stem, words
from stages.text import sentences, word_set

Side = Literal["agent", "customer"]

_SIDES: Final[dict[str, Side]] = {
    **dict.fromkeys(
        word_set("agent representative rep operator advisor adviser employee clerk nurse receptionist"), "agent"
    ),
    **dict.fromkeys(word_set("customer caller client patient passenger subscriber guest policyholder"), "customer"),
}
_HOUSES: Final = word_set("bank clinic hospital company firm store shop airline provider support")
"""Companies: the agent's side if a claim says that they do something. In a turn they may be another company."""

_OWN: Final = word_set("i we")
_MINE: Final = word_set("my our me us mine ours myself ourselves")
_AUXILIARY: Final = word_set(
    """will would can could shall should may might must do does did am is are was were be been being have has
    had need needs ought let to not never also already still just now then soon going able
    unable really only today please like want wants wanted wish wishes currently always today first possibly
    around about a an the"""
)
_BEFORE_SUBJECT: Final = word_set(
    """if when that whether what where how why as because so and but or until once while since after before who
    which then unless though although"""
)
_ASKED: Final = word_set("can could would will do did are were have may should shall must is was")
_LINKS: Final = word_set("and but because that which who if although though while so whereas since when whose")

_SPEECH: Final = frozenset(
    map(
        stem,
        word_set(
            """say state report explain mention complain insist inquire inform point clarify note claim
            describe ask request advise recommend suggest propose offer promise want wish prefer hope wonder
            apologize apologise thank admit tell"""
        ),
    )
)
"""Verbs whose subject says what follows in the claim."""
_REPLY: Final = frozenset(
    map(stem, word_set("agree accept confirm refuse decline reject acknowledge understand deny verify"))
)
"""Verbs whose subject responds to the other side."""

_SAME: Final = {stem("receive"): "get", stem("phone"): stem("call"), stem("ring"): stem("call")}
"""Verbs that summaries use in place of others."""
_LIGHT: Final = {
    **dict.fromkeys(word_set("have has had"), "have"),
    **dict.fromkeys(word_set("need needs needed"), "need"),
}
_BE: Final = word_set("am is are was were be been being")

REACH: Final = 5
"""Largest distance of a verb from its subject, in words: "I am also going to send"."""


class Line(msgspec.Struct, frozen=True):
    """A sentence of a turn: the side that says it, its words, and the sides that they refer to."""

    side: Side | None
    words: tuple[str, ...]
    stems: tuple[str, ...]
    subjects: tuple[Side | None, ...]
    """For each word the side to which it refers as the subject of a verb."""
    owners: tuple[Side | None, ...]
    """For each word the side to which it refers in any role."""


def side_of(speaker: str) -> Side | None:
    """Return a speaker's side; None for a number or a name, whose side is unknown."""
    return _SIDES.get(speaker.casefold().strip())


def other(side: Side) -> Side:
    return "customer" if side == "agent" else "agent"


def names_of(turns: Iterable[tuple[str, str]]) -> dict[str, Side]:
    """Return the sides of people who introduce themselves or are greeted, from (speaker, text) pairs."""
    found: dict[str, Side] = {}
    for speaker, text in turns:
        side = side_of(speaker)
        if side is None:
            continue
        for match in _INTRODUCED.finditer(text):
            for name in filter(None, match.groups()):
                found.setdefault(name.casefold(), side)
        for match in _GREETED.finditer(text):
            found.setdefault(match[1].casefold(), other(side))
    return found


_NAME: Final = r"([A-Z][a-z]+)"
_INTRODUCED: Final = re.compile(
    r"(?:[Mm]y name is|[Tt]his is|speaking with|speaking to|talking to|through to|this is nurse|I am|I'm) "
    rf"{_NAME}(?: {_NAME})?"
    rf"|\b{_NAME} (?:speaking|here)\b"
)
_GREETED: Final = re.compile(
    rf"(?:[Hh]ello|[Hh]i|[Gg]oodbye|[Bb]ye|[Tt]hank you|[Tt]hanks|[Pp]atience),? (?:(?:Mr|Mrs|Ms|Miss)\.? )?{_NAME}\b"
)


def lines_of(speaker: str, text: str) -> list[Line]:
    """Return the sentences of a turn, with the sides to which "I" and "you" refer."""
    side = side_of(speaker)
    lines = []
    for sentence in sentences(text):
        said = words(sentence)
        subjects: list[Side | None] = [None] * len(said)
        owners: list[Side | None] = [None] * len(said)
        if side is not None:
            for index, word in enumerate(said):
                owners[index], subjects[index] = _deictic(said, index, word, side)
        lines.append(Line(side, tuple(said), tuple(map(stem, said)), tuple(subjects), tuple(owners)))
    return lines


def _deictic(said: Sequence[str], index: int, word: str, side: Side) -> tuple[Side | None, Side | None]:
    if word in _OWN:
        return side, side
    if word in _MINE:
        lets = word == "me" and index > 0 and said[index - 1] == "let"
        return side, side if lets else None
    if word in ("you", "your", "yours", "yourself"):
        return other(side), other(side) if word == "you" and _is_subject(said, index) else None
    if word == "please" and index == 0 and len(said) > 1:
        return other(side), other(side)
    return None, None


def _is_subject(said: Sequence[str], index: int) -> bool:
    before = said[index - 1] if index else ""
    after = said[index + 1] if index + 1 < len(said) else ""
    return not before or before in _BEFORE_SUBJECT or before in _ASKED or after in _AUXILIARY - {"a", "an", "the"}


class _Mention(msgspec.Struct, frozen=True):
    """A side to which a claim refers: at which word, and whether as an owner or a company."""

    side: Side
    index: int
    possessive: bool = False
    house: bool = False


def misattributed(claim: str, lines: Sequence[Line], around: Sequence[Line], names: dict[str, Side]) -> str | None:
    """Say in words what a claim attributes to the wrong side; None if there is no objection.

    Args:
        claim: the claim.
        lines: the sentences that it cites.
        around: the same, and the questions that they answer.
        names: names of people, with their sides.
    """
    if not lines or any(line.side is None for line in lines):
        return None
    said = words(claim)
    present = {line.side for line in lines} | {owner for line in lines for owner in line.owners}
    speaking = {line.side for line in lines}
    for mention in _mentions(claim, said, names):
        if mention.possessive:
            owned = stem(said[mention.index + 1]) if mention.index + 1 < len(said) else ""
            if _owners(owned, around) == {other(mention.side)}:
                return f"{said[mention.index + 1]} of the {other(mention.side)}, not of the {mention.side}"
            continue
        if mention.side == "agent" and not mention.house and "agent" not in present and any(map(_of_self, lines)):
            return "the customer says it, and of themselves"
        clause, through = _clause(said, mention.index)
        if not clause:
            continue
        verb = _verb(clause[0])
        if clause[0] in _WISHES or verb in _SPEECH | _REPLY:
            heard = mention.house and clause[0] not in _WISHES
            if mention.side not in speaking and not heard and mention.side not in _doers(verb, around):
                return f"the {mention.side} says nothing of it, the {other(mention.side)} does"
            continue
        passive = _passive(said[mention.index + 1 : len(said) - len(clause) + 1])
        if not passive and _doers(verb, around, through) == {other(mention.side)}:
            return f"the {other(mention.side)} does it, not the {mention.side}"
    return None


_WISHES: Final = word_set("wants want wanted wishes would like likes prefers prefer")


def _of_self(line: Line) -> bool:
    return line.side in line.owners


def _mentions(claim: str, said: Sequence[str], names: dict[str, Side]) -> list[_Mention]:
    """Return the sides that are subjects or owners in a claim, but not objects."""
    owning = {match[1].casefold() for match in re.finditer(r"(\w+)['’]s?\b", claim)}
    capitals = {match[0].casefold() for match in re.finditer(r"\b[A-Z]\w+", claim)}
    names = {name: side for name, side in names.items() if name in capitals}
    found = []
    for index, word in enumerate(said):
        side = _SIDES.get(word) or names.get(word) or ("agent" if word in _HOUSES else None)
        if side is None:
            continue
        named = index and (said[index - 1] in ("the", "a", "this") or word in names)
        start = index
        while start and (
            said[start - 1] in ("the", "a", "this", "nurse", "dr", "mr", "mrs", "ms") or said[start - 1] in names
        ):
            start -= 1
        if index + 1 < len(said) and (said[index + 1] in _SIDES or said[index + 1] in names):
            continue
        if word in owning:
            if word not in _HOUSES:
                found.append(_Mention(side, index, possessive=True))
            continue
        if start == 0 or (named and said[start - 1] in _LINKS):
            found.append(_Mention(side, index, house=word in _HOUSES))
    return found


def _clause(said: Sequence[str], index: int) -> tuple[list[str], str]:
    """Return the words after a subject, from the main verb on. A wish ("would like") counts as the verb.

    For "has a voucher" and "needs the form" they begin with the object; "have" or "need" is then the second result.
    """
    after = list(said[index + 1 :])
    if (
        after[:2] == ["would", "like"]
        or after[:2] == ["would", "rather"]
        or (after and after[0] in _WISHES - {"would"})
    ):
        return ["wants", *after], ""
    through = last = ""
    while after and (after[0] in _AUXILIARY or after[0].endswith("ly")):
        word = after.pop(0)
        through = _LIGHT.get(last, "") if word in ("a", "an", "the") else through
        last = word
    return after, through


def _passive(after: Sequence[str]) -> bool:
    """Return True if the words from a subject to its verb are in the passive."""
    auxiliaries = [word for word in after[:-1] if not word.endswith("ly")]
    return bool(auxiliaries) and auxiliaries[-1] in _BE and not after[-1].endswith("ing")


def _verb(word: str) -> str:
    return _SAME.get(stem(word), stem(word))


def _doers(verb: str, lines: Sequence[Line], through: str = "") -> set[Side]:
    """Return the sides that are subjects shortly before the verb in any line, with `through` in between if given."""
    found = set[Side]()
    for line in lines:
        for index, word in enumerate(line.stems):
            if _SAME.get(word, word) != verb:
                continue
            for place in range(index - 1, max(index - REACH, 0) - 1, -1):
                subject = line.subjects[place]
                if subject is not None:
                    if not through or any(_LIGHT.get(word) == through for word in line.words[place:index]):
                        found.add(subject)
                    break
    return found


def _owners(noun: str, lines: Sequence[Line]) -> set[Side]:
    """Return the sides that own the noun: my bill, your last bill."""
    if not noun or noun in FUNCTION_WORDS:
        return set()
    return {
        owner
        for line in lines
        for index, word in enumerate(line.stems)
        if word == noun
        for place in range(max(index - 2, 0), index)
        if (owner := line.owners[place]) is not None and line.words[place] in ("my", "our", "your")
    }
