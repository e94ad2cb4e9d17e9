"""The answers that a language model is asked for, as structs, and their decoding."""

from typing import Annotated, Final, TypeVar

import msgspec

from schemas.summaries import Sentiment

SUMMARY_CHARS: Final = 800
LINE_CHARS: Final = 240
NAME_CHARS: Final = 60
MAX_ITEMS: Final = 5
MAX_SPEAKERS: Final = 8

_Label = Annotated[str, msgspec.Meta(pattern="^S[0-9]{1,5}$")]
_Labels = Annotated[list[_Label], msgspec.Meta(min_length=1, max_length=MAX_ITEMS)]
_Line = Annotated[str, msgspec.Meta(max_length=LINE_CHARS)]
_Name = Annotated[str, msgspec.Meta(max_length=NAME_CHARS)]


class Point(msgspec.Struct, frozen=True):
    text: _Line
    segments: _Labels


class Action(msgspec.Struct, frozen=True):
    text: _Line
    owner: _Name
    segments: _Labels


class Mood(msgspec.Struct, frozen=True):
    speaker: _Name
    sentiment: Sentiment


_Points = Annotated[list[Point], msgspec.Meta(max_length=MAX_ITEMS)]
_Actions = Annotated[list[Action], msgspec.Meta(max_length=MAX_ITEMS)]
_Moods = Annotated[list[Mood], msgspec.Meta(max_length=MAX_SPEAKERS)]
_Topics = Annotated[list[_Line], msgspec.Meta(max_length=MAX_ITEMS)]


class Draft(msgspec.Struct, frozen=True):
    """A whole summary. The limits are in the schema that the model must follow, so that its answer ends."""

    summary: Annotated[str, msgspec.Meta(min_length=1, max_length=SUMMARY_CHARS)]
    key_points: _Points
    sentiment: Sentiment
    speakers: _Moods
    actions: _Actions
    topics: _Topics
    outcome: _Line


class Notes(msgspec.Struct, frozen=True):
    """Notes of one part of a long call, or of several parts together."""

    points: Annotated[list[Point], msgspec.Meta(min_length=1, max_length=2 * MAX_ITEMS)]
    actions: _Actions
    speakers: _Moods


class RollingDraft(msgspec.Struct, frozen=True):
    """A summary of a call so far."""

    summary: Annotated[str, msgspec.Meta(min_length=1, max_length=SUMMARY_CHARS)]
    topics: _Topics


Drafted = TypeVar("Drafted", Draft, Notes, RollingDraft)


def decoded(answer: str, kind: type[Drafted]) -> Drafted:
    """Decode an answer. Raises msgspec.MsgspecError if it does not follow the schema or its summary is empty."""
    draft = msgspec.json.decode(answer, type=kind)
    if not getattr(draft, "summary", "text").strip():
        raise msgspec.ValidationError("the summary is empty")
    return draft
