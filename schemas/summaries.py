"""Records on `calls.summaries`, as JSON, and the deferred summaries of `calls.deferred`."""

from typing import Literal

import msgspec

from schemas.calls import CallRef

SUMMARY_TYPE = "callstream.summary"

Sentiment = Literal["positive", "neutral", "negative", "mixed"]

Doubt = Literal["citation", "number", "name", "speaker", "negation", "unlike"]
"""Why a claim is not believed: it cites no turn of the call; or the cited turns have another number, lack the name,
were said by somebody else, say the opposite, or are about something else."""


class KeyPoint(msgspec.Struct, frozen=True, kw_only=True):
    """A point of a summary and the segments that it cites; every id exists in the call's transcript."""

    text: str
    segment_ids: list[str]


class ActionItem(msgspec.Struct, frozen=True, kw_only=True):
    """An action that somebody promised or was asked to take. `owner` is a speaker of the call; None if not named."""

    text: str
    owner: str | None
    segment_ids: list[str]


class SpeakerSentiment(msgspec.Struct, frozen=True, kw_only=True):
    """The sentiment of one speaker, judged by their words."""

    speaker: str
    sentiment: Sentiment


class DoubtedClaim(msgspec.Struct, frozen=True, kw_only=True):
    """A claim of the model that was left out, with the segments that it cites, as far as they exist.

    A sentence of the text or of the outcome cites none.
    """

    text: str
    segment_ids: list[str]
    doubt: Doubt


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """A summary of a call, by a language model or of sentences picked from the call (`method`).

    A call has one final summary for each `revision` of its transcript. An extractive one is replaced once a language
    model is available again. Rolling summaries are published during the call; their `revision` is the number of turns
    that they cover.
    """

    tenant: str
    call_id: str
    kind: Literal["rolling", "final"]
    revision: int
    text: str
    key_points: list[KeyPoint]
    sentiment: Sentiment | None
    """The customer's sentiment over the call; None if the method does not judge it (extractive)."""
    actions: list[str]
    """The texts of `action_items`."""
    topics: list[str]
    method: Literal["llm", "extractive"]
    model: str
    detail: str = ""
    """Details of the method, or why no language model was used; may be empty."""
    sentiments: list[SpeakerSentiment] = []
    action_items: list[ActionItem] = []
    outcome: str | None = None
    """The outcome of the call, in a sentence."""
    doubted: list[DoubtedClaim] = []
    """Key points, action items and sentences that were left out because the turns do not support them."""


class SummaryDeferred(msgspec.Struct, frozen=True, kw_only=True, tag="summary_deferred.1"):
    """A transcript that was summarized without a language model because none was available.

    Its first part is at `position` of `partition` of `calls.transcripts`.
    """

    call: CallRef
    revision: int
    partition: int
    position: int
    reason: str
