"""Comparing what was said with what was written: how a number is written is no error."""

import re

import jiwer
from transformers.models.whisper.english_normalizer import EnglishTextNormalizer


def comparable(text: str) -> str:
    """Whisper's English normalization; then digits in a row are one number."""
    words: str = EnglishTextNormalizer({})(text)
    return re.sub(r"(?<=\d) (?=\d+\b)", "", words)


def word_errors(said: str, written: str) -> tuple[int, int]:
    """Substitutions, deletions and insertions together, and the number of words said."""
    outcome = jiwer.process_words(comparable(said), comparable(written))
    errors: int = outcome.substitutions + outcome.deletions + outcome.insertions
    return errors, errors - outcome.insertions + outcome.hits
