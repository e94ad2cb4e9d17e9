"""How a call that is read along is drawn."""

import io

from rich.console import Console

from pipeline.cli.watch import Screen, partial_line
from pipeline.client.live_text import CallViewer
from schemas.partials import FINAL_REVISION
from tests.unit.pipeline.client.test_live_text import partial, turn


def drawn(*, terminal: bool) -> str:
    """What is printed of two versions of an utterance, its end and its turn."""
    out = io.StringIO()
    viewer = CallViewer()
    viewer.catch_up([])
    with Screen(Console(file=out, force_terminal=terminal, width=120, color_system=None)) as screen:
        for item in (partial("a", 1, ""), partial("a", 2, "Good"), partial("a", FINAL_REVISION, "Good morning")):
            viewer.apply(item)
            screen.draw(viewer)
        viewer.apply(turn("t1", "a"))
        screen.draw(viewer)
    return out.getvalue()


def test_elsewhere_than_on_a_terminal_each_version_is_a_line_and_then_the_turn() -> None:
    assert [line.rstrip() for line in drawn(terminal=False).splitlines()] == [
        "00:01.0–00:04.9  customer  , this is …",
        "00:01.0–00:04.9  customer  Good, this is …",
        "00:00.5–00:01.2  agent     Good morning",
    ]


def test_on_a_terminal_what_may_still_change_is_drawn_anew_below_the_turns() -> None:
    text = drawn(terminal=True)
    assert "\x1b[2K" in text, "the line of the version before is erased"
    stays = text.rpartition("\x1b[2K")[2]
    assert "Good morning" in text
    assert "…" not in stays


def test_a_final_text_has_no_ellipsis() -> None:
    viewer = CallViewer()
    viewer.apply(partial("a", FINAL_REVISION, "Good morning"))
    [only] = viewer.open_partials
    assert not partial_line(only).plain.endswith("…")
