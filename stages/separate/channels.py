"""All channels of a call, and the event from which each must be replayed after a restart."""

from functools import partial
from typing import NamedTuple

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

from schemas.utterances import Crosstalk
from stages.separate.channel import SKIP_S, ChannelSeparator, ChannelState, Growth
from stages.separate.codecs import Samples
from stages.separate.crosstalk import CrosstalkMeter, CrosstalkState
from stages.separate.endpointing import EndpointingSettings
from stages.separate.packs import Speech
from stages.separate.speech import VoiceActivityModel

_HARD_SEARCH_CHANNEL_S = 10.0
"""A hard cut leaves audio in the state. With many channels it searches less far back, so that the state stays small."""


class ChannelResume(msgspec.Struct, frozen=True, array_like=True):
    """A channel before event `seq`, with the bytes of an incomplete frame that the event continues.

    Taken between utterances or right after a cut, once every utterance cut so far was sent. Events are replayed from
    here on, and no utterance that was sent comes out again.
    """

    seq: int
    carry: bytes
    state: ChannelState


class _Candidate(NamedTuple):
    """A channel when `n_cut` utterances had been cut."""

    n_cut: int
    resume: ChannelResume


class CallChannels:
    """The channels of one call after its start; `first_seq` is the number of the event that follows the start.

    In a replay an event concerns only the channels that resume at or before its number.
    """

    def __init__(
        self,
        source_rate_hz: int,
        channels: int,
        model: VoiceActivityModel,
        settings: EndpointingSettings,
        resumes: list[ChannelResume] | None = None,
        *,
        first_seq: int = 1,
        meter: CrosstalkMeter | None = None,
    ) -> None:
        """Without a `meter` the channels are not compared."""
        search_s = min(settings.hard_search_s, _HARD_SEARCH_CHANNEL_S / channels)
        settings = msgspec.structs.replace(settings, hard_search_s=search_s)
        states: list[ChannelState | None] = [resume.state for resume in resumes] if resumes else [None] * channels
        self._rate_hz = source_rate_hz
        self._meter = meter
        self.crosstalk: CrosstalkState | UnsetType = UNSET
        """The state of the comparison of the channels, once there is one to resume from."""
        self._channels = [
            ChannelSeparator(source_rate_hz, model, settings, state, partial(self._crosstalk_of, index))
            for index, state in enumerate(states)
        ]
        self.resumes = resumes or [ChannelResume(first_seq, b"", channel.snapshot()) for channel in self._channels]
        self._ran = [False] * channels
        self._n_cut = [channel.n_cut for channel in self._channels]
        self._candidates: list[_Candidate | None] = [None] * channels

    @property
    def rate_hz(self) -> int:
        """Sample rate of the utterances."""
        return self._channels[0].rate_hz

    @property
    def heard_to_s(self) -> list[float]:
        """Per channel, in seconds: every utterance that starts before this time was sent."""
        return [channel.heard_to_s for channel in self._channels]

    def blocks_after(self, n_frames: int) -> int:
        """Return how often the voice activity model will run for this many more frames."""
        return sum(channel.blocks_after(n_frames) for channel in self._channels)

    def take(self, seq: int, frames: Samples) -> list[tuple[int, Speech]]:
        """Take event `seq`'s audio, shape (n, channels). Returns (channel, speech) of what it completes, by start."""
        if self._meter is not None:
            self._meter.take(seq, frames)
        return _by_start(
            [(index, cut) for index in self._concerned_by(seq) for cut in self._take_one(index, frames[:, index])]
        )

    def take_silence(self, seq: int, n_frames: int) -> list[tuple[int, Speech]]:
        """Take silence in the place of event `seq` and those after it. Hours of it cost no more than a few seconds."""
        if self._meter is not None:
            self._meter.take_silence(seq, n_frames)
        step = SKIP_S * self._rate_hz
        cuts: list[tuple[int, Speech]] = []
        for index in self._concerned_by(seq):
            left = n_frames
            while left:
                n = min(left, step)
                cuts += [(index, cut) for cut in self._take_one(index, np.zeros(n, np.int16))]
                left -= n
                if left >= step and n == step and self._channels[index].skip_silence(left // step * SKIP_S):
                    left %= step
        return _by_start(cuts)

    def growths(self) -> list[tuple[int, Growth]]:
        """Return new versions of the open utterances after an event, but none of a channel that was just cut."""
        return [
            (index, growth)
            for index, channel in enumerate(self._channels)
            if self._ran[index] and not self._has_cut(index) and (growth := channel.growth()) is not None
        ]

    def flush(self) -> list[tuple[int, Speech]]:
        """End the open utterances; more audio may follow."""
        self._ran = [True] * len(self._channels)
        if self._meter is not None:
            self._meter.flush()
        return _by_start([(index, cut) for index, channel in enumerate(self._channels) for cut in channel.flush()])

    def finish(self) -> list[tuple[int, Speech]]:
        """Return the last utterances of the call. No method may be called after it."""
        if self._meter is not None:
            self._meter.flush()
        return _by_start([(index, cut) for index, channel in enumerate(self._channels) for cut in channel.finish()])

    def release(self, seq: int) -> list[tuple[int, Speech]]:
        """Return the utterances that wait in packs, at event `seq`, which has no audio."""
        return _by_start([(index, cut) for index in self._concerned_by(seq) for cut in self._channels[index].release()])

    def settle(self, seq: int, carry: bytes) -> None:
        """Before event `seq`, move the resume points of all channels that may resume here.

        While utterances wait in a pack, the channel's state after the last of them is kept as a candidate. It becomes
        the resume point if the pack goes out before another utterance joins it.
        """
        for index, channel in enumerate(self._channels):
            self._move_to_candidate(index)
            may_resume = self._has_cut(index) or (self._ran[index] and not channel.is_open)
            if may_resume and self.resumes[index].seq <= seq:
                self._candidates[index] = _Candidate(channel.n_cut, ChannelResume(seq, carry, channel.snapshot()))
                self._move_to_candidate(index)
        self._ran = [False] * len(self._channels)
        self._n_cut = [channel.n_cut for channel in self._channels]
        if self._meter is not None:
            needed_from = min(resume.state.audio_start for resume in self.resumes)
            self.crosstalk = self._meter.settle(seq, carry, needed_from * self._rate_hz // self.rate_hz)

    def _crosstalk_of(self, channel: int, first: int, last: int, known_to: int | None) -> list[Crosstalk]:
        """Return the crosstalk of samples at the rate of the utterances. See `channel.CrosstalkOf`."""
        if self._meter is None:
            return []
        first, last = (sample * self._rate_hz // self.rate_hz for sample in (first, last))
        known_to = None if known_to is None else known_to * self._rate_hz // self.rate_hz
        return self._meter.of(channel, first, last, known_to)

    def _move_to_candidate(self, index: int) -> None:
        candidate = self._candidates[index]
        if candidate is not None and candidate.n_cut == self._channels[index].n_sent:
            self.resumes[index] = candidate.resume
            self._candidates[index] = None

    def _has_cut(self, index: int) -> bool:
        """Return True if an utterance of the channel was cut since the last `settle`."""
        return self._channels[index].n_cut > self._n_cut[index]

    def _concerned_by(self, seq: int) -> list[int]:
        return [index for index, resume in enumerate(self.resumes) if resume.seq <= seq]

    def _take_one(self, index: int, samples: Samples) -> list[Speech]:
        channel = self._channels[index]
        channel.take(samples)
        if not channel.blocks_after(0):
            return []
        self._ran[index] = True
        return channel.run()


def _by_start(cuts: list[tuple[int, Speech]]) -> list[tuple[int, Speech]]:
    return sorted(cuts, key=lambda cut: (cut[1].first_sample, cut[0]))
