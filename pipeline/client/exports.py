"""A call as a file: JSON, WebVTT, SRT or plain text, from the document of `pipeline.client.warehouse.Reader.show`.

Sources: WebVTT, W3C Candidate Recommendation of 4 April 2019 (sections 4 and 6); SubRip has no standard, its form is
what its players read.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from pipeline.errors import InputError
from pipeline.printable import json_text, one_line
from schemas.transcripts import Turn
from stages.text import word_spans

MAX_CUE_S: Final = 7.0
MAX_CUE_CHARACTERS: Final = 84
"""Two lines of 42: the usual limits for subtitles. A single word may exceed both."""

Document = dict[str, Any]


class Cue(msgspec.Struct, frozen=True):
    """One subtitle. `end_ms` is greater than `start_ms`."""

    start_ms: int
    end_ms: int
    speaker: str
    text: str


def cues(document: Document) -> list[Cue]:
    """Split the turns between words into cues, ordered by `start_ms`. Cues of overlapping speech overlap."""
    found = [cue for turn in document["turns"] for cue in _turn_cues(turn)]
    return sorted(found, key=lambda cue: (cue.start_ms, cue.end_ms))


def _turn_cues(turn: Document) -> Iterator[Cue]:
    groups = list(_groups(turn))
    for index, (start_s, end_s, text) in enumerate(groups):
        start_ms, end_ms = round(start_s * 1000), round(end_s * 1000)
        if index + 1 < len(groups):
            end_ms = min(end_ms, round(groups[index + 1][0] * 1000))
        if text:
            yield Cue(start_ms, max(end_ms, start_ms + 1), one_line(turn["speaker"]) or "unknown", text)


def _groups(turn: Document) -> Iterator[tuple[float, float, str]]:
    """Yield start, end (seconds) and text of runs of words that fit into a cue."""
    pieces = _pieces(turn)
    if not pieces:
        yield turn["start_s"], turn["end_s"], one_line(turn["text"])
        return
    run_start_s, run_end_s, run = pieces[0]
    for start_s, end_s, piece in pieces[1:]:
        whole = one_line(run + piece)
        if len(whole) > MAX_CUE_CHARACTERS or round(end_s * 1000) - round(run_start_s * 1000) > MAX_CUE_S * 1000:
            yield run_start_s, run_end_s, one_line(run)
            run_start_s, run_end_s, run = max(start_s, run_start_s), end_s, piece
        else:
            run_end_s, run = max(run_end_s, end_s), run + piece
    yield run_start_s, run_end_s, one_line(run)


def _pieces(turn: Document) -> list[tuple[float, float, str]]:
    """Split the turn's text before each word. Characters between words are kept, so languages without spaces work.

    If the text does not contain all the words, they are joined by spaces instead.
    """
    words, text = turn["words"], turn["text"]
    spans = word_spans(text, [word["text"].strip() for word in words])
    if spans is None:
        return [(word["start_s"], word["end_s"], f" {word['text']}") for word in words]
    bounds = [0, *(start for start, _ in spans[1:]), len(text)]
    return [(word["start_s"], word["end_s"], text[bounds[i] : bounds[i + 1]]) for i, word in enumerate(words)]


def _timestamp(ms: int, mark: str) -> str:
    seconds, millis = divmod(ms, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{mark}{millis:03}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def to_json(document: Document) -> str:
    return json_text(document, indent=2)


def to_vtt(document: Document) -> str:
    """Return WebVTT with the speaker of each cue as a voice tag."""
    blocks = ["WEBVTT"]
    for number, cue in enumerate(cues(document), 1):
        times = f"{_timestamp(cue.start_ms, '.')} --> {_timestamp(cue.end_ms, '.')}"
        blocks.append(f"{number}\n{times}\n<v {_escaped(cue.speaker)}>{_escaped(cue.text)}</v>")
    return "\n\n".join(blocks) + "\n"


def to_srt(document: Document) -> str:
    """Return SubRip. The format has no field for a speaker, so the name precedes the text."""
    blocks = []
    for number, cue in enumerate(cues(document), 1):
        times = f"{_timestamp(cue.start_ms, ',')} --> {_timestamp(cue.end_ms, ',')}"
        # SubRip has no escapes, and some players read an arrow in the text as a time line.
        said = f"{cue.speaker}: {cue.text}".replace("-->", "→")
        blocks.append(f"{number}\n{times}\n{said}\n")
    return "\n".join(blocks)


def to_txt(document: Document) -> str:
    """Return plain text for people: heading, turns with what was inaudible in its place, summary, missing audio."""
    duration = document["duration_s"]
    facts = [document["status"], f"{duration:.1f} s" if duration is not None else "", document["language"] or ""]
    lines = [f"{one_line(document['call_id'])} ({', '.join(fact for fact in facts if fact)})"]
    if (one_channel := document.get("one_channel")) is not None:
        lines.append(f"All channels carry the same audio: channel {one_channel} is used, as that of a mono call.")
    lines.append("")
    lines += [
        f"[{_timestamp(round(start_s * 1000), '.')}] {one_line(speaker)}: {one_line(text)}"
        for start_s, speaker, text in _lines(document)
    ]
    if (summary := document["summary"]) is not None:
        lines += ["", f"Summary ({summary['method']}): {one_line(summary['text'])}", *summary_lines(summary)]
    lines += [
        f"Missing audio: {gap['start_s']:.1f} to {gap['end_s']:.1f} s"
        + (f" ({gap['events']} events)" if gap["events"] else "")
        for gap in document["gaps"]
    ]
    lines += [one_line(job["error"]) for job in document.get("jobs", []) if job["status"] == "expired"]
    return "\n".join(lines) + "\n"


def _lines(document: Document) -> list[tuple[float, str, str]]:
    """Return start, speaker and text of the turns, and of inaudible speech outside them, in order."""
    inside: dict[int, list[Document]] = {}
    lines: list[tuple[float, str, str]] = []
    for one in document.get("unheard") or []:
        around = (
            index
            for index, turn in enumerate(document["turns"])
            if turn["channel"] == one["channel"] and turn["start_s"] < one["start_s"] < turn["end_s"]
        )
        index = next(around, None)
        if index is None:
            lines.append((one["start_s"], _role(document, one["channel"]), _inaudible(one)))
        else:
            inside.setdefault(index, []).append(one)
    for index, turn in enumerate(document["turns"]):
        lines.append((turn["start_s"], turn["speaker"], _text_with(turn, inside.get(index, []))))
    return sorted(lines, key=lambda line: line[0]) if document.get("unheard") else lines


def _text_with(turn: Document, unheard: list[Document]) -> str:
    """Return the turn's text with a mark for each stretch, before the first word that starts after it began."""
    if not unheard:
        return str(turn["text"])
    text, waiting = "", sorted(unheard, key=lambda one: one["start_s"])
    for start_s, _, piece in _pieces(turn):
        while waiting and waiting[0]["start_s"] < start_s:
            text = f"{text.rstrip()} {_inaudible(waiting.pop(0))} "
        text += piece
    return " ".join([text.strip(), *map(_inaudible, waiting)])


def _inaudible(unheard: Document) -> str:
    return f"[inaudible {unheard['end_s'] - unheard['start_s']:.1f} s]"


def _role(document: Document, channel: int) -> str:
    roles = {one["index"]: one["role"] for one in document["channels"]}
    return str(roles.get(channel, f"channel-{channel}"))


def turns_of(document: Document) -> list[Turn]:
    """Return the document's turns as published records."""
    call = {"tenant": document["tenant"], "call_id": document["call_id"], "revision": document["revision"]}
    return [msgspec.convert({**call, **turn}, Turn) for turn in document["turns"]]


def summary_lines(summary: Mapping[str, Any]) -> list[str]:
    """Return the lines after a summary's text: key points, actions with owners, outcome, sentiment, doubts."""
    lines = [f"• {one_line(point['text'])}" for point in summary["key_points"]]
    items = summary.get("action_items") or [{"text": text, "owner": None} for text in summary.get("actions") or []]
    lines += [
        f"→ {one_line(item['text'])}" + (f" ({one_line(item['owner'])})" if item["owner"] else "") for item in items
    ]
    if summary.get("outcome"):
        lines.append(f"Outcome: {one_line(summary['outcome'])}")
    if summary["sentiment"] is not None:
        each = ", ".join(f"{one_line(one['speaker'])} {one['sentiment']}" for one in summary.get("sentiments") or [])
        lines.append(f"Sentiment: {summary['sentiment']}" + (f" ({each})" if each else ""))
    if summary.get("doubted"):
        doubts = Counter(claim["doubt"] for claim in summary["doubted"])
        reasons = ", ".join(f"{count} × {doubt}" for doubt, count in sorted(doubts.items()))
        lines.append(f"Left out because the call does not support it: {reasons}")
    return lines


FORMATS: Final[dict[str, Callable[[Document], str]]] = {
    ".json": to_json,
    ".vtt": to_vtt,
    ".srt": to_srt,
    ".txt": to_txt,
}
"""Export functions by file suffix, in lower case."""


def write_export(document: Document, path: Path) -> None:
    """Write the format of the path's suffix. Raises InputError for an unknown suffix or an unwritable path."""
    make = FORMATS.get(path.suffix.lower())
    if make is None:
        raise InputError(f"{path}: the ending must be one of {', '.join(FORMATS)}")
    try:
        path.write_text(make(document), encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error
