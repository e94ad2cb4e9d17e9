from pathlib import Path

import numpy as np
import pytest

from benchmarks.endpointing.contenders import CHANNEL_S, by_model, by_stage, channels_of, events_of
from schemas.audio import AudioChunk
from stages.separate.speech import FRAME_SAMPLES, VAD_RATE_HZ, SpeechState
from stages.separate.stage import SeparateStage
from tests.calls import bad
from tests.support.processes.deployment import SAMPLE
from tests.unit.stages.separate.scripted import LoudnessModel, bursts


def test_channels_alternate_the_legs_each_from_another_offset() -> None:
    channels = channels_of(SAMPLE, 4)
    assert channels.size / VAD_RATE_HZ == pytest.approx(CHANNEL_S, abs=2)
    pcm, _ = bad.read_wav(SAMPLE)
    assert np.array_equal(channels[1].reshape(-1)[:8000], pcm[:8000, 1])
    assert np.array_equal(channels[2].reshape(-1)[:8000], pcm[8000:16000, 0])


def test_audio_of_another_rate_is_refused(tmp_path: Path) -> None:
    path = bad.write_wav(tmp_path / "a.wav", [bad.silence(1)], rate_hz=16_000)
    with pytest.raises(SystemExit, match="16000 Hz"):
        channels_of(path, 1)


def test_a_model_gives_the_same_in_blocks_and_at_once() -> None:
    frames = bursts((1, 2), length_s=3.2)[: 96 * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES)
    at_once, _ = LoudnessModel().probabilities(frames, SpeechState())
    assert by_model(LoudnessModel(), frames) == pytest.approx(at_once)


async def test_all_calls_go_through_the_stage_in_turn() -> None:
    leg = bursts((1, 2), (4, 5), length_s=7)[: 216 * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES)
    calls = [events_of(np.stack(legs), 0.2) for legs in ([leg, leg], [leg])]
    assert {len(event.data) for event in calls[0] if isinstance(event, AudioChunk)} == {3200, 2 * 896}
    assert await by_stage(SeparateStage(LoudnessModel()), calls) == 6
