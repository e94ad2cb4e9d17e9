"""The bad recordings are bad in the way that they claim."""

import wave
from pathlib import Path

import av
import numpy as np
import pytest

from tests.calls import bad

SAMPLE = Path(__file__).parents[2] / "calls" / "sample" / "sample.wav"


@pytest.mark.parametrize("suffix", list(bad.CODECS))
def test_an_encoded_call_decodes_to_the_same_two_channels(tmp_path: Path, suffix: str) -> None:
    call, rate_hz = bad.read_wav(SAMPLE)
    part = call[32 * rate_hz : 36 * rate_hz]
    path = bad.encoded(tmp_path / f"call{suffix}", part, rate_hz=rate_hz)
    with av.open(str(path)) as container:
        resampler = av.AudioResampler(format="s16", layout="stereo", rate=rate_hz)
        frames = [f for frame in container.decode(audio=0) for f in resampler.resample(frame)]
    decoded = np.concatenate([frame.to_ndarray().reshape(-1, 2) for frame in frames]).astype(float)
    assert len(decoded) / rate_hz == pytest.approx(4.0, abs=0.15)
    loudness = [np.abs(side[: 2 * rate_hz]).mean() for side in (decoded[:, 0], decoded[:, 1], part[:, 0], part[:, 1])]
    assert loudness[0] == pytest.approx(loudness[2], rel=0.2)
    assert loudness[1] == pytest.approx(loudness[3], rel=0.2)


def test_the_header_without_channels_is_refused_by_wave(tmp_path: Path) -> None:
    path = bad.no_channels(tmp_path / "none.wav")
    with pytest.raises(wave.Error, match="channels"), wave.open(str(path), "rb"):
        pass


def test_a_truncated_file_promises_more_than_it_has(tmp_path: Path) -> None:
    path = bad.truncated(tmp_path / "half.wav", SAMPLE)
    with wave.open(str(path), "rb") as source:
        assert source.getnframes() * 4 > path.stat().st_size
    assert path.stat().st_size == SAMPLE.stat().st_size // 2


def test_shapes_and_rates_are_as_named(tmp_path: Path) -> None:
    assert bad.read_wav(bad.at_192_khz(tmp_path / "fast.wav"))[1] == 192_000
    assert bad.read_wav(bad.eight_channels(tmp_path / "wide.wav"))[0].shape == (16_000, 8)
    assert bad.read_wav(bad.header_only(tmp_path / "empty.wav"))[0].size == 0
    assert bad.zero_bytes(tmp_path / "zero.wav").stat().st_size == 0
    for make in (bad.not_audio, bad.random_bytes):
        with pytest.raises(av.error.InvalidDataError):
            av.open(str(make(tmp_path / "other.wav")))


def test_a_long_call_repeats_the_short_one_to_the_sample(tmp_path: Path) -> None:
    call, _ = bad.read_wav(SAMPLE)
    long, rate_hz = bad.read_wav(bad.hour_long(tmp_path / "long.wav", SAMPLE, seconds=100.0))
    assert len(long) == 100 * rate_hz
    assert np.array_equal(long[len(call) :], call[: len(long) - len(call)])


def test_keys_and_ringing_are_made_of_their_standards_tones() -> None:
    for pcm, expected in ((bad.dtmf("5")[:800], (770, 1336)), (bad.ringback(1)[:16_000], (440, 480))):
        spectrum = np.abs(np.fft.rfft(pcm[:, 0]))
        loudest = np.sort(np.argsort(spectrum)[-2:] * bad.RATE_HZ / len(pcm))
        assert loudest == pytest.approx(expected, abs=bad.RATE_HZ / len(pcm))


def test_clipping_flattens_the_tops() -> None:
    loud = bad.clipped(bad.tone(1.0, 300))
    assert np.mean(np.abs(loud.astype(int)) >= 32767) > 0.5


def test_noise_has_the_level_that_it_is_asked_for() -> None:
    assert 20 * np.log10(bad.noise(5.0, level_db=-45.0).std() / 32768) == pytest.approx(-45.0, abs=0.5)
