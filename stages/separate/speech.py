"""Voice activity: Silero VAD v6 in its native 8 kHz form, through onnxruntime, without torch.

Telephone speech has nothing above 4 kHz, also in a file of 16 kHz. The model's 16 kHz form takes that for noise: on
the sample call's customer, a high voice, it calls 0 to 9 % of the frames inside each line speech and the 8 kHz form 57
to 97 %. So every channel is heard at 8 kHz, whatever its own rate.

The model reads frames of 256 samples, each with the 32 samples before it, and carries an LSTM's state from frame to
frame. Source: https://github.com/snakers4/silero-vad (MIT).
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from stages.separate.codecs import Samples

VAD_RATE_HZ: Final = 8_000
FRAME_SAMPLES: Final = 256
FRAME_S: Final = FRAME_SAMPLES / VAD_RATE_HZ

_CONTEXT_SAMPLES: Final = 32
_STATE_SHAPE: Final = (2, 1, 128)
_STATE_BYTES: Final = 4 * 2 * 128


class SpeechState(msgspec.Struct, frozen=True, array_like=True):
    """What the model remembers of a channel: LSTM state (float32) and the last samples (int16)."""

    memory: bytes = b"\0" * _STATE_BYTES
    context: bytes = b"\0" * (2 * _CONTEXT_SAMPLES)


class VoiceActivityModel(Protocol):
    """Probability of speech per frame. Shared by all calls, and safe to call from several threads."""

    def probabilities(self, frames: Samples, state: SpeechState) -> tuple[NDArray[np.float32], SpeechState]:
        """For int16 frames of shape (n, 256) at 8 kHz, n ≥ 1: float32 of shape (n,), and the state behind them."""
        ...


class SileroModel:
    """Silero VAD v6, one thread per run: calls run beside each other, and the session releases the GIL."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._rate = np.array(VAD_RATE_HZ, dtype=np.int64)

    def probabilities(self, frames: Samples, state: SpeechState) -> tuple[NDArray[np.float32], SpeechState]:
        scaled = frames.astype(np.float32) / np.float32(32768.0)
        context = np.frombuffer(state.context, "<i2").astype(np.float32) / np.float32(32768.0)
        before = np.concatenate([context[None, :], scaled[:-1, -_CONTEXT_SAMPLES:]])
        inputs = np.concatenate([before, scaled], axis=1)
        memory = np.frombuffer(state.memory, "<f4").reshape(_STATE_SHAPE)
        probabilities = np.empty(len(frames), np.float32)
        for index in range(len(frames)):
            feed = {"input": inputs[index : index + 1], "state": memory, "sr": self._rate}
            probability, memory = self._session.run(None, feed)
            probabilities[index] = probability[0, 0]
        return probabilities, SpeechState(memory.tobytes(), frames[-1, -_CONTEXT_SAMPLES:].astype("<i2").tobytes())


def load_voice_activity_model() -> SileroModel:
    """Loads the weights that silero-vad ships (2 MB, some 50 ms). Raises ImportError where it is not installed."""
    import onnxruntime

    # Not imported: the package itself needs torch, its weights do not.
    package = find_spec("silero_vad")
    if package is None or not package.submodule_search_locations:
        raise ImportError("silero-vad, which ships the voice activity model, is not installed")
    weights = Path(package.submodule_search_locations[0], "data", "silero_vad.onnx").read_bytes()
    options = onnxruntime.SessionOptions()
    options.inter_op_num_threads = options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return SileroModel(onnxruntime.InferenceSession(weights, options, providers=["CPUExecutionProvider"]))
