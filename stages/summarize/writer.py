"""Summaries written by a language model: the requests, and the checks of the answers.

A call that fits the model's context is summarized at once. A longer one is read in windows of turns. The model takes
notes of each, with the labels of its turns; the notes are merged until they fit, and summarized. No turn is left out:
the server reports the length of each prompt, and a window that did not fit is halved.
"""

import asyncio
import itertools
import re
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import msgspec
import structlog

from schemas.summaries import ActionItem, DoubtedClaim, KeyPoint, Sentiment, SpeakerSentiment
from schemas.transcripts import Turn
from stages.adapters.llm.priority import PrioritySemaphore, Urgency
from stages.adapters.llm.protocol import LlmClient, LlmError, LlmOverflow, Message, json_schema, prompt_text
from stages.adapters.llm.token_budget import TokenBudget
from stages.summarize.check.words import content_stems
from stages.summarize.citations import Citations, one_line, segment_ids
from stages.summarize.claims import Claim, Judge, judged_by_citation
from stages.summarize.drafts import LINE_CHARS, Draft, Drafted, Notes, RollingDraft, decoded
from stages.summarize.extractive import extractive_summary
from stages.text import sentences

PROMPT: Final = "summary-3"
_LANGUAGE: Final = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*")
"""A language code. Nothing else that a producer sends gets into a system prompt."""
_MARKUP: Final = re.compile(r"<[^>]*>|[\x00-\x1f\x7f-\x9f<>]")
_PACKAGE: Final = "stages.summarize"
_WINDOW_PROMPT: Final = "window-2"
_REDUCE_PROMPT: Final = "reduce-2"
_NOTES_PROMPT: Final = "summary-of-notes-2"
_ROLLING_PROMPT: Final = "rolling-1"

MAX_DEPTH: Final = 6
"""Rounds of merging notes. A round reduces each window to one answer, so hours of a call take two rounds."""


class WrittenSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A draft after the checks. The call was read in `windows` parts."""

    text: str
    key_points: list[KeyPoint]
    sentiment: Sentiment
    sentiments: list[SpeakerSentiment]
    action_items: list[ActionItem]
    topics: list[str]
    outcome: str | None
    doubted: list[DoubtedClaim]
    model: str
    prompt: str
    windows: int


class RolledSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A summary of a call so far. It contains the first `n_turns` of the given turns: the others did not fit."""

    text: str
    topics: list[str]
    n_turns: int
    model: str


class SummaryWriter:
    """Writes summaries with one or more models.

    Args:
        choose: returns the client for a call type, and for calls too long for the usual model's context (True).
        judge: says which claims their turns support. It blocks and is run in a thread.
        limit: number of concurrent requests.
        prompt_name: name of the prompt, as it stands in summaries.
        prompt: text of the prompt for a whole summary; by default the one of that name in this package.
        on_request: called with the outcome ("answered", "overflow" or "failed") and the seconds of each request.
    """

    def __init__(
        self,
        choose: Callable[[str, bool], LlmClient],
        *,
        judge: Judge = judged_by_citation,
        limit: int = 1,
        prompt_name: str = PROMPT,
        prompt: str | None = None,
        on_request: Callable[[str, float], None] = lambda _outcome, _seconds: None,
    ) -> None:
        self._choose = choose
        self._judge = judge
        self._semaphore = PrioritySemaphore(limit)
        self._prompt_name = prompt_name
        self._prompt = prompt if prompt is not None else prompt_text(_PACKAGE, prompt_name)
        self._budgets: dict[str, TokenBudget] = {}
        self._on_request = on_request
        self._log = structlog.get_logger("callstream.summarize")

    async def available(self, call_type: str = "") -> None:
        """Raise LlmUnavailable while the model for calls of this type cannot be used."""
        await self._choose(call_type, False).check()

    async def write(
        self, turns: Sequence[Turn], *, language: str, call_type: str = "", urgency: Urgency = Urgency.LIVE
    ) -> WrittenSummary:
        """Return a summary of the whole call. Raises LlmError; its subclasses say which failures may pass."""
        spoken = [turn for turn in turns if turn.text.strip()]
        citations = Citations(spoken)
        requests = _CallRequests(self, self._choose(call_type, False), citations, language, urgency)
        await requests.llm.check()
        draft, windows = None, 1
        if requests.fits(self._prompt, citations.lines):
            try:
                draft = await requests.ask(self._prompt, citations.lines, Draft)
            except LlmOverflow:
                self._log.info("call exceeds the model's context", model=requests.llm.model, turns=len(spoken))
        if draft is None:
            requests = _CallRequests(self, self._choose(call_type, True), citations, language, urgency)
            await requests.llm.check()
            draft, windows = await requests.ask_in_parts()
        return await self._checked(draft, citations, language, requests.llm.model, windows)

    async def roll(self, previous: str, turns: Sequence[Turn], *, language: str) -> RolledSummary:
        """Return the summary of a call so far, from the previous one and the turns since then. Raises LlmError."""
        llm = self._choose("", False)
        await llm.check()
        requests = _CallRequests(self, llm, Citations(turns), language, Urgency.ROLLING)
        before = [f"Until now: {previous}"] if previous else []
        lines = [f"{one_line(turn.speaker)}: {one_line(turn.text)}" for turn in turns]
        prompt = prompt_text(_PACKAGE, _ROLLING_PROMPT)
        room = requests.room(prompt) - requests.budget.tokens(before)
        n_turns = requests.budget.fitting(lines, room=room)
        while True:
            try:
                draft = await requests.ask(prompt, [*before, *lines[:n_turns]], RollingDraft)
            except LlmOverflow:
                if n_turns == 1:
                    raise
                n_turns //= 2
                continue
            return RolledSummary(
                text=draft.summary.strip(), topics=_lines(draft.topics), n_turns=n_turns, model=llm.model
            )

    async def _checked(
        self, draft: Draft, citations: Citations, language: str, model: str, windows: int
    ) -> WrittenSummary:
        points = _once(
            Claim(point.text.strip(), segment_ids(citations.cited(point.segments))) for point in draft.key_points
        )
        actions = _once(
            Claim(
                action.text.strip(),
                segment_ids(citations.cited(action.segments)),
                _speaker(action.owner, citations.speakers),
            )
            for action in draft.actions
        )
        said = [Claim(sentence, whole=True) for sentence in sentences(draft.summary)]
        outcome = [Claim(draft.outcome.strip(), whole=True)] if draft.outcome.strip() else []
        claims = [*points, *actions, *said, *outcome]
        doubts = await asyncio.to_thread(self._judge, claims, citations.turns, language)
        judged = list(zip(claims, doubts, strict=True))
        left = iter(judged)
        believed_points, believed_actions, believed_said, believed_outcome = (
            [claim for claim, doubt in itertools.islice(left, len(some)) if doubt is None]
            for some in (points, actions, said, outcome)
        )
        text = " ".join(claim.text for claim in believed_said or believed_points)
        if not text:  # what is left are the call's own sentences
            picked = await asyncio.to_thread(extractive_summary, list(citations.turns), language=language)
            text = picked.text
        return WrittenSummary(
            text=text,
            key_points=[KeyPoint(text=claim.text, segment_ids=list(claim.segment_ids)) for claim in believed_points],
            sentiment=draft.sentiment,
            sentiments=_sentiments(draft, citations.speakers),
            action_items=[
                ActionItem(text=claim.text, owner=claim.owner, segment_ids=list(claim.segment_ids))
                for claim in believed_actions
            ],
            topics=_said_topics(draft.topics, citations.turns),
            outcome=believed_outcome[0].text if believed_outcome else None,
            doubted=[
                DoubtedClaim(text=claim.text, segment_ids=list(claim.segment_ids), doubt=doubt)
                for claim, doubt in judged
                if doubt is not None
            ],
            model=model,
            prompt=self._prompt_name,
            windows=windows,
        )

    # -- for `_CallRequests` -------------------------------------------------------------------------------------------

    def budget_of(self, llm: LlmClient) -> TokenBudget:
        return self._budgets.setdefault(llm.model, TokenBudget())

    async def chat(self, llm: LlmClient, messages: list[Message], schema: dict[str, Any], urgency: Urgency) -> str:
        budget = self.budget_of(llm)
        async with self._semaphore.slot(urgency):
            began = time.monotonic()
            try:
                answer = await llm.chat(messages, schema=schema)
            except LlmOverflow as error:
                budget.overflowed(messages, tokens=error.tokens, room=error.room)
                self._on_request("overflow", time.monotonic() - began)
                raise
            except LlmError:
                self._on_request("failed", time.monotonic() - began)
                raise
            self._on_request("answered", time.monotonic() - began)
        budget.observe(messages, answer)
        return answer.text


class _CallRequests:
    """The requests for one call to one model."""

    def __init__(
        self, writer: SummaryWriter, llm: LlmClient, citations: Citations, language: str, urgency: Urgency
    ) -> None:
        self.llm = llm
        self.budget = writer.budget_of(llm)
        self._writer = writer
        self._citations = citations
        self._language = language
        self._urgency = urgency
        self._log = structlog.get_logger("callstream.summarize")

    def room(self, prompt: str) -> int:
        return self.llm.context_tokens - self.llm.answer_tokens - self.budget.tokens([prompt])

    def fits(self, prompt: str, lines: Sequence[str]) -> bool:
        return self.budget.tokens(lines) <= self.room(prompt)

    async def ask(self, prompt: str, lines: Sequence[str], kind: type[Drafted]) -> Drafted:
        """Ask for an answer; once more if it does not follow the schema. Raises LlmError."""
        system = prompt.replace("{language}", self._language if _LANGUAGE.fullmatch(self._language) else "as it is")
        messages: list[Message] = [Message("system", system), Message("user", "\n".join(lines))]
        schema = json_schema(kind)
        answer = await self._writer.chat(self.llm, messages, schema, self._urgency)
        try:
            return decoded(answer, kind)
        except msgspec.MsgspecError as error:
            again = f"That was not the JSON that was asked for ({error}). Answer again, shorter, with the JSON only."
            messages = [*messages, Message("assistant", answer[:LINE_CHARS]), Message("user", again)]
            try:
                return decoded(await self._writer.chat(self.llm, messages, schema, self._urgency), kind)
            except msgspec.MsgspecError as second_error:
                raise LlmError(f"the model did not answer with the JSON asked for: {second_error}") from second_error

    async def ask_in_parts(self) -> tuple[Draft, int]:
        """Return a summary of the notes of the call's parts, and the number of parts."""
        notes, windows = await self._noted(prompt_text(_PACKAGE, _WINDOW_PROMPT), self._citations.lines)
        prompt = prompt_text(_PACKAGE, _NOTES_PROMPT)
        for _ in range(MAX_DEPTH):
            lines = [line for note in notes for line in _note_lines(note)]
            if self.fits(prompt, lines):
                try:
                    return await self.ask(prompt, lines, Draft), windows
                except LlmOverflow:
                    pass
            notes, _ = await self._noted(prompt_text(_PACKAGE, _REDUCE_PROMPT), lines)
        raise LlmError(f"the notes of the call's {windows} parts do not get short enough for the model's context")

    async def _noted(self, prompt: str, lines: Sequence[str]) -> tuple[list[Notes], int]:
        """Return notes of all lines, in order, and the number of windows in which they were read."""
        notes: list[Notes] = []
        read, most = 0, len(lines)
        while read < len(lines):
            size = min(most, self.budget.fitting(lines[read:], room=self.room(prompt)))
            self._log.info("reading a part of a long call", lines=f"{read + 1}–{read + size}", of=len(lines))
            try:
                notes.append(await self.ask(prompt, lines[read : read + size], Notes))
            except LlmOverflow:
                if size == 1:
                    raise
                most = size // 2
            else:
                read, most = read + size, len(lines)
        return notes, len(notes)


def _note_lines(notes: Notes) -> list[str]:
    points = [f"[{' '.join(point.segments)}] {point.text}" for point in notes.points]
    actions = [f"[{' '.join(action.segments)}] To do, {action.owner}: {action.text}" for action in notes.actions]
    moods = "; ".join(f"{mood.speaker} {mood.sentiment}" for mood in notes.speakers)
    return [*points, *actions, *([f"Sentiment: {moods}"] if moods else [])]


def _sentiments(draft: Draft, speakers: Sequence[str]) -> list[SpeakerSentiment]:
    """Return the sentiment of each speaker of the call that the draft names."""
    found = {name: mood.sentiment for mood in reversed(draft.speakers) if (name := _speaker(mood.speaker, speakers))}
    return [SpeakerSentiment(speaker=name, sentiment=found[name]) for name in speakers if name in found]


def _once(claims: Iterable[Claim]) -> list[Claim]:
    """Drop empty and repeated claims: a small model repeats itself."""
    found: dict[str, Claim] = {}
    for claim in claims:
        if claim.text:
            found.setdefault(claim.text.casefold(), claim)
    return list(found.values())


def _speaker(name: str, speakers: Sequence[str]) -> str | None:
    """Return the speaker of the call with this name; None if there is none."""
    plain = name.strip().casefold().removeprefix("the ")
    return next((speaker for speaker in speakers if speaker.casefold() == plain), None)


def _said_topics(topics: Sequence[str], turns: Sequence[Turn]) -> list[str]:
    """Return the topics without markup, of which at least a word is said in the call, or all if no word is known."""
    stems = {stem for turn in turns for stem in content_stems(turn.text)}
    plain = [" ".join(_MARKUP.sub(" ", topic).split()) for topic in topics]
    wanted = ((topic, set(content_stems(topic))) for topic in plain if topic)
    return [topic for topic, words in wanted if not words or stems & words]


def _lines(texts: Sequence[str]) -> list[str]:
    return [text.strip() for text in texts if text.strip()]
