"""English words and stems, as far as comparing a claim with what was said needs them."""

import re
from collections.abc import Iterator
from typing import Final

from stages.text import word_set

_WORD: Final = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?|\d+(?:[.,:]\d+)*")


FUNCTION_WORDS: Final = word_set(
    """a about above after again all also am an and another any anybody anyone anything are as at be because
    been before being below between both but by can could did do does doing done down during each either
    else even ever every everybody everyone everything few for from further get gets getting going got had
    has have having he her here hers him his how i if in into is it its itself just let like made make many
    may me might more most much must my near neither no nobody none nor not nothing now of off on once one
    only or other our ours out over own per please quite rather really she should since so some somebody
    someone something still such than that the their them then there these they this those though through to
    today too towards under until up upon us very was we well were what when where which while who whom
    whose why will with within without would yes you your yours ok okay said say says tell told state states
    stated mention mentions mentioned customer customers caller agent representative"""
)

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
        "fly": "flew flown", "steal": "stole stolen", "build": "built", "spend": "spent", "hold": "held",
        "grow": "grew grown",
        "drink": "drank drunk", "catch": "caught", "understand": "understood", "wake": "woke woken",
    }.items()
    for form in forms.split()
}  # fmt: skip


def words(text: str) -> list[str]:
    """Words and figures in order, in lower case; a contraction's negation is a word: don't → do, not."""
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
    """A form that most inflections of an English word share; not itself a word."""
    word = _IRREGULAR.get(word, word)
    for suffix in ("ations", "ation", "ments", "ment", "ings", "ing", "ied", "ies", "ed", "es", "ly", "s"):
        if word.endswith(suffix) and len(word) - len(suffix) >= 3 and not word.endswith(("ss", "ply")):
            word = word[: -len(suffix)] + ("y" if suffix in ("ied", "ies") else "")
            break
    if len(word) > 3 and word[-1] == word[-2]:
        word = word[:-1]
    word = word.removesuffix("e") if len(word) > 3 else word
    return word[:-1] + "i" if len(word) > 2 and word.endswith("y") else word


def content_stems(text: str) -> list[str]:
    """Stems of the words that carry the meaning, each once, in order."""
    kept = (word for word in words(text) if word not in FUNCTION_WORDS and len(word) > 1 and not word[0].isdigit())
    return list(dict.fromkeys(stem(word) for word in kept))
