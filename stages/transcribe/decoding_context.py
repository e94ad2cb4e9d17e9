"""The context that a call's utterances are decoded in: the language, hotwords, and words before a hard cut.

A producer may change the language and the hotwords during the call. Records of utterances that began before a change
may follow it, so earlier settings are kept until no such utterance can arrive any more.

An utterance is decoded with the language vote and the overlap that earlier utterances leave. It may be queued before
these are known, so it gets `Pending` values.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final, Generic, Protocol, TypeVar

import msgspec
from msgspec import UnsetType

from schemas.utterances import CallChanged, CallOpened, CallProgress, InterimUtterance, Utterance
from stages.transcribe.hard_cuts import NO_OVERLAP, Overlap
from stages.transcribe.language import LanguageVote, language_code

MAX_SETTINGS: Final = 8
"""More changes than this during one utterance drop the oldest settings, so that states stay small."""

T = TypeVar("T")


class Pending(Generic[T]):
    """A value that is set once. Several tasks may wait for it; cancelling one of them does not affect the others."""

    def __init__(self) -> None:
        self._values: list[T] = []
        self._is_set = asyncio.Event()

    @classmethod
    def of(cls, value: T) -> "Pending[T]":
        """Return one that is set already."""
        pending = cls()
        pending.set(value)
        return pending

    def set(self, value: T) -> None:
        """Give the value to all that wait for it. Of several values the first stays."""
        if not self._values:
            self._values.append(value)
            self._is_set.set()

    def known(self, default: T) -> T:
        """Return the value, or `default` as long as it is not set."""
        return self._values[0] if self._values else default

    async def get(self) -> T:
        """Wait for the value."""
        await self._is_set.wait()
        return self._values[0]


class Decision:
    """The vote that decides on the language of a call, or of the part of it between two changes by its producer.

    It is the first with a locked language, or that of the last utterance.
    """

    def __init__(self) -> None:
        self._deciding = Pending[Pending[LanguageVote]]()

    def count(self, vote: LanguageVote) -> None:
        """Take the vote after an utterance."""
        if vote.locked is not None:
            self._deciding.set(Pending.of(vote))

    def end(self, last: Pending[LanguageVote]) -> None:
        """No utterance follows that whose vote is `last`."""
        self._deciding.set(last)

    async def vote(self) -> LanguageVote:
        """Wait for it."""
        return await (await self._deciding.get()).get()


class DecodingSettings(msgspec.Struct, frozen=True):
    """The language vote and the hotwords for speech that begins at `from_s` or later, until the next settings begin."""

    from_s: float = 0.0
    vote: LanguageVote = LanguageVote()
    hotwords: tuple[str, ...] = ()


class PendingSettings(msgspec.Struct, frozen=True):
    """`DecodingSettings` whose vote may still wait for an utterance that is being decoded."""

    from_s: float
    vote: Pending[LanguageVote]
    hotwords: tuple[str, ...]
    decision: Decision

    def known(self) -> DecodingSettings:
        """Return the settings, with an empty vote as long as it is not known."""
        return DecodingSettings(self.from_s, self.vote.known(LanguageVote()), self.hotwords)


class UtteranceContext(msgspec.Struct, frozen=True):
    """The context of one utterance, and the values that it leaves to later ones."""

    hotwords: tuple[str, ...]
    vote: Pending[LanguageVote]
    next_vote: Pending[LanguageVote]
    overlap: Pending[Overlap]
    """That which the utterance before leaves. It need not be at the start of this one."""
    next_overlap: Pending[Overlap]
    decision: Decision

    async def wait_for_vote(self) -> LanguageVote:
        """Wait for the vote of earlier utterances. If its language is locked, later ones need not wait for this one."""
        vote = await self.vote.get()
        if vote.locked is not None:
            self.next_vote.set(vote)
        return vote

    def leave(self, vote: LanguageVote) -> None:
        """Set what was not set yet. It must be called even if the decoding fails: later utterances wait for it."""
        self.next_vote.set(vote)
        self.decision.count(vote)
        self.next_overlap.set(NO_OVERLAP)


class PendingContext(msgspec.Struct, frozen=True):
    """A call's context after one input, of which some values may not be known until the input is answered."""

    pending_settings: tuple[PendingSettings, ...]
    pending_overlaps: dict[int, Pending[Overlap]]

    def settings(self) -> list[DecodingSettings]:
        return [settings.known() for settings in self.pending_settings]

    def overlaps(self) -> dict[int, Overlap]:
        """Return the overlaps that are not empty, by channel."""
        overlaps = {channel: overlap.known(NO_OVERLAP) for channel, overlap in self.pending_overlaps.items()}
        return {channel: overlap for channel, overlap in overlaps.items() if overlap != NO_OVERLAP}


class CallContext:
    """The context of one call's next utterances, as of the last submitted input."""

    def __init__(
        self,
        settings: Sequence[DecodingSettings],
        overlaps: Mapping[int, Overlap],
        *,
        languages: frozenset[str],
        language: str | None,
        hotwords: Sequence[str],
    ) -> None:
        """Args:
        settings: those of the checkpoint, in order, at least one.
        overlaps: those of the checkpoint, by channel.
        languages: those that the model knows.
        language: the deployment's, for a call that names none.
        hotwords: the deployment's, which come after those that the call names.
        """
        self._settings = [
            PendingSettings(one.from_s, Pending.of(one.vote), one.hotwords, Decision()) for one in settings
        ]
        self._overlaps = {channel: Pending.of(overlap) for channel, overlap in overlaps.items()}
        self._languages = languages
        self._language = language
        self._hotwords = hotwords

    def open(self, opened: CallOpened) -> None:
        """Set the first settings of the call."""
        vote, hotwords = self._named_vote(opened.language), self._named_hotwords(opened.hotwords)
        self._settings = [msgspec.structs.replace(self._settings[0], vote=Pending.of(vote), hotwords=hotwords)]

    def change(self, changed: CallChanged) -> None:
        """Add the settings from `changed.from_s` on. They must not begin before the last ones."""
        newest = msgspec.structs.replace(self._settings[-1], from_s=changed.from_s, decision=Decision())
        if not isinstance(changed.language, UnsetType):
            newest = msgspec.structs.replace(newest, vote=Pending.of(self._named_vote(changed.language)))
        if not isinstance(changed.hotwords, UnsetType):
            newest = msgspec.structs.replace(newest, hotwords=self._named_hotwords(changed.hotwords))
        self._keep(with_newest(self._settings, newest))

    def forget(self, progress: CallProgress) -> None:
        """Drop the settings that no utterance can need any more."""
        self._keep(still_needed(self._settings, progress.heard_to_s))

    def end(self) -> None:
        """No utterance follows: the votes so far decide."""
        for settings in self._settings:
            settings.decision.end(settings.vote)

    def _keep(self, kept: list[PendingSettings]) -> None:
        for settings in self._settings:
            if all(settings.decision is not one.decision for one in kept):
                settings.decision.end(settings.vote)
        self._settings = kept

    def take(self, utterance: Utterance) -> UtteranceContext:
        """Return the context of the next utterance. Later ones get the values that it sets."""
        index = in_force(self._settings, begin_s(utterance))
        settings, next_vote = self._settings[index], Pending[LanguageVote]()
        self._settings[index] = msgspec.structs.replace(settings, vote=next_vote)
        overlap, next_overlap = self._overlaps.pop(utterance.channel, Pending.of(NO_OVERLAP)), Pending[Overlap]()
        if utterance.after:
            self._overlaps[utterance.channel] = next_overlap
        return UtteranceContext(settings.hotwords, settings.vote, next_vote, overlap, next_overlap, settings.decision)

    def settings_of(self, interim: InterimUtterance) -> DecodingSettings:
        """Return the settings of an open utterance, as far as they are known."""
        return self._settings[in_force(self._settings, begin_s(interim))].known()

    async def overlap_of(self, interim: InterimUtterance) -> Overlap:
        """Wait for the overlap at the start of an open utterance."""
        return (await self._overlaps.get(interim.channel, Pending.of(NO_OVERLAP)).get()).at_start_of(interim)

    def snapshot(self) -> PendingContext:
        return PendingContext(tuple(self._settings), dict(self._overlaps))

    def _named_vote(self, language: str | None) -> LanguageVote:
        """Return a vote that is locked if the producer, or else the deployment, names a language of the model."""
        if len(self._languages) == 1:
            return LanguageVote(min(self._languages))
        code = language_code(language, self._languages) or language_code(self._language, self._languages)
        return LanguageVote(code)

    def _named_hotwords(self, named: Sequence[str] | UnsetType) -> tuple[str, ...]:
        own = () if isinstance(named, UnsetType) else named
        words = (word.strip() for word in (*own, *self._hotwords))
        return tuple(dict.fromkeys(word for word in words if word))


class Timed(Protocol):
    @property
    def from_s(self) -> float: ...


Settings = TypeVar("Settings", bound=Timed)


def begin_s(utterance: Utterance | InterimUtterance) -> float:
    """Return where its speech begins, in seconds from the call's start. All versions of an utterance have the same."""
    return utterance.voiced[0][0] if utterance.voiced else utterance.start_s


def in_force(settings: Sequence[Settings], begin_s: float) -> int:
    """Return the index of the settings of speech that begins then. `settings`: in order, at least one."""
    return max(0, sum(one.from_s <= begin_s for one in settings) - 1)


def with_newest(settings: Sequence[Settings], newest: Settings) -> list[Settings]:
    """Return `settings` with one more, which must not begin before the last."""
    return [*settings, newest][-MAX_SETTINGS:]


def still_needed(settings: Sequence[Settings], heard_to_s: Sequence[float]) -> list[Settings]:
    """Return the settings of speech that is still to come. `heard_to_s`: how far each channel has been heard."""
    return list(settings[in_force(settings, min(heard_to_s, default=0.0)) :])
