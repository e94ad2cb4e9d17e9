"""Calls as files."""

import html
import itertools
import json
import re
from pathlib import Path
from typing import Any

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.client.exports import MAX_CUE_CHARACTERS, MAX_CUE_S, cues, to_json, to_srt, to_txt, to_vtt, write_export
from pipeline.errors import InputError

VTT_CUE = re.compile(
    r"\d+\n(\d\d+:[0-5]\d:[0-5]\d\.\d{3}) --> (\d\d+:[0-5]\d:[0-5]\d\.\d{3})\n<v ([^<>\n]+)>([^<\n]*)</v>"
)
SRT_CUE = re.compile(r"\d+\n(\d\d+:[0-5]\d:[0-5]\d,\d{3}) --> (\d\d+:[0-5]\d:[0-5]\d,\d{3})\n([^\n]+)\n")


def document(*turns: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "call_id": "call-1",
        "status": "completed",
        "duration_s": 61.5,
        "language": "en",
        "channels": [],
        "turns": list(turns),
        "summary": None,
        "metrics": None,
        "gaps": [],
        **more,
    }


def turn(
    text: str, start_s: float = 0.0, *, speaker: str = "agent", pace_s: float = 0.4, joined: str = " "
) -> dict[str, Any]:
    """A turn with a word each `pace_s`."""
    spoken = text.split(joined) if joined else list(text)
    words = [
        {"text": word, "start_s": start_s + at * pace_s, "end_s": start_s + (at + 0.9) * pace_s, "probability": 0.9}
        for at, word in enumerate(spoken)
    ]
    end_s = start_s + len(words) * pace_s
    return {"speaker": speaker, "channel": 0, "start_s": start_s, "end_s": end_s, "text": text, "words": words}


@st.composite
def turns(draw: st.DrawFn) -> dict[str, Any]:
    start_s = draw(st.floats(0, 100_000))
    spoken, clock_s = [], start_s
    for text in draw(st.lists(st.text(max_size=30), max_size=40)):
        begin_s = clock_s + draw(st.floats(0, 2))
        clock_s = begin_s + draw(st.floats(0, 3))
        spoken.append({"text": text, "start_s": begin_s, "end_s": clock_s, "probability": 0.5})
    joined = " ".join(str(word["text"]) for word in spoken)
    text = draw(st.sampled_from([joined, draw(st.text(max_size=200))]))
    speaker = draw(st.text(alphabet=st.characters(codec="utf-8"), min_size=1, max_size=10).filter(str.strip))
    return {"speaker": speaker, "channel": 0, "start_s": start_s, "end_s": clock_s, "text": text, "words": spoken}


@given(st.lists(turns(), max_size=5))
def test_cues_are_in_order_end_after_they_start_and_keep_the_limits(said: list[dict[str, Any]]) -> None:
    made = cues(document(*said))
    assert [cue.start_ms for cue in made] == sorted(cue.start_ms for cue in made)
    longest_word_s = max((w["end_s"] - w["start_s"] for one in said for w in one["words"]), default=0.0)
    for cue in made:
        assert cue.end_ms > cue.start_ms
        assert cue.text
        if any(one["words"] for one in said) and all(one["words"] for one in said):
            assert cue.end_ms - cue.start_ms <= max(MAX_CUE_S, longest_word_s) * 1000 + 1


@given(st.lists(turns(), max_size=5))
def test_webvtt_is_well_formed_whatever_was_said(said: list[dict[str, Any]]) -> None:
    made = cues(document(*said))
    head, *blocks = to_vtt(document(*said)).removesuffix("\n").split("\n\n")
    assert head == "WEBVTT"
    assert len(blocks) == len(made)
    for block, cue in zip(blocks, made, strict=True):
        match = VTT_CUE.fullmatch(block)
        assert match
        assert html.unescape(match[4]) == html.unescape(html.escape(cue.text, quote=False))
        assert match[3].strip()
        assert "-->" not in match[3] + match[4]


@given(st.lists(turns(), max_size=5))
def test_srt_is_well_formed_whatever_was_said(said: list[dict[str, Any]]) -> None:
    text = to_srt(document(*said))
    blocks = re.split(r"(?<=\n)\n", text) if text else []
    assert len(blocks) == len(cues(document(*said)))
    for block in blocks:
        assert SRT_CUE.fullmatch(block)


def test_no_word_is_lost_where_a_long_turn_is_cut() -> None:
    text = " ".join(f"word{number}," for number in range(100))
    made = cues(document(turn(text)))
    assert " ".join(cue.text for cue in made) == text
    assert all(len(cue.text) <= MAX_CUE_CHARACTERS for cue in made)
    assert all(before.end_ms <= after.start_ms for before, after in itertools.pairwise(made))


def test_a_cue_begins_with_its_first_word_and_ends_with_its_last() -> None:
    made = cues(document(turn("one two three four", 10.0, pace_s=3.0)))
    assert [(cue.text, cue.start_ms, cue.end_ms) for cue in made] == [
        ("one two", 10_000, 15_700),
        ("three four", 16_000, 21_700),
    ]


def test_text_without_spaces_between_words_stays_without_them() -> None:
    made = cues(document(turn("你好我想查一下订单", joined="", pace_s=2.0)))
    assert "".join(cue.text for cue in made) == "你好我想查一下订单"
    assert len(made) > 1


def test_speakers_who_talk_at_once_overlap_in_the_order_in_which_they_begin() -> None:
    said = [turn("a b c d e", 0.0), turn("no", 0.5, speaker="customer"), turn("f", 0.2, speaker="third")]
    assert [cue.speaker for cue in cues(document(*said))] == ["agent", "third", "customer"]


def test_webvtt_escapes_markup_and_names_the_voice() -> None:
    assert to_vtt(document(turn("a<b>&c", 3599.9994, speaker="R&D <x>", pace_s=1.0))) == (
        "WEBVTT\n\n1\n00:59:59.999 --> 01:00:00.899\n<v R&amp;D &lt;x&gt;>a&lt;b&gt;&amp;c</v>\n"
    )


def test_srt_has_commas_and_the_speaker_before_the_text() -> None:
    assert to_srt(document(turn("hello --> there", 1.5))) == (
        "1\n00:00:01,500 --> 00:00:02,660\nagent: hello → there\n"
    )


def test_txt_shows_the_turns_the_summary_and_what_is_missing() -> None:
    summary = {
        "text": "They talked.",
        "key_points": [{"text": "a point", "segment_ids": []}],
        "sentiment": None,
        "method": "extractive",
    }
    gaps = [{"start_s": 1.0, "end_s": 2.0, "events": 3}]
    assert to_txt(document(turn("hello there", 61.25), summary=summary, gaps=gaps)) == (
        "call-1 (completed, 61.5 s, en)\n\n[00:01:01.250] agent: hello there\n\n"
        "Summary (extractive): They talked.\n• a point\nMissing audio: 1.0 to 2.0 s (3 events)\n"
    )


def test_txt_shows_speech_without_words_in_its_place() -> None:
    said = [turn("how are you", 1.0, pace_s=1.0), turn("fine", 6.0, speaker="customer")]
    said[1]["channel"] = 1
    spans = [(1, 0.5, 1.1), (0, 1.95, 2.0), (0, 3.92, 3.98), (1, 4.2, 5.3), (0, 6.1, 6.4)]
    unheard = [
        {"channel": channel, "start_s": start_s, "end_s": end_s, "level_dbfs": -30.0, "reason": "no_words"}
        for channel, start_s, end_s in spans
    ]
    channels = [{"index": 0, "role": "agent"}, {"index": 1, "role": "customer"}]
    assert to_txt(document(*said, channels=channels, unheard=unheard)) == (
        "call-1 (completed, 61.5 s, en)\n\n"
        "[00:00:00.500] customer: [inaudible 0.6 s]\n"
        "[00:00:01.000] agent: how [inaudible 0.1 s] are you [inaudible 0.1 s]\n"
        "[00:00:04.200] customer: [inaudible 1.1 s]\n"
        "[00:00:06.000] customer: fine\n"
        "[00:00:06.100] agent: [inaudible 0.3 s]\n"
    )


def test_json_reads_back() -> None:
    call = document(turn("schön"))
    assert json.loads(to_json(call)) == call
    assert "schön" in to_json(call)


@pytest.mark.parametrize(("ending", "codec"), [(".vtt", "webvtt"), (".srt", "srt")])
def test_a_player_reads_the_same_cues(tmp_path: Path, ending: str, codec: str) -> None:
    call = document(turn("one two three " * 20, 3.25), turn("a & b", 90.0, speaker="customer"))
    path = tmp_path / f"call{ending}"
    write_export(call, path)
    with av.open(str(path)) as container:
        assert container.streams[0].codec_context.name == codec
        read = [(int(packet.pts), int(packet.duration)) for packet in container.demux() if packet.size]
    assert read == [(cue.start_ms, cue.end_ms - cue.start_ms) for cue in cues(call)]


def test_an_unknown_ending_or_a_path_that_cannot_be_written_is_the_callers_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.json, \.vtt, \.srt, \.txt"):
        write_export(document(), tmp_path / "call.doc")
    with pytest.raises(InputError, match="cannot be written"):
        write_export(document(), tmp_path / "nowhere" / "call.txt")
    write_export(document(), tmp_path / "CALL.TXT")


def test_txt_says_which_records_expired_unread() -> None:
    error = "records of calls.audio expired unread: from number 3 on"
    jobs = [{"status": "completed", "error": None}, {"status": "expired", "error": error}]
    assert to_txt(document(turn("good"), jobs=jobs)).splitlines()[-1] == error
