"""The witnesses together: bits, memory, and what each of them hears."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stages.separate.codecs import Samples
from stages.separate.frame_models import BLOCK_FRAMES, MEMORY_BYTES, NO_MEMORY
from stages.separate.silero import NARROW, WIDE
from stages.separate.speech import (
    FRAME_SAMPLES,
    VAD_RATE_HZ,
    SpeechState,
    VoiceActivityModel,
    Witnesses,
    load_voice_activity_model,
)
from tests.calls import bad

SECONDS = 25


@pytest.fixture(scope="module")
def model() -> VoiceActivityModel:
    return load_voice_activity_model()


@pytest.fixture(scope="module")
def speech() -> Samples:
    """Frames of the sample call's agent."""
    pcm, rate_hz = bad.read_wav(Path(bad.__file__).parent / "sample" / "sample.wav")
    return framed(pcm[: SECONDS * rate_hz, 0])


@pytest.fixture(scope="module")
def whole(model: VoiceActivityModel, speech: Samples) -> tuple[NDArray[np.float32], SpeechState]:
    return model.probabilities(speech, SpeechState())


def framed(samples: Samples) -> Samples:
    return samples[: len(samples) // FRAME_SAMPLES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES)


class Recorder:
    """A form that hears nothing, and keeps what it was given."""

    def __init__(self) -> None:
        self.inputs: list[NDArray[np.float32]] = []

    def probabilities(self, inputs: NDArray[np.float32], memory: bytes) -> tuple[NDArray[np.float32], bytes]:
        self.inputs.append(inputs)
        return np.zeros(len(inputs), np.float32), memory


def deaf() -> Witnesses:
    return Witnesses(Recorder(), Recorder())


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


def test_a_state_of_the_version_with_one_form_is_continued(model: VoiceActivityModel, speech: Samples) -> None:
    _, after = model.probabilities(speech[:400], SpeechState())
    earlier = SpeechState(after.memory[:MEMORY_BYTES], after.context[-2 * NARROW.context_samples :])
    expected, _ = model.probabilities(speech[400:], after)
    probabilities, state = model.probabilities(speech[400:], earlier)
    assert ((probabilities > 0.5) == (expected > 0.5)).mean() > 0.95
    assert len(state.memory) > 2 * MEMORY_BYTES
    assert SpeechState() == SpeechState(NO_MEMORY, bytes(2 * NARROW.context_samples))


def test_the_state_stays_small(whole: tuple[NDArray[np.float32], SpeechState]) -> None:
    assert len(whole[1].memory) + len(whole[1].context) < 4500


def test_the_wide_form_gets_the_same_sound_at_twice_the_rate_two_milliseconds_late() -> None:
    at = np.arange(40 * FRAME_SAMPLES) / VAD_RATE_HZ
    narrow, wide = Recorder(), Recorder()
    Witnesses(narrow, wide).probabilities(framed((8000 * np.sin(2 * np.pi * 440 * at)).astype(np.int16)), SpeechState())
    doubled = wide.inputs[0][:, WIDE.context_samples :].reshape(-1)
    expected = 8000 / 32768 * np.sin(2 * np.pi * 440 * (np.arange(len(doubled)) / WIDE.rate_hz - 0.002))
    assert np.abs(doubled - expected)[200:].max() < 1e-3
    assert narrow.inputs[0].shape == (40, NARROW.n_inputs)
    assert wide.inputs[0].shape == (40, WIDE.n_inputs)


@pytest.mark.parametrize("factor", [0.05, 0.1, 0.25, 4.0])
def test_a_leg_of_another_level_is_heard_alike(
    model: VoiceActivityModel, speech: Samples, whole: tuple[NDArray[np.float32], SpeechState], factor: float
) -> None:
    heard = model.probabilities(np.clip(speech * factor, -32768, 32767).astype(np.int16), SpeechState())[0] > 0.35
    spoken = whole[0] > 0.5
    assert (heard & spoken).sum() / spoken.sum() > 0.97


def test_a_voice_that_no_form_hears_is_heard_by_its_sound(
    speech: Samples, whole: tuple[NDArray[np.float32], SpeechState]
) -> None:
    heard, _ = deaf().probabilities(speech, SpeechState())
    spoken = whole[0] > 0.9
    assert (heard[spoken] > 0).mean() > 0.6
    assert (heard[whole[0] < 0.05] > 0).mean() < 0.05


@pytest.mark.parametrize(
    "sound",
    ["silence", "hiss", "touch tone", "ringback", "organ"],
)
def test_noise_and_held_tones_are_no_voice_however_loud(sound: str) -> None:
    at = np.arange(12 * VAD_RATE_HZ) / VAD_RATE_HZ
    on = at > 4
    made = {
        "silence": np.zeros(len(at)),
        "hiss": np.random.default_rng(1).normal(0, 0.1, len(at)),
        "touch tone": (np.sin(2 * np.pi * 770 * at) + np.sin(2 * np.pi * 1336 * at)) * (at % 1 < 0.2),
        "ringback": (np.sin(2 * np.pi * 440 * at) + np.sin(2 * np.pi * 480 * at)) * (at % 6 < 2),
        "organ": sum(np.sin(2 * np.pi * 262 * order * at) / order for order in range(1, 9)),
    }[sound]
    heard, _ = deaf().probabilities(framed((8000 * made * on).astype(np.int16)), SpeechState())
    assert (heard > 0.5).sum() * 0.032 < 0.3
