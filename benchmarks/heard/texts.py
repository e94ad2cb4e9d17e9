"""Word errors in any language: English as elsewhere, the rest after Whisper's basic normalization."""

import functools
from collections.abc import Callable
from typing import Any

import jiwer

from benchmarks.speech.scoring import Errors
from tests.calls.wording import comparable


def word_errors(said: str, written: str, language: str) -> Errors:
    """Return the errors of a text against what was said."""
    normal = comparable if language == "en" else _basic()
    true, given = normal(said), normal(written)
    if not true.strip():
        return Errors(inserted=len(given.split()))
    outcome = jiwer.process_words(true, given)
    return Errors(
        outcome.hits + outcome.substitutions + outcome.deletions,
        outcome.substitutions,
        outcome.deletions,
        outcome.insertions,
    )


@functools.cache
def _basic() -> Callable[[str], str]:
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer

    normalizer: Any = BasicTextNormalizer()
    return lambda text: str(normalizer(text)).strip()
