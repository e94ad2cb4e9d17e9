import numpy as np
import pytest

from benchmarks.heard import codecs
from benchmarks.heard.conditions import CLIP_AT, CONDITIONS, Dry, applied
from benchmarks.heard.crosstalk import DUAL_MONO, crosstalk, dual_mono
from benchmarks.speech.telephone import RATE_HZ

SECOND = np.arange(RATE_HZ)
QUICK = [name for name in CONDITIONS if name not in ("GSM", "G.729", "G.729, 3 % lost")]


@pytest.mark.parametrize("condition", QUICK)
def test_a_condition_keeps_the_length_and_is_the_same_each_time(condition: str) -> None:
    legs, others = [_voice(180), _voice(230)], [_voice(200 + n) for n in range(6)]
    one, other = (applied(condition, "a call", legs, others) for _ in range(2))
    assert [len(leg) for leg in one] == [len(leg) for leg in legs]
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    assert all(leg.dtype == np.int16 and np.abs(leg).max() > 0 for leg in one)


def test_levels_scale_voice_and_hiss() -> None:
    legs = [_voice(180), _voice(230)]
    clean, soft = (applied(name, "a call", legs)[0].astype(float) for name in ("clean", "level 0.1"))
    assert soft.std() / clean.std() == pytest.approx(0.1, rel=0.02)


def test_clipping_flattens_the_peaks() -> None:
    [leg, _] = applied("clipped", "a call", [_voice(180), _voice(230)])
    assert np.mean(np.abs(leg) > 0.95 * CLIP_AT * 32767) > 0.2


def test_automatic_gain_raises_the_noise_between_words() -> None:
    leg = np.concatenate([_voice(180), np.zeros(3 * RATE_HZ, np.int16), _voice(180)])
    [heard, _] = applied("AGC", "a call", [leg, leg])
    early, late = (heard[int(at * RATE_HZ) : int((at + 0.2) * RATE_HZ)].astype(float).std() for at in (1.1, 3.7))
    assert late > 4 * early


def test_echo_is_the_other_leg_twenty_decibels_lower() -> None:
    silent, voice = np.zeros(2 * RATE_HZ, np.int16), np.tile(_voice(180), 2)
    [heard, _] = applied("echo", "a call", [silent, voice])
    db = 20 * np.log10(heard[RATE_HZ:].astype(float).std() / voice[RATE_HZ:].astype(float).std())
    assert db == pytest.approx(-20, abs=0.5)


def test_alaw_is_exact_to_a_few_percent() -> None:
    samples = np.arange(-32000, 32000, 7).astype(np.int16)
    assert np.all(np.abs(codecs.alaw(samples) - samples.astype(int)) <= np.maximum(16, np.abs(samples / 25)))


def test_packets_are_lost_in_bursts_and_replaced_by_the_pitch_period() -> None:
    lost = codecs.lost_packets(400 * RATE_HZ, 0.05, np.random.default_rng(1))
    assert lost.mean() == pytest.approx(0.05, abs=0.005)
    tone = np.round(8000 * np.sin(2 * np.pi * 100 * SECOND / RATE_HZ)).astype(np.int16)
    gone = np.zeros(50, np.bool_)
    gone[20] = True
    heard = codecs.concealed(tone, gone)
    assert np.array_equal(heard[: 20 * 160], tone[: 20 * 160])
    assert np.corrcoef(heard[20 * 160 : 21 * 160], tone[20 * 160 : 21 * 160])[0, 1] > 0.95


def test_nothing_is_left_of_a_long_loss() -> None:
    lost = np.zeros(50, np.bool_)
    lost[10:20] = True
    heard = codecs.concealed(_voice(180), lost)
    assert not heard[14 * 160 : 20 * 160].any()


@pytest.mark.parametrize("form", DUAL_MONO)
def test_dual_mono_is_one_mix_on_two_channels(form: str) -> None:
    factor, delay_s = DUAL_MONO[form]
    one, other = dual_mono([_voice(180), _voice(230)], form)
    delay = round(delay_s * RATE_HZ)
    likeness = np.corrcoef(one[: RATE_HZ - delay], other[delay:])[0, 1]
    assert likeness * np.sign(factor) > 0.99


def test_crosstalk_has_the_other_leg_at_its_level() -> None:
    silent = np.zeros(RATE_HZ, np.int16)
    heard, voice = crosstalk([silent, _voice(180)], -10.0)
    assert 20 * np.log10(heard.astype(float).std() / voice.astype(float).std()) == pytest.approx(-10, abs=0.5)


def test_babble_needs_no_silence_of_others() -> None:
    dry = Dry([_voice(180) / 32767], [np.concatenate([np.zeros(RATE_HZ), _voice(200) / 32767])], 1)
    [heard] = CONDITIONS["babble"](dry)
    assert len(heard) == RATE_HZ


def _voice(hz: int) -> np.ndarray[tuple[int], np.dtype[np.int16]]:
    """Return a second of a buzz that rises and falls as syllables do, at the level of speech."""
    buzz = np.sign(np.sin(2 * np.pi * hz * SECOND / RATE_HZ)) * (1 + np.sin(2 * np.pi * 4 * SECOND / RATE_HZ))
    return np.asarray(np.round(2000 * buzz), np.int16)
