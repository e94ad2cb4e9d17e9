"""Word errors in any language: after Whisper's English normalization, for the rest after its basic one.

Digits count one by one, and so do the letters of a spelled word, so that each lost one is an error. A name that was
spelled and is written as a word is right.
"""

import functools
import re
from collections.abc import Callable
from typing import Any, Final

import jiwer

from benchmarks.speech.scoring import Errors
from tests.calls.wording import comparable

LEAST_SPELLED: Final = 3


def word_errors(said: str, written: str, language: str) -> Errors:
    """Return the errors of a text against what was said."""
    normal = comparable if language == "en" else _basic()
    true = _digits_apart(_letters_apart(said, normal))
    given = _digits_apart(_spelled(_letters_apart(written, normal), true))
    if not true.strip():
        return Errors(inserted=len(given.split()))
    outcome = jiwer.process_words(true, given)
    return Errors(
        outcome.hits + outcome.substitutions + outcome.deletions,
        outcome.substitutions,
        outcome.deletions,
        outcome.insertions,
    )


def _letters_apart(text: str, normal: Callable[[str], str]) -> str:
    """Return the normalized text; runs of single letters, which `comparable` joins, stay apart."""
    letters = re.compile(r"(?<![\w'])(?:[^\W\d_][\s,.-]+){2,}[^\W\d_](?![\w'])")
    parts: list[str] = []
    at = 0
    for match in letters.finditer(text):
        parts += [normal(text[at : match.start()]), *re.findall(r"\w", match[0].casefold())]
        at = match.end()
    return " ".join(part for part in [*parts, normal(text[at:])] if part.strip())


def _digits_apart(text: str) -> str:
    return re.sub(r"(?<=\d)(?=\d)", " ", text)


def _spelled(given: str, true: str) -> str:
    """Return a text in which words that were spelled are spelled."""
    runs = ["".join(run.split()) for run in re.findall(r"(?<!\S)(?:\S ){2,}\S(?!\S)", true)]
    words = [
        " ".join(word) if len(word) >= LEAST_SPELLED and any(word in run for run in runs) else word
        for word in given.split()
    ]
    return " ".join(words)


@functools.cache
def _basic() -> Callable[[str], str]:
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer

    normalizer: Any = BasicTextNormalizer()
    return lambda text: str(normalizer(text)).strip()
