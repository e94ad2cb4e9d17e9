import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.separate.codecs import Samples
from stages.separate.resampling import StreamingResampler

RATES = [4000, 8000, 11025, 12000, 22050, 24000, 32000, 44100, 48000, 96000, 192_000]


def chord(rate_hz: int, *frequencies_hz: float, seconds: float = 0.5) -> Samples:
    t = np.arange(int(rate_hz * seconds)) / rate_hz
    total = sum(np.sin(2 * np.pi * frequency * t + index) for index, frequency in enumerate(frequencies_hz))
    return np.asarray(total * 20_000 / len(frequencies_hz)).astype(np.int16)


def whole(signal: Samples, source_hz: int, target_hz: int) -> Samples:
    resampler = StreamingResampler(source_hz, target_hz)
    return np.concatenate([resampler.push(signal), resampler.finish()])


@pytest.mark.parametrize("target_hz", [8000, 16_000])
@pytest.mark.parametrize("source_hz", RATES)
def test_agrees_with_soxr_to_55_db(source_hz: int, target_hz: int) -> None:
    soxr = pytest.importorskip("soxr")
    if source_hz == target_hz:
        return
    band_hz = min(source_hz, target_hz) / 2
    signal = chord(source_hz, *(band_hz * part for part in (0.03, 0.2, 0.5, 0.75)))
    ours = whole(signal, source_hz, target_hz).astype(np.float64)
    reference = soxr.resample(signal.astype(np.float64), source_hz, target_hz, "VHQ")
    inner = slice(target_hz // 20, len(reference) - target_hz // 20)
    error = ours[: len(reference)][inner] - reference[inner]
    assert 10 * np.log10((reference[inner] ** 2).mean() / (error**2).mean()) > 55


@pytest.mark.parametrize("source_hz", [22050, 24000, 44100, 48000, 192_000])
def test_frequencies_above_the_lower_rate_are_filtered_out(source_hz: int) -> None:
    heard = whole(chord(source_hz, 9500), source_hz, 16_000)[500:-500].astype(np.float64)
    assert np.sqrt((heard**2).mean()) < 14_000 * 10 ** (-60 / 20)


@settings(max_examples=60)
@given(
    st.sampled_from([*RATES, 12345]),
    st.sampled_from([8000, 16_000]),
    st.integers(0, 2**32 - 1),
    st.lists(st.integers(1, 3000), min_size=1, max_size=12),
)
def test_blocks_and_restarts_do_not_change_a_sample(
    source_hz: int, target_hz: int, seed: int, sizes: list[int]
) -> None:
    signal = np.random.default_rng(seed).integers(-32768, 32768, sum(sizes)).astype(np.int16)
    resampler, parts, at = StreamingResampler(source_hz, target_hz), [], 0
    for size in sizes:
        parts.append(resampler.push(signal[at : at + size]))
        at += size
        resampler = StreamingResampler(source_hz, target_hz, resampler.snapshot())
    parts.append(resampler.finish())
    assert np.array_equal(np.concatenate(parts), whole(signal, source_hz, target_hz))


@pytest.mark.parametrize("source_hz", RATES)
def test_the_length_is_the_duration(source_hz: int) -> None:
    assert len(whole(np.zeros(source_hz * 2, np.int16), source_hz, 16_000)) == 32_000


def test_full_scale_is_clipped_and_does_not_wrap() -> None:
    square = np.where(np.arange(8000) // 40 % 2, 32767, -32768).astype(np.int16)
    heard = whole(square, 8000, 16_000)
    assert (heard[100:180].astype(int) <= 0).all() or np.abs(np.diff(heard.astype(int))).max() < 65_535
    assert heard.max() == 32767
    assert heard.min() == -32768


@pytest.mark.parametrize("source_hz", [11025, 16_000, 44100])
def test_skipped_silence_equals_processed_silence(source_hz: int) -> None:
    before, after = chord(source_hz, 300), chord(source_hz, 500)
    heard, skipped = StreamingResampler(source_hz, 8000), StreamingResampler(source_hz, 8000)
    for resampler in (heard, skipped):
        resampler.push(before)
        resampler.push(np.zeros(source_hz, np.int16))
    heard.push(np.zeros(source_hz * 8, np.int16))
    skipped.skip_silence(8)
    assert np.array_equal(heard.push(after), skipped.push(after))
    assert heard.snapshot() == skipped.snapshot()
