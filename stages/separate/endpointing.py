"""Cuts a channel into utterances from its frames' speech probabilities. Pure: no audio, no clock, only frame numbers.

Defaults as measured on a real two-leg call with Whisper base, against bare WhisperX on each leg: with a hang of 0.7 s
and cuts behind 8 s at pauses of 0.3 s, 9.0 % of the words differ; with 0.6 s, 7 s and 0.2 s it was 13.9 %. Settings
with hangs from 0.7 s and soft pauses from 0.3 s lay between 8.8 and 10.2 %. A hard cut later than 14 s loses words.
Against bursts of speech with known limits in near silence, frames above these thresholds begin 5 to 15 ms late and end
70 to 80 ms late (medians, at 8 kHz): the model is slow to let go, so a voiced stretch ends a frame before its last one.
"""

from math import log, log10
from typing import Final

import msgspec

from schemas.utterances import Cut
from stages.separate.speech import FRAME_S

_MAX_LEAD_FRAMES: Final = 3
_RELEASE_FRAMES: Final = 1
_AROUND_EDGE: Final = (0.5, 1.0, 1.0, 0.5)
_DB_PER_LOG_ODDS: Final = 0.5


class EndpointingSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Thresholds are probabilities, the rest seconds. The defaults are those of a live call."""

    onset: float = 0.5
    """Speech begins at a frame at least this probable, and takes in the frames above `offset` just before it."""
    offset: float = 0.35
    """Speech goes on through frames at least this probable."""
    bridge_s: float = 0.22
    """A shorter dip below `offset` does not split a voiced stretch: seven frames, the first longer than the 0.2 s up to
    which a pause belongs to the talk-spurt around it (see `stages.merge.metrics`)."""
    min_speech_s: float = 0.2
    """An utterance with less voiced time in all is not speech: clicks and tones."""
    hang_s: float = 0.7
    padding_s: float = 0.3
    """Context before the first and behind the last voiced frame."""
    soft_limit_s: float = 8.0
    soft_pause_s: float = 0.3
    hard_limit_s: float = 14.0
    hard_search_s: float = 5.0
    hard_context_s: float = 1.2
    """What is heard on the other side of a hard cut too, to tell which words lie on which side."""
    pack_s: float = 0.0
    """So much audio of utterances that follow each other goes out as one (see `packs`); 0: each goes alone."""
    pack_span_s: float = 60.0
    """So long after its start a pack goes out at the latest. After a crash the call is heard again from there."""


RECORDED: Final = EndpointingSettings(pack_s=14.0)
"""For calls that nobody waits for: a pack is as long as the longest utterance."""


class Boundary(msgspec.Struct, frozen=True, kw_only=True):
    """An utterance in frames of its channel: [start, end), and the voiced stretches inside it."""

    start: int
    end: int
    voiced: list[tuple[int, int]]
    cut: Cut
    continued: bool = False
    """It begins at a hard cut."""


class EndpointerState(msgspec.Struct, kw_only=True, array_like=True):
    """`frame` is the number of the next frame, `floor` where the last utterance ended.

    While an utterance is open (`start` is not None): its finished voiced stretches, the one that is going on or may
    still be bridged (`run_start`), the end of the last voiced frame, and the probabilities and energies since `start`.
    """

    frame: int = 0
    floor: int = 0
    lead: int = 0
    start: int | None = None
    runs: list[tuple[int, int]] = []
    run_start: int | None = None
    voiced_end: int = 0
    probabilities: list[float] = []
    continued: bool = False
    """The open utterance began at a hard cut, in the middle of speech: it counts however short it is."""
    energies: list[float] = []

    def copy(self) -> "EndpointerState":
        return msgspec.structs.replace(
            self, runs=list(self.runs), probabilities=list(self.probabilities), energies=list(self.energies)
        )


class Endpointer:
    """One channel's utterances. `state` is replaced, never shared: copy it to keep it."""

    def __init__(self, settings: EndpointingSettings, state: EndpointerState | None = None) -> None:
        self._settings = settings
        self.state = state or EndpointerState()
        self._bridge = _frames(settings.bridge_s)
        self._hang = _frames(settings.hang_s)
        self._padding = _frames(settings.padding_s)
        self._soft_limit = _frames(settings.soft_limit_s)
        self._soft_pause = _frames(settings.soft_pause_s)
        self._hard_limit = _frames(settings.hard_limit_s)
        self._hard_search = _frames(settings.hard_search_s)
        self._hard_context = min(_frames(settings.hard_context_s), self._hard_search // 2)
        self._min_speech = _frames(settings.min_speech_s)

    @property
    def is_open(self) -> bool:
        """Whether an utterance has begun."""
        return self.state.start is not None

    @property
    def heard_to(self) -> int:
        """No utterance that begins before this frame is still to come."""
        if self.state.start is not None:
            return self.state.start
        return max(self.state.floor, self.state.frame - self._padding - _MAX_LEAD_FRAMES)

    @property
    def needed_from(self) -> int:
        """No audio before this frame is still to be sent."""
        return self.heard_to - (self._hard_context if self.state.continued else 0)

    @property
    def context(self) -> int:
        """So many frames on both sides of a hard cut were heard when it is made."""
        return self._hard_context

    def push(self, probability: float, energy: float = 0.0) -> Boundary | None:
        """Take the next frame, its mean square with it; returns the utterance that it completes."""
        state, settings = self.state, self._settings
        frame = state.frame
        state.frame = end = frame + 1
        if state.run_start is None:
            if probability >= settings.onset:
                onset = max(state.floor, frame - state.lead)
                if state.start is None:
                    state.start = max(state.floor, onset - self._padding)
                    state.probabilities = [0.0] * (frame - state.start)
                    state.energies = [0.0] * (frame - state.start)
                state.run_start = max(onset, state.voiced_end)
                state.voiced_end = end
                state.lead = 0
            else:
                state.lead = min(state.lead + 1, _MAX_LEAD_FRAMES) if probability >= settings.offset else 0
        elif probability >= settings.offset:
            state.voiced_end = end
        elif end - state.voiced_end >= self._bridge:
            state.runs = self._voiced()
            state.run_start = None
        if state.start is None:
            return None
        state.probabilities.append(probability)
        state.energies.append(energy)
        silence, length = end - state.voiced_end, end - state.start
        if silence >= self._hang:
            return self._close(state.voiced_end + self._padding, "pause")
        if length >= self._soft_limit and silence >= self._soft_pause:
            return self._close(state.voiced_end + silence // 2, "soft")
        if length >= self._hard_limit:
            return self._cut_hard()
        return None

    def so_far(self) -> Boundary | None:
        """The open utterance, once so much of it is voiced that one with this start will surely follow."""
        state = self.state
        if state.start is None:
            return None
        voiced = self._voiced()
        if sum(last - first for first, last in voiced) < 2 * self._min_speech:
            return None
        return Boundary(start=state.start, end=state.frame, voiced=voiced, cut="end", continued=state.continued)

    @property
    def certain_frames(self) -> int:
        """So much of an utterance, from its start, is in it wherever it is cut: no hard cut looks back so far."""
        return self._hard_limit - self._hard_search

    def flush(self) -> Boundary | None:
        """The open utterance, ended where the audio ends."""
        return self._close(self.state.frame, "end") if self.is_open else None

    def skip(self, n_frames: int) -> None:
        """As if so many silent frames had been pushed; only while nothing is open."""
        self.state.frame += n_frames

    def _close(self, end: int, cut: Cut) -> Boundary | None:
        """None where too little was voiced: then the audio stays free to be the next utterance's context."""
        state = self.state
        assert state.start is not None
        start, voiced, continued = state.start, self._voiced(), state.continued
        state.start, state.runs, state.run_start, state.continued = None, [], None, False
        state.probabilities, state.energies = [], []
        if not voiced or (not continued and sum(last - first for first, last in voiced) < self._min_speech):
            state.floor = start
            return None
        state.floor = end
        return Boundary(start=start, end=end, voiced=voiced, cut=cut, continued=continued)

    def _cut_hard(self) -> Boundary:
        """Cut where it is quietest in the last seconds; what is behind it goes on as the next utterance."""
        state = self.state
        assert state.start is not None
        back = min(range(self._hard_search, self._hard_context - 1, -1), key=self._loudness)
        at = state.frame - back
        start, voiced, continued = state.start, self._voiced(), state.continued
        behind = [(max(first, at), last) for first, last in voiced if last > at]
        state.floor = at
        state.start = at if behind else None
        state.continued = bool(behind)
        state.probabilities = state.probabilities[-back:] if behind else []
        state.energies = state.energies[-back:] if behind else []
        state.run_start = behind.pop()[0] if behind and state.run_start is not None else None
        state.runs = behind
        before = [(first, min(last, at)) for first, last in voiced if first < at]
        return Boundary(start=start, end=at, voiced=before, cut="hard", continued=continued)

    def _loudness(self, back: int) -> float:
        """Of the 0.13 s around the edge of frames that lies so far back: decibels, and a little of how much it is
        speech.
        """
        state = self.state
        energies = state.energies[-back - 2 : len(state.energies) - back + 2]
        weights = _AROUND_EDGE[-len(energies) :]
        energy = sum(weight * one for weight, one in zip(weights, energies, strict=True)) / sum(weights)
        odds = sum(_log_odds(one) for one in state.probabilities[-back - 1 : len(state.probabilities) - back + 1]) / 2
        return 10 * log10(energy + 1) + _DB_PER_LOG_ODDS * odds

    def _voiced(self) -> list[tuple[int, int]]:
        """The open utterance's voiced stretches, the one that is going on included."""
        state = self.state
        if state.run_start is None:
            return list(state.runs)
        end = state.voiced_end
        if end < state.frame:
            end = max(state.run_start + 1, end - _RELEASE_FRAMES)
        return [*state.runs, (state.run_start, end)]


def _log_odds(probability: float) -> float:
    held = min(max(probability, 1e-4), 1 - 1e-4)
    return log(held / (1 - held))


def _frames(seconds: float) -> int:
    return max(1, round(seconds / FRAME_S))
