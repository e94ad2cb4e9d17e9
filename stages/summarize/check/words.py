"""English words and stems, as far as comparing claims with turns needs them."""

import re
from collections.abc import Iterator
from typing import Final

from stages.text import COMMON_WORDS, porter_stem, word_set

_WORD: Final = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?|\d+(?:[.,:]\d+)*")

FUNCTION_WORDS: Final = COMMON_WORDS | word_set(
    """above also am another anybody anyone anything below between both customers done either else even ever every
    everybody everyone everything few further get gets getting going got itself let like made make many may
    mention mentioned mentions might much must near neither nobody none nothing ok okay one ours per please
    quite rather really representative since somebody someone something state stated states still tell though
    today told towards upon us well within without yes yours"""
)
"""Words that are ignored when a claim is compared with turns."""

_IRREGULAR: Final = {
    form: base
    for base, forms in {
        "bring": "brought", "break": "broke broken", "buy": "bought", "come": "came", "drive": "drove driven",
        "eat": "ate eaten", "fall": "fell fallen", "feel": "felt", "find": "found", "forget": "forgot forgotten",
        "get": "got gotten", "give": "gave given",
        "go": "went gone", "hang": "hung", "hear": "heard", "keep": "kept", "know": "knew known",
        "leave": "left", "lose": "lost", "say": "said", "mean": "meant", "meet": "met", "pay": "paid", "sell": "sold",
        "see": "saw seen", "send": "sent", "speak": "spoke spoken", "stand": "stood", "take": "took taken",
        "tell": "told",
        "think": "thought", "write": "wrote written", "begin": "began begun", "choose": "chose chosen",
        "fly": "flies flew flown", "steal": "stole stolen", "build": "built", "spend": "spent", "hold": "held",
        "grow": "grew grown",
        "drink": "drank drunk", "catch": "caught", "understand": "understood", "wake": "woke woken",
        "cry": "cries cried", "dry": "dries dried", "try": "tries tried",
    }.items()
    for form in forms.split()
}  # fmt: skip
"""Verb forms that the stemmer does not reduce to their verb."""


def words(text: str) -> list[str]:
    """Return words and numbers in order, in lower case. Contractions are split: don't → do, not."""
    return list(_words(text))


def _words(text: str) -> Iterator[str]:
    for word in _WORD.findall(text.casefold().replace("’", "'")):
        if word in ("can't", "cannot"):
            yield from ("can", "not")
        elif word == "won't":
            yield from ("will", "not")
        elif word.endswith("n't"):
            yield from (word[:-3], "not")
        else:
            head, quote, tail = word.partition("'")
            yield head
            if quote and tail != "s":
                yield {"ll": "will", "ve": "have", "re": "are", "m": "am", "d": "would"}.get(tail, tail)


def stem(word: str) -> str:
    """Return a form that most inflections of an English word share, including irregular verbs."""
    return porter_stem(_IRREGULAR.get(word, word))


def content_stems(text: str) -> list[str]:
    """Return the stems of the words that carry meaning, each once, in order."""
    kept = (word for word in words(text) if word not in FUNCTION_WORDS and len(word) > 1 and not word[0].isdigit())
    return list(dict.fromkeys(stem(word) for word in kept))
