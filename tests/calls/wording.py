"""Comparing what was said with what was written: how a number is written is no error."""

import re

import jiwer
from transformers.models.whisper.english_normalizer import EnglishTextNormalizer


def comparable(text: str) -> str:
    """Whisper's English normalization; then digits in a row are one number, and letters that are spelled one word."""
    words: str = EnglishTextNormalizer({})(text)
    words = re.sub(r"(?<=\d) (?=\d+\b)", "", words)
    return re.sub(r"(?<=\b[a-z]) (?=[a-z]\b)", "", words)


def word_errors(said: str, written: str) -> tuple[int, int]:
    """Substitutions, deletions and insertions together, and the number of words said."""
    outcome = jiwer.process_words(comparable(said), comparable(written))
    errors: int = outcome.substitutions + outcome.deletions + outcome.insertions
    return errors, errors - outcome.insertions + outcome.hits


def holds(text: str, said: str) -> bool:
    """Whether a text holds what was said, however its words are divided: a model may write North Wind for Northwind."""
    return _letters(said) in _letters(text)


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text.casefold()))
