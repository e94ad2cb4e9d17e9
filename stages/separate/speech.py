"""Voice activity: whether somebody speaks in each frame of a channel, by three witnesses. The surest one counts.

- Silero VAD v6 in its 8 kHz form, on the channel at 8 kHz.
- Its 16 kHz form, on the same samples at twice the rate. Each form is deaf to some voices. Telephone speech has nothing
  above 4 kHz, and of the frames inside each line of the sample call's customer, a high voice, the 16 kHz form calls
  0 to 9 % speech, the 8 kHz form 57 to 97 %. Of another caller's excited sentences the 8 kHz form calls whole lines
  noise that the other hears.
- What is loud for this channel and looks like a voice (`loudness`, `sound`), for sentences that neither hears.

Both forms hear worse when the level is far from what they were trained on (at a tenth of it, a third of a leg is lost).
So a channel that is much too soft or too loud is amplified for them, in coarse steps.
"""

from typing import Final, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from stages.separate.codecs import Samples
from stages.separate.frame_models import BLOCK_FRAMES as BLOCK_FRAMES
from stages.separate.frame_models import MEMORY_BYTES, NO_MEMORY, FrameModel, frame_model, shipped_weights
from stages.separate.loudness import Loudness, LoudnessState
from stages.separate.silero import NARROW, WIDE
from stages.separate.sound import HISTORY_FRAMES, sounds_of

VAD_RATE_HZ: Final = NARROW.rate_hz
FRAME_SAMPLES: Final = NARROW.frame_samples
FRAME_S: Final = FRAME_SAMPLES / VAD_RATE_HZ

_SCALE: Final = 1 / 32768
_CONTEXT_SAMPLES: Final = HISTORY_FRAMES * FRAME_SAMPLES
_HALF_TAPS: Final = 16
_UNIT: Final = 1 << 16

_RECENT: Final = 0xFF
_CONFIRMED: Final = 3
"""The third witness is sure from this many voice-like frames of the last eight (0.096 of 0.256 s), more by one for
each loud frame among them that is a tone or held."""
_SURE: Final = 0.6
_LIKELY: Final = 0.4
"""Continues speech, and is its beginning if the frames after it are speech."""


class SpeechState(msgspec.Struct, frozen=True, array_like=True):
    """What the witnesses remember of a channel, in two byte strings so that the struct is as earlier versions wrote it.

    `memory`: the LSTM state of the 8 kHz form (float32), that of the 16 kHz form, and a `_Followed`. `context`: the
    last samples (int16). Earlier versions had the first state and 32 samples alone; what is missing begins anew.
    """

    memory: bytes = NO_MEMORY
    context: bytes = b"\0" * (2 * NARROW.context_samples)


class VoiceActivityModel(Protocol):
    """Probability of speech per frame. Shared by all calls, and safe to call from several threads."""

    def probabilities(self, frames: Samples, state: SpeechState) -> tuple[NDArray[np.float32], SpeechState]:
        """Return the probabilities of frames, and the state after them.

        Args:
            frames: int16, shape (n, 256), n ≥ 1, at 8 kHz.
            state: after the frames before them.

        Returns float32 of shape (n,). They are the same to the bit however the frames are divided into calls.
        """
        ...


class _Followed(msgspec.Struct, array_like=True):
    """`voice_like`, `steady`: a bit for each of the last eight frames, set if it was that and loud; the last lowest."""

    loudness: LoudnessState = msgspec.field(default_factory=LoudnessState)
    voice_like: int = 0
    steady: int = 0


class Witnesses:
    """Both forms of the model, and the look of the sound. The greatest probability counts."""

    def __init__(self, narrow: FrameModel, wide: FrameModel) -> None:
        self._narrow, self._wide = narrow, wide

    def probabilities(self, frames: Samples, state: SpeechState) -> tuple[NDArray[np.float32], SpeechState]:
        narrow_memory, wide_memory, followed = _recalled(state.memory)
        signal = np.concatenate([_padded(state.context), frames.reshape(-1)])
        evidence, gains = _evidence(signal, followed)
        near, narrow_memory = self._narrow.probabilities(_narrow_inputs(signal, gains), narrow_memory)
        far, wide_memory = self._wide.probabilities(_wide_inputs(signal, gains), wide_memory)
        memory = narrow_memory + wide_memory + msgspec.msgpack.encode(followed)
        context = signal[-_CONTEXT_SAMPLES:].astype("<i2").tobytes()
        return np.maximum(np.maximum(near, far), evidence), SpeechState(memory, context)


def load_voice_activity_model() -> VoiceActivityModel:
    """Load the weights that silero-vad ships (2 MB, about 0.4 s). Raises ImportError if it is not installed."""
    return model_of(shipped_weights())


def model_of(weights: bytes) -> VoiceActivityModel:
    """Return the witnesses with the models of a published ONNX file."""
    return Witnesses(frame_model(weights, NARROW), frame_model(weights, WIDE))


def _recalled(memory: bytes) -> tuple[bytes, bytes, _Followed]:
    if len(memory) <= MEMORY_BYTES:
        return memory, NO_MEMORY, _Followed()
    wide = memory[MEMORY_BYTES : 2 * MEMORY_BYTES]
    return memory[:MEMORY_BYTES], wide, msgspec.msgpack.decode(memory[2 * MEMORY_BYTES :], type=_Followed)


def _padded(context: bytes) -> Samples:
    """Return the samples before the next frame, shape (1024,); those that are not known are silence."""
    known = np.frombuffer(context, "<i2").astype(np.int16)
    return np.concatenate([np.zeros(_CONTEXT_SAMPLES - len(known), np.int16), known])


def _evidence(signal: Samples, followed: _Followed) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return the third witness's probabilities and the factors for the models. Changes `followed`."""
    loudness = Loudness(followed.loudness)
    said, gains = [], []
    for level_db, voice_like, steady in zip(*sounds_of(signal), strict=True):
        loud = loudness.push(level_db)
        seen = loud and voice_like
        followed.voice_like = (followed.voice_like << 1 | seen) & _RECENT
        followed.steady = (followed.steady << 1 | (loud and steady)) & _RECENT
        sure = followed.voice_like.bit_count() - followed.steady.bit_count() >= _CONFIRMED
        said.append(0.0 if not loud else _SURE if sure and seen else _LIKELY if sure or seen else 0.0)
        gains.append(10 ** (loudness.state.gain_db / 20))
    return np.array(said, np.float32), np.array(gains)


def _narrow_inputs(signal: Samples, gains: NDArray[np.float64]) -> NDArray[np.float32]:
    first = _CONTEXT_SAMPLES - NARROW.context_samples
    return _amplified(signal[first:].astype(np.float64), NARROW.n_inputs, NARROW.frame_samples, gains)


def _wide_inputs(signal: Samples, gains: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the frames at 16 kHz. They lie 2 ms back, half a filter, so that no frame waits for the next."""
    first = _CONTEXT_SAMPLES - WIDE.context_samples // 2 - _HALF_TAPS
    known = signal[first - _HALF_TAPS + 1 :].astype(np.float64)
    # Integers below 2**53: the sums are exact in any order.
    between = np.convolve(known, _HALF_BAND, "valid") / _UNIT
    doubled = np.stack([known[_HALF_TAPS - 1 : -_HALF_TAPS], between], axis=1).reshape(-1)
    return _amplified(doubled, WIDE.n_inputs, WIDE.frame_samples, gains)


def _amplified(samples: NDArray[np.float64], width: int, step: int, gains: NDArray[np.float64]) -> NDArray[np.float32]:
    frames = np.lib.stride_tricks.sliding_window_view(samples, width)[::step]
    return np.clip(frames * (gains * _SCALE)[:, None], -1.0, 1.0).astype(np.float32)


def _half_band() -> NDArray[np.float64]:
    """Return the taps that interpolate between two samples: a windowed sinc, symmetric."""
    offsets = np.arange(-_HALF_TAPS, _HALF_TAPS) + 0.5
    taps = np.sinc(offsets) * np.kaiser(2 * _HALF_TAPS, 8.0)
    return np.asarray(np.rint(taps / taps.sum() * _UNIT))


_HALF_BAND: Final = _half_band()
