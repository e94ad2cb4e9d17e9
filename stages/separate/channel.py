"""One channel of a call, from samples to utterances.

Two sample rates meet here: the base rate of the utterances (the source's, at most 16 kHz) and the 8 kHz of the voice
activity model. Times are the channel's sample and frame numbers, counted from the start of the call.
"""

from collections.abc import Callable

import msgspec
import numpy as np

from schemas.utterances import Crosstalk
from stages.separate.codecs import Samples
from stages.separate.decoder import MAX_RATE_HZ
from stages.separate.endpointing import Boundary, Endpointer, EndpointerState, EndpointingSettings
from stages.separate.packs import Packer, Speech
from stages.separate.resampling import ResamplerState, StreamingResampler
from stages.separate.speech import (
    BLOCK_FRAMES,
    FRAME_S,
    FRAME_SAMPLES,
    VAD_RATE_HZ,
    SpeechState,
    VoiceActivityModel,
)

RELEASE_S = FRAME_S / 2
"""The model ends speech late, by more than the frame that the endpointer subtracts (see `endpointing`)."""

GROWTH_FRAMES = round(1 / FRAME_S)
"""About a second: growth of an open utterance from one interim version to the next."""

SKIP_S = 4
"""Silence is skipped in multiples of this: a whole number of seconds, of samples at any rate and of frames."""


CrosstalkOf = Callable[[int, int, int | None], list[Crosstalk]]
"""What other channels have of the samples [first, last), of the audio before a sample, or of all that was taken."""


class Growth(msgspec.Struct, frozen=True, kw_only=True):
    """The open utterance as it was `revision * GROWTH_FRAMES` frames after its start.

    `certain` says that no cut can fall before its end.
    """

    revision: int
    speech: Speech
    certain: bool


class ChannelState(msgspec.Struct, frozen=True, array_like=True):
    """A channel between two chunks: a few kilobytes, and the audio of the open utterance if there is one.

    It does not contain the utterances that wait in a pack.
    """

    to_base_rate: ResamplerState | None
    to_model_rate: ResamplerState | None
    speech: SpeechState
    endpointer: EndpointerState
    audio: bytes
    audio_start: int
    pending: bytes


class ChannelSeparator:
    """Takes the audio of one channel and cuts it into utterances.

    Deterministic: the result depends on the samples, not on how they are divided into chunks.
    """

    def __init__(
        self,
        source_rate_hz: int,
        model: VoiceActivityModel,
        settings: EndpointingSettings,
        state: ChannelState | None = None,
        crosstalk: CrosstalkOf = lambda _first, _last, _known_to: [],
    ) -> None:
        self.rate_hz = min(source_rate_hz, MAX_RATE_HZ)
        self._source_rate_hz = source_rate_hz
        self._model = model
        self._crosstalk = crosstalk
        given = state or ChannelState(None, None, SpeechState(), EndpointerState(), b"", 0, b"")
        self._to_base_rate = (
            StreamingResampler(source_rate_hz, MAX_RATE_HZ, given.to_base_rate)
            if source_rate_hz > MAX_RATE_HZ
            else None
        )
        self._to_model_rate = (
            StreamingResampler(self.rate_hz, VAD_RATE_HZ, given.to_model_rate) if self.rate_hz != VAD_RATE_HZ else None
        )
        self._speech = given.speech
        self._endpointer = Endpointer(settings, given.endpointer.copy())
        self._packer = Packer(limit=round(settings.pack_s * self.rate_hz), span=round(settings.pack_span_s / FRAME_S))
        self._audio: Samples = np.frombuffer(given.audio, "<i2").astype(np.int16)
        self._audio_start = given.audio_start
        self._fresh: list[Samples] = []
        self._pending: Samples = np.frombuffer(given.pending, "<i2").astype(np.int16)
        self._grown = (0, 0)

    @property
    def is_open(self) -> bool:
        """True while an utterance is open: the state then holds its audio."""
        return self._endpointer.is_open

    @property
    def n_cut(self) -> int:
        """Number of utterances cut."""
        return self._packer.n_added

    @property
    def n_sent(self) -> int:
        """Number of utterances sent; those cut since then wait in a pack."""
        return self._packer.n_released

    def blocks_after(self, n_samples: int) -> int:
        """Return how often the voice activity model will run for this many more samples."""
        n_pending = len(self._pending) + n_samples * VAD_RATE_HZ // self._source_rate_hz
        return n_pending // FRAME_SAMPLES // BLOCK_FRAMES

    @property
    def heard_to_s(self) -> float:
        """Every utterance that starts before this time was sent."""
        waiting = self._packer.first_sample
        heard_to = self._sample(self._endpointer.heard_to) if waiting is None else waiting
        return heard_to / self.rate_hz

    def snapshot(self) -> ChannelState:
        self._join()
        return ChannelState(
            self._to_base_rate.snapshot() if self._to_base_rate else None,
            self._to_model_rate.snapshot() if self._to_model_rate else None,
            self._speech,
            self._endpointer.state.copy(),
            self._audio.astype("<i2").tobytes(),
            self._audio_start,
            self._pending.astype("<i2").tobytes(),
        )

    def take(self, samples: Samples) -> None:
        """Take mono int16 samples, shape (n,), at the source rate. Cheap: the model runs in `run`."""
        base = self._to_base_rate.push(samples) if self._to_base_rate else samples
        self._append(base)

    def run(self) -> list[Speech]:
        """Process all complete blocks of frames. Returns the utterances or packs that they complete, in order."""
        return self._process(self.blocks_after(0) * BLOCK_FRAMES)

    def _process(self, n_frames: int) -> list[Speech]:
        self._join()
        if not n_frames:
            return []
        frames = self._pending[: n_frames * FRAME_SAMPLES].reshape(n_frames, FRAME_SAMPLES)
        self._pending = self._pending[n_frames * FRAME_SAMPLES :].copy()
        probabilities, self._speech = self._model.probabilities(frames, self._speech)
        energies = np.einsum("ij,ij->i", frames, frames, dtype=np.float64) / FRAME_SAMPLES
        cuts: list[Speech] = []
        for frame in zip(probabilities.tolist(), energies.tolist(), strict=True):
            boundary = self._endpointer.push(*frame)
            if boundary is not None:
                speech = self._cut(boundary, self._sample(boundary.end))
                speech = self._compared(speech, self._sample(self._endpointer.state.frame))
                cuts += self._packer.add(speech, boundary.start)
            cuts += self._packer.pass_frame(self._endpointer.state.frame)
        keep_from = max(self._audio_start, self._sample(self._endpointer.needed_from))
        self._audio = self._audio[keep_from - self._audio_start :].copy()
        self._audio_start = keep_from
        return cuts

    def growth(self) -> Growth | None:
        """Return each new version of the open utterance once. A restored channel may return one again."""
        open_ = self._endpointer.so_far()
        if open_ is None:
            return None
        revision = (open_.end - open_.start) // GROWTH_FRAMES
        if not revision or self._grown == (open_.start, revision):
            return None
        self._grown = (open_.start, revision)
        end = open_.start + revision * GROWTH_FRAMES
        voiced = [(first, min(last, end)) for first, last in open_.voiced if first < end]
        return Growth(
            revision=revision,
            speech=self._cut(msgspec.structs.replace(open_, end=end, voiced=voiced), self._sample(end)),
            certain=end - open_.start <= self._endpointer.certain_frames,
        )

    def flush(self) -> list[Speech]:
        """End the open utterance with all the audio taken so far.

        More audio may follow. An utterance in it may repeat the last, incomplete frame.
        """
        cuts = self._process(len(self._pending) // FRAME_SAMPLES)
        boundary = self._endpointer.flush()
        if boundary is not None:
            speech = self._cut(boundary, self._audio_start + len(self._audio))
            cuts += self._packer.add(self._compared(speech, None), boundary.start)
        return cuts + self._packer.release()

    def release(self) -> list[Speech]:
        """Return the utterances that wait in a pack."""
        return self._packer.release()

    def finish(self) -> list[Speech]:
        """Return the last utterances, after processing what the filters still hold and the last, incomplete frame."""
        if self._to_base_rate:
            self._append(self._to_base_rate.finish())
        if self._to_model_rate:
            self._pending = np.concatenate([self._pending, self._to_model_rate.finish()])
        self._pending = np.concatenate([self._pending, np.zeros(-len(self._pending) % FRAME_SAMPLES, np.int16)])
        return self.flush()

    def skip_silence(self, seconds: int) -> bool:
        """Advance as if `seconds` more of silence had been taken, a multiple of `SKIP_S`.

        May be called only after `SKIP_S` of silence. Returns False and changes nothing if an utterance is open even so,
        or waits in a pack.
        """
        if self.is_open or self.n_sent < self.n_cut:
            return False
        for resampler in (self._to_base_rate, self._to_model_rate):
            if resampler:
                resampler.skip_silence(seconds)
        self._audio_start += seconds * self.rate_hz
        self._endpointer.skip(seconds * VAD_RATE_HZ // FRAME_SAMPLES)
        return True

    def _append(self, base: Samples) -> None:
        self._fresh.append(base)
        self._pending = np.concatenate([self._pending, self._to_model_rate.push(base) if self._to_model_rate else base])

    def _join(self) -> None:
        """Join the chunks to the audio. Not done at each chunk: the audio of an open utterance is long."""
        if self._fresh:
            self._audio = np.concatenate([self._audio, *self._fresh])
            self._fresh = []

    def _cut(self, boundary: Boundary, end: int) -> Speech:
        start = self._sample(boundary.start)
        context = self._sample(self._endpointer.context)
        start_s, end_s = start / self.rate_hz, end / self.rate_hz
        return Speech(
            first_sample=start,
            pcm=self._pcm(start, end),
            voiced=[
                (max(first * FRAME_S, start_s), min(last * FRAME_S - RELEASE_S, end_s))
                for first, last in boundary.voiced
            ],
            cut=boundary.cut,
            before=self._pcm(start - context, start) if boundary.continued else b"",
            after=self._pcm(end, end + context) if boundary.cut == "hard" else b"",
        )

    def _compared(self, speech: Speech, known_to: int | None) -> Speech:
        first = speech.first_sample
        crosstalk = self._crosstalk(first, first + len(speech.pcm) // 2, known_to)
        return msgspec.structs.replace(speech, crosstalk=crosstalk)

    def _pcm(self, first: int, last: int) -> bytes:
        """Return samples [first, last), as far as they are still held."""
        samples = self._audio[max(0, first - self._audio_start) : last - self._audio_start]
        return samples.astype("<i2").tobytes()

    def _sample(self, frame: int) -> int:
        return frame * FRAME_SAMPLES * self.rate_hz // VAD_RATE_HZ
