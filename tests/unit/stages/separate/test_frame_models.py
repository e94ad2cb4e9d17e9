"""Both forms of the model in blocks, compared with the published one on the sample call's speech."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from structlog.testing import capture_logs

from stages.separate.frame_models import (
    NO_MEMORY,
    BlockModel,
    PublishedModel,
    frame_model,
    shipped_weights,
)
from stages.separate.silero import NARROW, WIDE, Form, block_graph
from tests.calls import bad

SECONDS = 25


@pytest.fixture(scope="module", params=[NARROW, WIDE], ids=lambda form: f"{form.rate_hz}")
def form(request: pytest.FixtureRequest) -> Form:
    assert isinstance(request.param, Form)
    return request.param


@pytest.fixture(scope="module")
def inputs(form: Form) -> NDArray[np.float32]:
    """Frames of the sample call's agent, each sample repeated for the wide form."""
    pcm, rate_hz = bad.read_wav(Path(bad.__file__).parent / "sample" / "sample.wav")
    leg = np.repeat(pcm[: SECONDS * rate_hz, 0], form.rate_hz // rate_hz) / np.float32(32768)
    return np.ascontiguousarray(np.lib.stride_tricks.sliding_window_view(leg, form.n_inputs)[:: form.frame_samples])


def published(form: Form) -> PublishedModel:
    import onnxruntime

    return PublishedModel(onnxruntime.InferenceSession(shipped_weights(), providers=["CPUExecutionProvider"]), form)


def test_blocks_give_the_results_of_the_published_graph(form: Form, inputs: NDArray[np.float32]) -> None:
    probabilities, memory = frame_model(shipped_weights(), form).probabilities(inputs, NO_MEMORY)
    expected, expected_memory = published(form).probabilities(inputs, NO_MEMORY)
    assert 0.2 < (expected > 0.5).mean() < 0.8
    assert np.abs(probabilities - expected).max() < 1e-4
    memories = [np.frombuffer(one, "<f4") for one in (memory, expected_memory)]
    assert memories[0] == pytest.approx(memories[1], abs=1e-3)


def of_another_name(weights: bytes) -> bytes:
    return weights.replace(b"decoder.rnn.weight_ih", b"decoder.gru.weight_ih")


def of_another_slope(weights: bytes) -> bytes:
    model = onnx.load_from_string(weights)
    branches = (NARROW.branch, WIDE.branch)
    for branch in (one.g for node in model.graph.node for one in node.attribute if one.name in branches):
        for node in branch.node:
            if node.op_type == "Relu" and "/encoder/0/" in node.name:
                node.op_type = "Abs"
    return bytes(model.SerializeToString())


def test_the_installed_weights_run_in_blocks(form: Form) -> None:
    with capture_logs() as logs:
        assert isinstance(frame_model(shipped_weights(), form), BlockModel)
    assert logs == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [(of_another_name, "decoder.rnn.weight_ih"), (of_another_slope, "blocks differ")],
)
def test_unknown_weights_run_frame_by_frame_with_a_warning(
    form: Form, change: Callable[[bytes], bytes], reason: str
) -> None:
    with capture_logs() as logs:
        model = frame_model(change(shipped_weights()), form)
    assert isinstance(model, PublishedModel)
    (entry,) = logs
    assert entry["log_level"] == "warning"
    assert reason in entry["reason"]
    assert model.probabilities(np.zeros((3, form.n_inputs), np.float32), NO_MEMORY)[0].shape == (3,)


def test_a_file_without_the_form_is_named_as_such(form: Form) -> None:
    with pytest.raises(ValueError, match="not the weights of Silero VAD v6"):
        block_graph(onnx.ModelProto().SerializeToString(), form)
