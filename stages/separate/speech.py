"""Voice activity: Silero VAD v6 in its native 8 kHz form, through onnxruntime, without torch.

Telephone speech has nothing above 4 kHz, even in a file of 16 kHz, and the model's 16 kHz form takes that for noise. Of
the frames inside each line of the sample call's customer, a high voice, it calls 0 to 9 % speech; the 8 kHz form 57 to
97 %. So every channel is analysed at 8 kHz, whatever its own rate.

The model reads frames of 256 samples, each with the 32 samples before it, and carries an LSTM's state from frame to
frame. Source: https://github.com/snakers4/silero-vad (MIT).
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
import numpy as np
import structlog
from numpy.typing import NDArray

from stages.separate.codecs import Samples
from stages.separate.silero import FRAME_INPUTS, STATE_SHAPE, block_graph

VAD_RATE_HZ: Final = 8_000
FRAME_SAMPLES: Final = 256
FRAME_S: Final = FRAME_SAMPLES / VAD_RATE_HZ
BLOCK_FRAMES: Final = 8
"""0.256 s: the frames of one run. A run of fewer frames costs as much."""

_CONTEXT_SAMPLES: Final = FRAME_INPUTS - FRAME_SAMPLES
_STATE_BYTES: Final = 4 * 2 * 128
_SCALE: Final = np.float32(1 / 32768)
_PROBE_TOLERANCE: Final = 1e-3


class SpeechState(msgspec.Struct, frozen=True, array_like=True):
    """The model's memory of a channel: LSTM state (float32) and the last samples (int16)."""

    memory: bytes = b"\0" * _STATE_BYTES
    context: bytes = b"\0" * (2 * _CONTEXT_SAMPLES)


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


class SileroModel:
    """Silero VAD v6 in blocks, one thread per run. Calls run in parallel: the session releases the GIL.

    Float sums may depend on the shapes that are multiplied. So every run takes `BLOCK_FRAMES`, the last one padded, and
    a frame's result is the same wherever it stands in a block.
    """

    def __init__(self, session: Any) -> None:
        """`session` is onnxruntime's, over a graph of `stages.separate.silero`."""
        self._session = session

    def probabilities(self, frames: Samples, state: SpeechState) -> tuple[NDArray[np.float32], SpeechState]:
        n_frames = len(frames)
        inputs = np.zeros((-(-n_frames // BLOCK_FRAMES) * BLOCK_FRAMES, FRAME_INPUTS), np.float32)
        _fill(inputs, frames, state)
        memory = np.frombuffer(state.memory, "<f4").reshape(STATE_SHAPE)
        found = []
        for first in range(0, n_frames, BLOCK_FRAMES):
            length = np.array([min(BLOCK_FRAMES, n_frames - first)], np.int32)
            feed = {"input": inputs[first : first + BLOCK_FRAMES], "state": memory, "length": length}
            block, memory = self._session.run(None, feed)
            found.append(block[:, 0])
        return np.concatenate(found)[:n_frames], _state_after(frames, memory)


class PublishedSileroModel:
    """Silero VAD v6 as published, one run per frame: works with any weights of its kind, at eight times the cost."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._rate = np.array(VAD_RATE_HZ, dtype=np.int64)

    def probabilities(self, frames: Samples, state: SpeechState) -> tuple[NDArray[np.float32], SpeechState]:
        inputs = np.empty((len(frames), FRAME_INPUTS), np.float32)
        _fill(inputs, frames, state)
        memory = np.frombuffer(state.memory, "<f4").reshape(STATE_SHAPE)
        probabilities = np.empty(len(frames), np.float32)
        for index in range(len(frames)):
            feed = {"input": inputs[index : index + 1], "state": memory, "sr": self._rate}
            probability, memory = self._session.run(None, feed)
            probabilities[index] = probability[0, 0]
        return probabilities, _state_after(frames, memory)


def load_voice_activity_model() -> VoiceActivityModel:
    """Load the weights that silero-vad ships (2 MB, about 0.2 s). Raises ImportError if it is not installed."""
    # Not imported: the package itself needs torch, its weights do not.
    package = find_spec("silero_vad")
    if package is None or not package.submodule_search_locations:
        raise ImportError("silero-vad, which ships the voice activity model, is not installed")
    return model_of(Path(package.submodule_search_locations[0], "data", "silero_vad.onnx").read_bytes())


def model_of(weights: bytes) -> VoiceActivityModel:
    """Return the model of a published ONNX file: in blocks if that gives the same results, else frame by frame."""
    published = PublishedSileroModel(_session(weights))
    log = structlog.get_logger("callstream.separate")
    try:
        model = SileroModel(_session(block_graph(weights)))
    except ValueError as error:
        log.warning("voice activity falls back to single frames at eight times the cost", reason=str(error))
        return published
    far = _difference(model, published)
    if far > _PROBE_TOLERANCE:
        log.warning(
            "voice activity falls back to single frames at eight times the cost", reason=f"blocks differ by {far:.3g}"
        )
        return published
    return model


def _session(graph: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.inter_op_num_threads = options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _difference(model: VoiceActivityModel, published: VoiceActivityModel) -> float:
    """Return the largest difference over half a second of a synthetic vowel that rises out of noise."""
    at = np.arange(2 * BLOCK_FRAMES * FRAME_SAMPLES) / VAD_RATE_HZ
    voice = sum(np.sin(2 * np.pi * 120 * harmonic * at) / harmonic for harmonic in range(1, 12))
    noise = np.random.default_rng(1).normal(0, 200, len(at))
    frames = (voice * 4000 * at / at[-1] + noise).astype(np.int16).reshape(-1, FRAME_SAMPLES)
    ours, theirs = (one.probabilities(frames, SpeechState())[0] for one in (model, published))
    return float(np.abs(ours - theirs).max())


def _fill(inputs: NDArray[np.float32], frames: Samples, state: SpeechState) -> None:
    """Write each frame, preceded by the samples before it, into the first rows of `inputs`, shape (≥ n, 288)."""
    n_frames = len(frames)
    np.multiply(frames, _SCALE, out=inputs[:n_frames, _CONTEXT_SAMPLES:])
    np.multiply(np.frombuffer(state.context, "<i2"), _SCALE, out=inputs[0, :_CONTEXT_SAMPLES])
    inputs[1:n_frames, :_CONTEXT_SAMPLES] = inputs[: n_frames - 1, -_CONTEXT_SAMPLES:]


def _state_after(frames: Samples, memory: NDArray[np.float32]) -> SpeechState:
    return SpeechState(memory.tobytes(), frames[-1, -_CONTEXT_SAMPLES:].astype("<i2").tobytes())
