"""One form of Silero VAD v6 through onnxruntime, without torch: in blocks of frames, or as published, frame by frame.

A frame is read with the samples before it. An LSTM's state is carried from frame to frame.
Source: https://github.com/snakers4/silero-vad (MIT).
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import structlog
from numpy.typing import NDArray

from stages.separate.silero import STATE_SHAPE, Form, block_graph

BLOCK_FRAMES: Final = 8
"""0.256 s: the frames of one run. A run of fewer frames costs as much."""

MEMORY_BYTES: Final = 4 * 2 * 128
NO_MEMORY: Final = b"\0" * MEMORY_BYTES

_PROBE_TOLERANCE: Final = 1e-3


class FrameModel(Protocol):
    """Probability of speech per frame. Shared by all calls, and safe to call from several threads."""

    def probabilities(self, inputs: NDArray[np.float32], memory: bytes) -> tuple[NDArray[np.float32], bytes]:
        """Return the probabilities of frames, float32 of shape (n,), and the memory after them.

        Args:
            inputs: float32, shape (n, `form.n_inputs`), n ≥ 1, 1 for full scale: each frame after the samples before.
            memory: after the frames before them.

        The results are the same to the bit however the frames are divided into calls.
        """
        ...


class BlockModel:
    """In blocks, one thread per run. Calls run in parallel: the session releases the GIL.

    Float sums may depend on the shapes that are multiplied. So every run takes `BLOCK_FRAMES`, the last one padded, and
    a frame's result is the same wherever it stands in a block.
    """

    def __init__(self, session: Any) -> None:
        """`session` is onnxruntime's, over a graph of `stages.separate.silero`."""
        self._session = session

    def probabilities(self, inputs: NDArray[np.float32], memory: bytes) -> tuple[NDArray[np.float32], bytes]:
        n_frames = len(inputs)
        after = np.frombuffer(memory, "<f4").reshape(STATE_SHAPE)
        found = []
        for first in range(0, n_frames, BLOCK_FRAMES):
            block = inputs[first : first + BLOCK_FRAMES]
            length = len(block)
            if length < BLOCK_FRAMES:
                block = np.concatenate([block, np.zeros((BLOCK_FRAMES - length, inputs.shape[1]), np.float32)])
            feed = {"input": block, "state": after, "length": np.array([length], np.int32)}
            heard, after = self._session.run(None, feed)
            found.append(heard[:length, 0])
        return np.concatenate(found), after.tobytes()


class PublishedModel:
    """As published, one run per frame: works with any weights of its kind, at eight times the cost."""

    def __init__(self, session: Any, form: Form) -> None:
        self._session = session
        self._rate = np.array(form.rate_hz, dtype=np.int64)

    def probabilities(self, inputs: NDArray[np.float32], memory: bytes) -> tuple[NDArray[np.float32], bytes]:
        after = np.frombuffer(memory, "<f4").reshape(STATE_SHAPE)
        probabilities = np.empty(len(inputs), np.float32)
        for index in range(len(inputs)):
            feed = {"input": inputs[index : index + 1], "state": after, "sr": self._rate}
            probability, after = self._session.run(None, feed)
            probabilities[index] = probability[0, 0]
        return probabilities, after.tobytes()


def shipped_weights() -> bytes:
    """Return the ONNX file that silero-vad ships (2 MB). Raises ImportError if it is not installed."""
    # Not imported: the package itself needs torch, its weights do not.
    package = find_spec("silero_vad")
    if package is None or not package.submodule_search_locations:
        raise ImportError("silero-vad, which ships the voice activity model, is not installed")
    return Path(package.submodule_search_locations[0], "data", "silero_vad.onnx").read_bytes()


def frame_model(weights: bytes, form: Form) -> FrameModel:
    """Return one form of a published ONNX file: in blocks if that gives the same results, else frame by frame."""
    published = PublishedModel(_session(weights), form)
    log = structlog.get_logger("callstream.separate")
    try:
        model = BlockModel(_session(block_graph(weights, form)))
    except ValueError as error:
        log.warning("voice activity falls back to single frames at eight times the cost", reason=str(error))
        return published
    far = _difference(model, published, form)
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


def _difference(model: FrameModel, published: FrameModel, form: Form) -> float:
    """Return the largest difference over half a second of a synthetic vowel that rises out of noise."""
    at = np.arange(form.context_samples + 2 * BLOCK_FRAMES * form.frame_samples) / form.rate_hz
    voice = sum(np.sin(2 * np.pi * 120 * harmonic * at) / harmonic for harmonic in range(1, 12))
    noise = np.random.default_rng(1).normal(0, 200, len(at))
    samples = ((voice * 4000 * at / at[-1] + noise) / 32768).astype(np.float32)
    inputs = np.lib.stride_tricks.sliding_window_view(samples, form.n_inputs)[:: form.frame_samples]
    ours, theirs = (one.probabilities(np.ascontiguousarray(inputs), NO_MEMORY)[0] for one in (model, published))
    return float(np.abs(ours - theirs).max())
