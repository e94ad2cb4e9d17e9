"""Search windows: turns in passages that an embedding model reads as a whole."""

from hypothesis import given
from hypothesis import strategies as st

from schemas.transcripts import Turn
from stages.index.windows import MAX_WORDS, MOST_WORDS, Window, windows_of, windows_of_turn
from tests.unit.stages.summarize.calls import turn, turns

TEXTS = st.lists(
    st.sampled_from(["yes", "no.", "a bill?", "word " * 30, "One two three. " * 20, "word " * 300, ""]), max_size=12
)


def made(spoken: list[Turn], **more: int) -> list[Window]:
    return windows_of(spoken, revision=more.get("revision", 1), part=1, agent="Anna", started_at=5.0)


def test_short_turns_share_a_window_and_the_next_begins_with_the_last_of_it() -> None:
    found = made(turns())
    assert [window.text.count("\n") + 1 for window in found] == [1, 2, 2, 2, 2, 2]
    assert found[1].text.splitlines()[-1] == found[2].text.splitlines()[0]
    assert found[1].speakers == ["customer", "agent"]
    assert found[1].turn_ids == ["turn-1", "turn-2"]
    assert (found[1].start_s, found[1].end_s, found[1].agent, found[1].started_at) == (5.0, 14.0, "Anna", 5.0)


def test_the_embedded_text_has_no_speakers() -> None:
    [window] = made([turn(0, "agent", "Note: call back."), turn(1, "customer", "Yes.")])
    assert window.spoken_text == "Note: call back.\nYes."


@given(TEXTS)
def test_every_word_is_in_a_window_and_no_window_is_too_long(texts: list[str]) -> None:
    spoken = [turn(number, ("agent", "customer")[number % 2], text.strip()) for number, text in enumerate(texts)]
    found = made(spoken)
    for window in found:
        assert len(window.spoken_text.split()) <= MOST_WORDS
        assert window.start_s < window.end_s
        assert len(window.spoken_text.split()) <= MAX_WORDS or "\n" not in window.text
    said = [word for each in spoken for word in each.text.split()]
    kept = [word for window in found for word in window.spoken_text.split()]
    assert len(kept) >= len(said)
    assert {*said} == {*kept}
    assert len({window.window_id for window in found}) == len(found)


def test_windows_hold_as_many_words_as_is_asked_for() -> None:
    spoken = [turn(number, "agent", "one two three four") for number in range(6)]
    windows = {n: windows_of(spoken, revision=1, part=1, agent="", started_at=0.0, max_words=n) for n in (4, 8, 24)}
    longest = {n: max(len(one.spoken_text.split()) for one in found) for n, found in windows.items()}
    assert longest == {4: 4, 8: 8, 24: 24}


def test_the_same_turns_have_the_same_ids_and_another_revision_has_others() -> None:
    ids = [{window.window_id for window in made(turns(), revision=revision)} for revision in (1, 1, 2)]
    assert ids[0] == ids[1]
    assert not ids[0] & ids[2]


def test_a_turn_of_a_live_call_has_windows_of_its_own() -> None:
    [window] = windows_of_turn(turns()[1], at_s=9.0)
    assert (window.part, window.started_at, window.turn_ids) == (0, 9.0, ["turn-1"])
    assert windows_of_turn(turn(0, "agent", ""), at_s=9.0) == []
