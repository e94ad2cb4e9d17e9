"""The voice activity model in blocks, compared with the published one on the sample call's speech."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from structlog.testing import capture_logs

from stages.separate.codecs import Samples
from stages.separate.silero import block_graph
from stages.separate.speech import (
    BLOCK_FRAMES,
    FRAME_SAMPLES,
    PublishedSileroModel,
    SileroModel,
    SpeechState,
    VoiceActivityModel,
    load_voice_activity_model,
    model_of,
)
from tests.calls import bad

SECONDS = 25


def published() -> bytes:
    package = find_spec("silero_vad")
    assert package is not None
    assert package.submodule_search_locations
    return Path(package.submodule_search_locations[0], "data", "silero_vad.onnx").read_bytes()


@pytest.fixture(scope="module")
def model() -> VoiceActivityModel:
    return load_voice_activity_model()


@pytest.fixture(scope="module")
def speech() -> Samples:
    """Frames of the sample call's agent."""
    pcm, rate_hz = bad.read_wav(Path(bad.__file__).parent / "sample" / "sample.wav")
    return pcm[: SECONDS * rate_hz // FRAME_SAMPLES * FRAME_SAMPLES, 0].reshape(-1, FRAME_SAMPLES)


@pytest.fixture(scope="module")
def whole(model: VoiceActivityModel, speech: Samples) -> tuple[NDArray[np.float32], SpeechState]:
    return model.probabilities(speech, SpeechState())


def frame_by_frame() -> PublishedSileroModel:
    import onnxruntime

    return PublishedSileroModel(onnxruntime.InferenceSession(published(), providers=["CPUExecutionProvider"]))


def test_blocks_give_the_results_of_the_published_graph(
    whole: tuple[NDArray[np.float32], SpeechState], speech: Samples
) -> None:
    probabilities, state = whole
    expected, expected_state = frame_by_frame().probabilities(speech, SpeechState())
    assert 0.2 < (expected > 0.5).mean() < 0.8
    assert np.abs(probabilities - expected).max() < 1e-4
    assert state.context == expected_state.context
    memories = [np.frombuffer(one.memory, "<f4") for one in (state, expected_state)]
    assert memories[0] == pytest.approx(memories[1], abs=1e-3)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=60))
def test_no_bit_depends_on_how_many_frames_are_given_at_a_time(
    model: VoiceActivityModel, speech: Samples, whole: tuple[NDArray[np.float32], SpeechState], sizes: list[int]
) -> None:
    at, state, found = 0, SpeechState(), []
    for size in [*sizes, len(speech)]:
        if at < len(speech):
            probabilities, state = model.probabilities(speech[at : at + size], state)
            found.append(probabilities)
            at += size
    assert np.array_equal(np.concatenate(found), whole[0])
    assert state == whole[1]


def test_a_frame_alone_costs_a_block_and_says_the_same(
    model: VoiceActivityModel, speech: Samples, whole: tuple[NDArray[np.float32], SpeechState]
) -> None:
    state = SpeechState()
    for frame, expected in zip(speech[: 3 * BLOCK_FRAMES], whole[0], strict=False):
        probabilities, state = model.probabilities(frame[None], state)
        assert probabilities.shape == (1,)
        assert probabilities[0] == expected


def of_another_name(weights: bytes) -> bytes:
    return weights.replace(b"decoder.rnn.weight_ih", b"decoder.gru.weight_ih")


def of_another_slope(weights: bytes) -> bytes:
    model = onnx.load_from_string(weights)
    for branch in (one.g for node in model.graph.node for one in node.attribute if one.name == "else_branch"):
        for node in branch.node:
            if node.op_type == "Relu" and "/encoder/0/" in node.name:
                node.op_type = "Abs"
    return bytes(model.SerializeToString())


def test_the_installed_weights_run_in_blocks() -> None:
    with capture_logs() as logs:
        assert isinstance(load_voice_activity_model(), SileroModel)
    assert logs == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [(of_another_name, "decoder.rnn.weight_ih"), (of_another_slope, "blocks differ")],
)
def test_unknown_weights_run_frame_by_frame_with_a_warning(change: Callable[[bytes], bytes], reason: str) -> None:
    with capture_logs() as logs:
        model = model_of(change(published()))
    assert isinstance(model, PublishedSileroModel)
    (entry,) = logs
    assert entry["log_level"] == "warning"
    assert reason in entry["reason"]
    assert model.probabilities(np.zeros((3, FRAME_SAMPLES), np.int16), SpeechState())[0].shape == (3,)


def test_a_file_without_a_half_for_8_khz_is_named_as_such() -> None:
    with pytest.raises(ValueError, match="not the weights of Silero VAD v6"):
        block_graph(onnx.ModelProto().SerializeToString())
