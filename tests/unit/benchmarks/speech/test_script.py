import re

import pytest

from benchmarks.speech.script import SETTINGS, ScriptLine, ScriptWriter


def written(seed: int, n_calls: int = 30) -> list[list[ScriptLine]]:
    writer = ScriptWriter(seed)
    return [writer.write(SETTINGS[n % 3], 170, backchannels=n % 2 == 0) for n in range(n_calls)]


def test_a_seed_always_writes_the_same_calls_and_another_other_ones() -> None:
    assert written(1) == written(1)
    assert written(1) != written(2)


def test_fewer_calls_are_the_first_of_more() -> None:
    assert written(1, 6) == written(1, 12)[:6]


def test_thirty_calls_have_5000_words_in_300_different_sentences() -> None:
    texts = [line.text for call in written(1) for line in call]
    sentences = [sentence for text in texts for sentence in re.split(r"(?<=[.?!]) ", text)]
    assert sum(len(text.split()) for text in texts) >= 5_000
    assert len(set(sentences)) >= 300


@pytest.mark.parametrize("seed", range(5))
def test_no_slot_is_left_and_both_speak(seed: int) -> None:
    for call in written(seed):
        assert not any("{" in line.text for line in call)
        assert {line.channel for line in call} == {0, 1}


def test_only_a_call_with_backchannels_has_some() -> None:
    with_some, without = written(1, 2)
    assert any(line.manner == "backchannel" for line in with_some)
    assert all(line.manner == "turn" for line in without)
