import numpy as np
import pytest

from benchmarks.speech.telephone import RATE_HZ, SPEECH_DB, coded, echo, surroundings, telephone_voice
from stages.separate.codecs import decode_frames


def level_db(audio: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> float:
    return float(10 * np.log10(np.mean(audio**2)))


def tone(hz: float, rate_hz: int, seconds: float = 1.0) -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
    return np.sin(2 * np.pi * hz * np.arange(int(rate_hz * seconds)) / rate_hz).astype(np.float32)


def test_a_voice_gets_a_fixed_level_and_a_higher_pitch_shortens_it() -> None:
    audio = telephone_voice(0.1 * tone(1000, 22_050), 22_050, 1.25)
    assert len(audio) == pytest.approx(RATE_HZ / 1.25, abs=2)
    assert level_db(audio) == pytest.approx(SPEECH_DB, abs=0.5)
    spectrum = np.abs(np.fft.rfft(audio))
    assert np.argmax(spectrum) * RATE_HZ / len(audio) == pytest.approx(1250, abs=5)


def test_nothing_is_left_outside_of_the_band() -> None:
    mixed = tone(1000, 22_050) + tone(100, 22_050) + tone(6000, 22_050)
    spectrum = np.abs(np.fft.rfft(telephone_voice(mixed, 22_050, 1.0)))
    assert spectrum[95:105].max() < spectrum.max() / 100


def test_noise_lies_as_far_below_speech_as_asked() -> None:
    noise = surroundings(4 * RATE_HZ, 15.0, np.random.default_rng(1))
    assert level_db(noise) == pytest.approx(SPEECH_DB - 15, abs=0.1)


def test_an_echo_is_later_and_fainter() -> None:
    other = np.zeros(RATE_HZ)
    other[0] = 1.0
    heard = echo(other)
    assert np.flatnonzero(heard).tolist() == [480]
    assert heard[480] == pytest.approx(10 ** (-36 / 20))


def test_coding_gives_only_values_of_mu_law_and_the_nearest() -> None:
    table, _ = decode_frames("mulaw", 1, b"", bytes(range(256)))
    audio = np.random.default_rng(1).uniform(-1, 1, 2000)
    pcm = coded(audio)
    assert set(pcm.tolist()) <= set(table.ravel().tolist())
    nearest = np.abs(table.ravel()[None, :].astype(float) - audio[:, None] * 32767).min(axis=1)
    assert np.abs(pcm - audio * 32767) == pytest.approx(nearest, abs=1)
