"""Who does what: the sides of a call, in what they say of "me" and "you" and in what is claimed of them.

A call has two sides: the agent, with the house that is spoken for, and the customer. What one says of "I" is about
their own side, what they say of "you" about the other. English only.
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
"""The agent's side too, where a claim says that they do something; in what is said they may be another house."""

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
"""Verbs whose subject says what the claim goes on to tell."""
_REPLY: Final = frozenset(
    map(stem, word_set("agree accept confirm refuse decline reject acknowledge understand deny verify"))
)
"""Verbs whose subject says something to what the other said."""

_SAME: Final = {stem("receive"): "get", stem("phone"): stem("call"), stem("ring"): stem("call")}
"""Verbs that summaries put in place of others."""
_LIGHT: Final = {
    **dict.fromkeys(word_set("have has had"), "have"),
    **dict.fromkeys(word_set("need needs needed"), "need"),
}
_BE: Final = word_set("am is are was were be been being")

REACH: Final = 5
"""How many words behind its subject a verb may stand: "I am also going to send"."""


class Line(msgspec.Struct, frozen=True):
    """A sentence of a turn: whose side says it, and its words with the subjects among them."""

    side: Side | None
    words: tuple[str, ...]
    stems: tuple[str, ...]
    subjects: tuple[Side | None, ...]
    """For each word the side that it names as who does something."""
    owners: tuple[Side | None, ...]
    """For each word the side that it names at all."""


def side_of(speaker: str) -> Side | None:
    """None for a speaker that is named by a number or a name: nobody knows which side that is."""
    return _SIDES.get(speaker.casefold().strip())


def other(side: Side) -> Side:
    return "customer" if side == "agent" else "agent"


def names_of(turns: Iterable[tuple[str, str]]) -> dict[str, Side]:
    """The sides of people who introduce themselves or are greeted, from (speaker, text) pairs."""
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
    """The sentences of a turn, with who acts in them as far as "I" and "you" tell."""
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
    behind = said[index + 1] if index + 1 < len(said) else ""
    return not before or before in _BEFORE_SUBJECT or before in _ASKED or behind in _AUXILIARY - {"a", "an", "the"}


class _Mention(msgspec.Struct, frozen=True):
    """A side that a claim speaks of: where, and whether as what acts, as what owns or as a house."""

    side: Side
    index: int
    possessive: bool = False
    house: bool = False


def misattributed(claim: str, lines: Sequence[Line], around: Sequence[Line], names: dict[str, Side]) -> str | None:
    """What a claim says of one side that the other said or did, in words; None where nothing speaks against it.

    `lines` are what the claim cites, `around` is that with the questions it answers; `names` are those of the sides.
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
    """Sides that stand as subject or owner in a claim; those that something is done to or for are left out."""
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
    """The words behind a subject, from the main verb on. A wish ("would like") counts as the verb.

    Of "has a voucher" and "needs the form" it is what is had or needed, and "have" or "need" is told beside it.
    """
    behind = list(said[index + 1 :])
    if (
        behind[:2] == ["would", "like"]
        or behind[:2] == ["would", "rather"]
        or (behind and behind[0] in _WISHES - {"would"})
    ):
        return ["wants", *behind], ""
    through = last = ""
    while behind and (behind[0] in _AUXILIARY or behind[0].endswith("ly")):
        word = behind.pop(0)
        through = _LIGHT.get(last, "") if word in ("a", "an", "the") else through
        last = word
    return behind, through


def _passive(behind: Sequence[str]) -> bool:
    """Whether what stands behind a subject, up to its verb, says that something is done to it."""
    auxiliaries = [word for word in behind[:-1] if not word.endswith("ly")]
    return bool(auxiliaries) and auxiliaries[-1] in _BE and not behind[-1].endswith("ing")


def _verb(word: str) -> str:
    return _SAME.get(stem(word), stem(word))


def _doers(verb: str, lines: Sequence[Line], through: str = "") -> set[Side]:
    """The sides that stand as subject shortly before the verb, wherever it is said, with `through` in between."""
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
    """The sides whose the noun is: my bill, your last bill."""
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
