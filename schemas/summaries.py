"""What the summarize stage publishes on `calls.summaries`, as JSON for anyone to read, and what it puts off."""

from typing import Literal

import msgspec

from schemas.calls import CallRef

SUMMARY_TYPE = "callstream.summary"

Sentiment = Literal["positive", "neutral", "negative", "mixed"]

Doubt = Literal["citation", "number", "name", "speaker", "negation", "unlike"]
"""Why a claim is not believed: it cites nothing of the call; or the turns that it cites have another number, do not
have the name, were said by somebody else, say the opposite, or are about something else."""


class KeyPoint(msgspec.Struct, frozen=True, kw_only=True):
    """One point of a summary and the segments that it rests on; every id exists in the call's transcript."""

    text: str
    segment_ids: list[str]


class ActionItem(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody promised or was asked to do. `owner` is a speaker of the call; None where nobody was named."""

    text: str
    owner: str | None
    segment_ids: list[str]


class SpeakerSentiment(msgspec.Struct, frozen=True, kw_only=True):
    """How one speaker of the call sounds by what they say."""

    speaker: str
    sentiment: Sentiment


class DoubtedClaim(msgspec.Struct, frozen=True, kw_only=True):
    """What the model wrote and was left out, with the segments that it cited, as far as they exist."""

    text: str
    segment_ids: list[str]
    doubt: Doubt


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """A summary of a call. `method` says whether a language model wrote it or sentences were picked from the call.

    A call has one final summary for each `revision` of its transcript; an extractive one is replaced when a language
    model answers again. Rolling ones come while the call goes on: there `revision` counts the turns that they cover.
    """

    tenant: str
    call_id: str
    kind: Literal["rolling", "final"]
    revision: int
    text: str
    key_points: list[KeyPoint]
    sentiment: Sentiment | None
    """How the customer sounds over the call; None where the method does not judge it (extractive)."""
    actions: list[str]
    """The texts of `action_items`."""
    topics: list[str]
    method: Literal["llm", "extractive"]
    model: str
    detail: str = ""
    """Why this method: empty, or why no language model was used."""
    sentiments: list[SpeakerSentiment] = []
    action_items: list[ActionItem] = []
    outcome: str | None = None
    """How the call ended, in a sentence."""
    doubted: list[DoubtedClaim] = []
    """Key points and action items that were left out because what they cite does not support them."""


class SummaryDeferred(msgspec.Struct, frozen=True, kw_only=True, tag="summary_deferred.1"):
    """A transcript that was summarized without the language model because none could be used then.

    Its first part lies at `position` of `partition` of `calls.transcripts`.
    """

    call: CallRef
    revision: int
    partition: int
    position: int
    reason: str
