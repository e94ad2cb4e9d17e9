"""Numbers and dates in a text, in digits or in words: $142.50 is one hundred forty two dollars and fifty cents.

Times, amounts and spelled digits are reduced to strings of digits that can be compared: 5:15, "five fifteen" and "a
quarter past five" are 515; "September the third" is the month and 3. Units are dropped.
"""

import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Final

from stages.text import in_order, word_set

_UNITS: Final = {
    word: value
    for value, word in enumerate(
        in_order(
            """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
            sixteen seventeen eighteen nineteen"""
        )
    )
} | {"oh": 0}
_TENS: Final = {
    word: value
    for value, word in zip(
        range(20, 100, 10), in_order("twenty thirty forty fifty sixty seventy eighty ninety"), strict=True
    )
}
_SCALES: Final = {"hundred": 100, "thousand": 1_000, "million": 1_000_000}
_ORDINALS: Final = {
    word: value
    for value, word in enumerate(
        in_order(
            """first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth
            fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth"""
        ),
        start=1,
    )
} | {"thirtieth": 30}
_DOZEN: Final = {"dozen": 12}
_IMPLIED: Final = {
    "a": "1", "an": "1", "once": "1", "single": "1", "another": "1", "both": "2", "twice": "2", "couple": "2",
    "pair": "2", "double": "2", "half": "0.5", "noon": "12", "midnight": "12",
}  # fmt: skip
"""Numbers that a claim may state where the call has these words. A claim with these words needs no number."""
_REPEATS: Final = {"double": 2, "triple": 3}
_MONTHS: Final = {
    month[:3]: month
    for month in in_order("""january february march april may june july august september october november december""")
}
_MONTH_NAMES: Final = frozenset(_MONTHS.values())
_WEEKDAYS: Final = word_set("monday tuesday wednesday thursday friday saturday sunday")
_OTHER_DAYS: Final = word_set("tomorrow yesterday")

_TOKEN: Final = re.compile(
    r"(?P<time>\d{1,2}:\d{2})|(?P<ordinal>\d+)(?:st|nd|rd|th)\b|(?P<number>\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?)"
    r"|(?P<word>[^\W\d_]+)|(?P<mark>[^\s])",
    re.IGNORECASE,
)

MAX_JOINED: Final = 24
"""Most digits that are joined to one number: a card has 16, a bank account up to 24."""
ENDS: Final = 3
"""A claim may give at least this many digits from the end of a longer number: "the card ending in 228"."""

_Kind = str
_Token = tuple[_Kind, str]


class Quantities:
    """The numbers, weekdays and months of a text."""

    def __init__(self, text: str) -> None:
        tokens = _tokens(text)
        self.dates = _dates(tokens)
        self._runs = [run for run in _runs(tokens) if run]
        self._whole, self._joined = set[str](), set[str]()
        for run in self._runs:
            values = [value for value, _ in run]
            digits = len(values) > 2 and all(len(value) == 1 for value in values)
            if not digits:
                self._whole.update(values)
            self._joined.update(
                "".join(values[first:last])
                for first in range(len(values))
                for last in range(first + 2, min(first + MAX_JOINED, len(values)) + 1)
                if all("." not in value for value in values[first:last])
            )
        self._implied = {_IMPLIED[word] for kind, word in tokens if kind == "word" and word in _IMPLIED}

    @property
    def values(self) -> set[str]:
        """The numbers, including those joined from adjacent ones."""
        return self._whole | self._joined

    def missing_from(self, said: "Quantities") -> list[str]:
        """Return the numbers, days and months of a claim that do not occur in `said`."""
        missing = sorted(self.dates - said.dates)
        for run in self._runs:
            values = [value for value, _ in run]
            if len(run) > 1 and "".join(values) in said._whole | said._joined:
                continue
            missing += [value for value, vague in run if not (vague or said._allows(value))]
        return missing

    def _allows(self, value: str) -> bool:
        if value in self._whole or value in self._joined or value in self._implied:
            return True
        return len(value) >= ENDS and any(len(long) > ENDS + 1 and long.endswith(value) for long in self.values)


def _tokens(text: str) -> list[_Token]:
    text = re.sub(r"(?<=[a-z])-(?=[a-z])", " ", text.casefold().replace("’", "'"))
    text = re.sub(r"(\d)-(?=\d)", r"\1 ", text)
    return [(str(match.lastgroup), match[str(match.lastgroup)]) for match in _TOKEN.finditer(text)]


def _dates(tokens: list[_Token]) -> set[str]:
    """Return months and weekdays. "May" and "March" are months only next to a day or after a preposition of time."""
    found = set[str]()
    for index, (kind, word) in enumerate(tokens):
        if kind != "word":
            continue
        if word in _WEEKDAYS or word.removesuffix("s") in _WEEKDAYS:
            found.add(word.removesuffix("s"))
        elif word in _OTHER_DAYS:
            found.add(word)
        elif word in _MONTH_NAMES or (word in _MONTHS and word not in ("may", "mar", "dec", "jan", "sep")):
            if word in ("may", "march") and not _next_to_a_day(tokens, index):
                continue
            found.add(_MONTHS[word[:3]])
    return found


def _next_to_a_day(tokens: list[_Token], index: int) -> bool:
    before = tokens[index - 1] if index else ("", "")
    after = tokens[index + 1 : index + 3]
    return (
        before[1] in ("in", "of", "since", "until", "last", "next", "by")
        or _is_number(before)
        or any(_is_number(token) for token in after[:1])
        or (len(after) == 2 and after[0][1] == "the" and _is_number(after[1]))
    )


def _is_number(token: _Token) -> bool:
    kind, text = token
    return kind in ("ordinal", "number", "time") or text in _UNITS or text in _TENS or text in _ORDINALS


def _runs(tokens: list[_Token]) -> Iterator[list[tuple[str, bool]]]:
    """Yield runs of adjacent numbers, each with True if it may be no number at all ("one", "the first")."""
    run: list[tuple[str, bool]] = []
    at = 0
    while at < len(tokens):
        kind, text = tokens[at]
        clock = _clock(tokens, at)
        if clock is not None:
            value, at = clock
            run.append((value, False))
            continue
        if kind == "word" and text in _REPEATS and at + 1 < len(tokens) and tokens[at + 1][1] in _UNITS:
            run += [(str(_UNITS[tokens[at + 1][1]]), False)] * _REPEATS[text]
            at += 2
            continue
        if kind == "time":
            run.append((_time(text), False))
            at += 1
            continue
        number = _number(tokens, at)
        if number is not None:
            value, next_at = number
            in_date = any(word in _MONTH_NAMES for _, word in tokens[max(at - 2, 0) : next_at + 2])
            vague = next_at == at + 1 and text in ("one", "first", "second", "oh") and not in_date
            run.append((value, vague))
            at = next_at
            continue
        if text in (",", "-") or (text == "and" and run and at + 1 < len(tokens) and tokens[at + 1][1] == "then"):
            at += 1
            continue
        if text == "then" and run:
            at += 1
            continue
        if run:
            yield run
            run = []
        at += 1
    if run:
        yield run


def _clock(tokens: list[_Token], at: int) -> tuple[str, int] | None:
    """Read a time such as half past seven or a quarter to six. Returns it, and the index after it."""
    said = [text for _, text in tokens[at : at + 3]]
    if len(said) < 3 or said[0] not in ("half", "quarter") or said[1] not in ("past", "to", "after"):
        return None
    hour = _UNITS.get(said[2], int(said[2]) if said[2].isdecimal() else 0)
    if not 1 <= hour <= 12:
        return None
    if said[1] == "to":
        return f"{hour - 1 or 12}45", at + 3
    return f"{hour}{'30' if said[0] == 'half' else '15'}", at + 3


def _time(text: str) -> str:
    """Return a time on the 12-hour clock, without minutes if they are zero."""
    hour, minute = text.split(":")
    hours = int(hour) - 12 if 13 <= int(hour) <= 23 else int(hour)
    return str(hours) if minute == "00" else f"{hours}{minute}"


def _number(tokens: list[_Token], at: int) -> tuple[str, int] | None:
    """Read one number from `at` on, in digits or words. Returns it, and the index after it."""
    kind, text = tokens[at]
    if kind == "ordinal":
        return _plain(text), at + 1
    if kind == "number" and (text.startswith("0") or len(text) > 6) and "." not in text and "," not in text:
        return text, at + 1
    whole = _cardinal(tokens, at)
    if whole is None:
        return None
    value, at = whole
    said = [word for _, word in tokens[at : at + 4]]
    if said[:1] == ["point"] and said[1:2] and _UNITS.get(said[1], 10) < 10 and value == int(value):
        decimals, at = "", at + 1
        while at < len(tokens) and _UNITS.get(tokens[at][1], 10) < 10:
            decimals += str(_UNITS[tokens[at][1]])
            at += 1
        scale = _SCALES.get(tokens[at][1], 1) if at < len(tokens) else 1
        return _plain(str(Decimal(f"{int(value)}.{decimals}") * scale)), at + (scale > 1)
    if said[:1] and said[0] in ("dollars", "dollar", "euros", "euro", "pounds", "pound"):
        after = at + 2 if said[1:2] == ["and"] else at + 1
        cents = _cardinal(tokens, after)
        if cents and cents[1] < len(tokens) and tokens[cents[1]][1] in ("cents", "cent", "pence", "pennies"):
            return _plain(str(value + cents[0] / 100)), cents[1] + 1
    return _plain(str(value)), at


def _cardinal(tokens: list[_Token], at: int) -> tuple[Decimal, int] | None:
    """Read a cardinal or ordinal. `group` is the part before the next scale word, `last` the kind of the last word."""
    total, group, last = Decimal(0), Decimal(0), None
    first = at
    while at < len(tokens):
        kind, text = tokens[at]
        if kind == "number" and last is None:
            group, last = Decimal(text.replace(",", "")), "digits"
        elif text in _DOZEN:
            group, last = (group or Decimal(1)) * _DOZEN[text], "done"
        elif (kind == "word" and text in _UNITS and last in (None, "hundred", "thousand")) or (
            kind == "word" and last == "tens" and 0 < _UNITS.get(text, 10) < 10
        ):
            group += _UNITS[text]
            last = "unit"
        elif kind == "word" and text in _TENS and last in (None, "hundred", "thousand"):
            group += _TENS[text]
            last = "tens"
        elif (
            kind == "word"
            and text in _ORDINALS
            and (last in (None, "hundred", "thousand") or (last == "tens" and _ORDINALS[text] < 10))
        ):
            return total + group + _ORDINALS[text], at + 1
        elif (
            kind == "word"
            and text in _SCALES
            and (last in ("unit", "tens", "digits") or (last == "hundred" and text != "hundred"))
        ):
            if text == "hundred":
                group, last = group * 100, "hundred"
            else:
                total, group, last = total + group * _SCALES[text], Decimal(0), "thousand"
        elif (
            text == "and"
            and last in ("hundred", "thousand")
            and at + 1 < len(tokens)
            and (tokens[at + 1][1] in _UNITS or tokens[at + 1][1] in _TENS)
        ):
            pass
        else:
            break
        at += 1
    if last is None:
        return None
    return total + group, max(at, first + 1)


def _plain(number: str) -> str:
    value = Decimal(number.replace(",", "")).normalize()
    return format(value, "f")
