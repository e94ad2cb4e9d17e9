"""What two runs of the same calls must have in common."""

import pytest

from benchmarks.chaos.evidence import same_reason


@pytest.mark.parametrize(
    "reason", ["Ollama at http://127.0.0.1:9 did not answer within 3 s", "no Ollama answers at http://127.0.0.1:9"]
)
def test_how_the_missing_language_model_was_missed_is_no_difference(reason: str) -> None:
    text = repr({"method": "extractive", "detail": reason, "points": 2})
    assert same_reason(text) == repr({"method": "extractive", "detail": "no language model", "points": 2})


def test_any_other_reason_is_one() -> None:
    text = repr({"detail": "the language model's circuit is open"})
    assert same_reason(text) == text
