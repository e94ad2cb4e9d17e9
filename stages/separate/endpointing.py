"""Endpointing: cuts a channel into utterances by the speech probabilities of its frames. Pure: no audio, no clock.

The defaults were measured on a real two-leg call with Whisper base, against bare WhisperX on each leg. With a hang of
0.7 s and cuts after 8 s at pauses of 0.3 s, 9.0 % of the words differ; with 0.6 s, 7 s and 0.2 s it was 13.9 %.
Settings with hangs from 0.7 s and soft pauses from 0.3 s lay between 8.8 and 10.2 %. A hard cut later than 14 s loses
words.

Against 73 lines of synthetic calls with known limits in near silence, voiced stretches begin 4 ms late (median; 80 %
between 12 ms early and 26 ms late) and end 84 ms late (58 to 120 ms), after the frame that `_RELEASE_FRAMES` and the
half that `stages.separate.channel` take off: the model is slow to end speech. Its 8 kHz form alone begins 18 ms late
(up to 105 ms).
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
    """Thresholds are probabilities; all other values are seconds. The defaults are for live calls."""

    onset: float = 0.5
    """Speech begins at a frame of at least this probability, and includes the frames above `offset` just before it."""
    offset: float = 0.35
    """Speech continues through frames with at least this probability."""
    bridge_s: float = 0.22
    """A shorter dip below `offset` does not split a voiced stretch. Seven frames: the least that exceed the 0.2 s up to
    which a pause belongs to the talk-spurt around it (see `stages.merge.metrics`)."""
    min_speech_s: float = 0.2
    """An utterance with less voiced time in total is no speech but a click or a tone."""
    hang_s: float = 0.7
    """A pause of this length ends the utterance."""
    padding_s: float = 0.3
    """Context before the first and after the last voiced frame."""
    soft_limit_s: float = 8.0
    soft_pause_s: float = 0.3
    """From `soft_limit_s` on, a pause of this length ends the utterance."""
    hard_limit_s: float = 14.0
    hard_search_s: float = 5.0
    """At `hard_limit_s` the utterance is cut where it is quietest in this last stretch of it."""
    hard_context_s: float = 1.2
    """Audio that is added from the other side of a hard cut, to tell which words lie on which side."""
    pack_s: float = 0.0
    """Consecutive utterances are joined up to this much audio (see `packs`); 0 sends each alone."""
    pack_span_s: float = 60.0
    """A pack goes out at the latest this long after its start. A crash replays the call from there."""


RECORDED: Final = EndpointingSettings(pack_s=14.0)
"""For recorded calls, which need no low latency: a pack is as long as the longest utterance."""


class Boundary(msgspec.Struct, frozen=True, kw_only=True):
    """An utterance in frames of its channel: [start, end), and the voiced stretches inside it."""

    start: int
    end: int
    voiced: list[tuple[int, int]]
    cut: Cut
    continued: bool = False
    """True if it begins at a hard cut."""


class EndpointerState(msgspec.Struct, kw_only=True, array_like=True):
    """`frame` is the number of the next frame, `floor` the end of the last utterance.

    While an utterance is open, `start` is not None and there are: its finished voiced stretches (`runs`), the start of
    the one in progress or still to be bridged (`run_start`), the end of the last voiced frame, and the probabilities
    and energies since `start`.
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
    """True if the open utterance began at a hard cut, in the middle of speech: it counts however short it is."""
    energies: list[float] = []

    def copy(self) -> "EndpointerState":
        return msgspec.structs.replace(
            self, runs=list(self.runs), probabilities=list(self.probabilities), energies=list(self.energies)
        )


class Endpointer:
    """Cuts one channel into utterances. `state` is changed in place: copy it to keep it."""

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
        """True while an utterance is open."""
        return self.state.start is not None

    @property
    def heard_to(self) -> int:
        """Every utterance that starts before this frame was returned."""
        if self.state.start is not None:
            return self.state.start
        return max(self.state.floor, self.state.frame - self._padding - _MAX_LEAD_FRAMES)

    @property
    def needed_from(self) -> int:
        """No audio before this frame will be part of a later utterance or its context."""
        return self.heard_to - (self._hard_context if self.state.continued else 0)

    @property
    def context(self) -> int:
        """Frames of context on each side of a hard cut; all of them have passed when the cut is made."""
        return self._hard_context

    def push(self, probability: float, energy: float = 0.0) -> Boundary | None:
        """Take the next frame: its speech probability and mean square. Returns the utterance that it completes."""
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
        """Return the open utterance, once enough of it is voiced that an utterance with this start is certain."""
        state = self.state
        if state.start is None:
            return None
        voiced = self._voiced()
        if sum(last - first for first, last in voiced) < 2 * self._min_speech:
            return None
        return Boundary(start=state.start, end=state.frame, voiced=voiced, cut="end", continued=state.continued)

    @property
    def certain_frames(self) -> int:
        """Frames from its start that belong to an utterance wherever it is cut: no hard cut searches back so far."""
        return self._hard_limit - self._hard_search

    def flush(self) -> Boundary | None:
        """End the open utterance where the audio ends, and return it."""
        return self._close(self.state.frame, "end") if self.is_open else None

    def skip(self, n_frames: int) -> None:
        """Advance as if this many silent frames had been pushed. May be called only while no utterance is open."""
        self.state.frame += n_frames

    def _close(self, end: int, cut: Cut) -> Boundary | None:
        """Return None if too little was voiced: the audio may then become context of the next utterance."""
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
        """Cut where it is quietest in the last seconds. The rest continues as the next utterance."""
        state = self.state
        assert state.start is not None
        back = min(range(self._hard_search, self._hard_context - 1, -1), key=self._loudness)
        at = state.frame - back
        start, voiced, continued = state.start, self._voiced(), state.continued
        after = [(max(first, at), last) for first, last in voiced if last > at]
        state.floor = at
        state.start = at if after else None
        state.continued = bool(after)
        state.probabilities = state.probabilities[-back:] if after else []
        state.energies = state.energies[-back:] if after else []
        state.run_start = after.pop()[0] if after and state.run_start is not None else None
        state.runs = after
        before = [(first, min(last, at)) for first, last in voiced if first < at]
        return Boundary(start=start, end=at, voiced=before, cut="hard", continued=continued)

    def _loudness(self, back: int) -> float:
        """Return the loudness around the frame edge that lies `back` frames back: the level of 0.13 s in decibels, plus
        a small share of its log odds of being speech.
        """
        state = self.state
        energies = state.energies[-back - 2 : len(state.energies) - back + 2]
        weights = _AROUND_EDGE[-len(energies) :]
        energy = sum(weight * one for weight, one in zip(weights, energies, strict=True)) / sum(weights)
        odds = sum(_log_odds(one) for one in state.probabilities[-back - 1 : len(state.probabilities) - back + 1]) / 2
        return 10 * log10(energy + 1) + _DB_PER_LOG_ODDS * odds

    def _voiced(self) -> list[tuple[int, int]]:
        """Return the open utterance's voiced stretches, including the one in progress."""
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
