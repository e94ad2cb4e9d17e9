"""All channels of a call, and from where each of them has to be replayed after a restart."""

from typing import NamedTuple

import msgspec
import numpy as np

from stages.separate.channel import SKIP_S, ChannelLane, Growth, LaneState
from stages.separate.codecs import Samples
from stages.separate.endpointing import EndpointingSettings
from stages.separate.packs import Speech
from stages.separate.speech import VoiceActivityModel

_HARD_SEARCH_CHANNEL_S = 10.0
"""A hard cut leaves audio in the state: many channels search less far back, so that all of it stays small."""


class LaneResume(msgspec.Struct, frozen=True, array_like=True):
    """A channel as it was before event `seq`, with the bytes of an unfinished frame that the event continues.

    Taken where the channel is between utterances, or right after one was cut, and all that were cut have gone out:
    from there on the events are replayed, and nothing that was sent before comes out again.
    """

    seq: int
    carry: bytes
    lane: LaneState


class _Candidate(NamedTuple):
    """How a channel was when `n_cut` utterances had been cut."""

    n_cut: int
    resume: LaneResume


class Lanes:
    """The channels of one call, from behind its start (event 0).

    Event numbers say which channels an event still concerns in a replay.
    """

    def __init__(
        self,
        source_rate_hz: int,
        channels: int,
        model: VoiceActivityModel,
        settings: EndpointingSettings,
        resumes: list[LaneResume] | None = None,
    ) -> None:
        search_s = min(settings.hard_search_s, _HARD_SEARCH_CHANNEL_S / channels)
        settings = msgspec.structs.replace(settings, hard_search_s=search_s)
        states: list[LaneState | None] = [resume.lane for resume in resumes] if resumes else [None] * channels
        self._rate_hz = source_rate_hz
        self._lanes = [ChannelLane(source_rate_hz, model, settings, state) for state in states]
        self.resumes = resumes or [LaneResume(1, b"", lane.snapshot()) for lane in self._lanes]
        self._ran = [False] * channels
        self._n_cut = [lane.n_cut for lane in self._lanes]
        self._candidates: list[_Candidate | None] = [None] * channels

    @property
    def rate_hz(self) -> int:
        """The rate of the utterances."""
        return self._lanes[0].rate_hz

    @property
    def heard_to_s(self) -> list[float]:
        """Per channel: no utterance that begins before this time is still to come."""
        return [lane.heard_to_s for lane in self._lanes]

    def blocks_after(self, n_frames: int) -> int:
        """How often the voice activity model runs once so many more frames have been heard."""
        return sum(lane.blocks_after(n_frames) for lane in self._lanes)

    def hear(self, seq: int, frames: Samples) -> list[tuple[int, Speech]]:
        """Event `seq`'s audio, shape (n, channels); returns what it completes as (channel, speech), by start."""
        return _by_start(
            [(index, cut) for index in self._behind(seq) for cut in self._hear_one(index, frames[:, index])]
        )

    def hear_silence(self, seq: int, n_frames: int) -> list[tuple[int, Speech]]:
        """Silence in the place of event `seq` and those behind it. Hours of it cost no more than some seconds."""
        step = SKIP_S * self._rate_hz
        cuts: list[tuple[int, Speech]] = []
        for index in self._behind(seq):
            left = n_frames
            while left:
                n = min(left, step)
                cuts += [(index, cut) for cut in self._hear_one(index, np.zeros(n, np.int16))]
                left -= n
                if left >= step and n == step and self._lanes[index].skip_silence(left // step * SKIP_S):
                    left %= step
        return _by_start(cuts)

    def growths(self) -> list[tuple[int, Growth]]:
        """What the channels' open utterances have grown to, asked behind each event; none of a channel just cut."""
        return [
            (index, growth)
            for index, lane in enumerate(self._lanes)
            if self._ran[index] and not self._has_cut(index) and (growth := lane.growth()) is not None
        ]

    def flush(self) -> list[tuple[int, Speech]]:
        """End the open utterances; more audio may follow."""
        self._ran = [True] * len(self._lanes)
        return _by_start([(index, cut) for index, lane in enumerate(self._lanes) for cut in lane.flush()])

    def finish(self) -> list[tuple[int, Speech]]:
        """The last utterances of the call, which then is over for these lanes."""
        return _by_start([(index, cut) for index, lane in enumerate(self._lanes) for cut in lane.finish()])

    def release(self, seq: int) -> list[tuple[int, Speech]]:
        """At event `seq`, which has no audio: what waits in packs."""
        return _by_start([(index, cut) for index in self._behind(seq) for cut in self._lanes[index].release()])

    def settle(self, seq: int, carry: bytes) -> None:
        """Before event `seq`: move the resume points of channels that may resume here.

        Where utterances wait in a pack it is remembered how the channel was behind the last of them: once the pack has
        gone out without the next one, that is where it resumes.
        """
        for index, lane in enumerate(self._lanes):
            self._move_to_candidate(index)
            may_resume = self._has_cut(index) or (self._ran[index] and not lane.is_open)
            if may_resume and self.resumes[index].seq <= seq:
                self._candidates[index] = _Candidate(lane.n_cut, LaneResume(seq, carry, lane.snapshot()))
                self._move_to_candidate(index)
        self._ran = [False] * len(self._lanes)
        self._n_cut = [lane.n_cut for lane in self._lanes]

    def _move_to_candidate(self, index: int) -> None:
        candidate = self._candidates[index]
        if candidate is not None and candidate.n_cut == self._lanes[index].n_sent:
            self.resumes[index] = candidate.resume
            self._candidates[index] = None

    def _has_cut(self, index: int) -> bool:
        """Whether an utterance of the channel was cut since the last `settle`."""
        return self._lanes[index].n_cut > self._n_cut[index]

    def _behind(self, seq: int) -> list[int]:
        return [index for index, resume in enumerate(self.resumes) if resume.seq <= seq]

    def _hear_one(self, index: int, samples: Samples) -> list[Speech]:
        lane = self._lanes[index]
        lane.take(samples)
        if not lane.blocks_after(0):
            return []
        self._ran[index] = True
        return lane.run()


def _by_start(cuts: list[tuple[int, Speech]]) -> list[tuple[int, Speech]]:
    return sorted(cuts, key=lambda cut: (cut[1].first_sample, cut[0]))
