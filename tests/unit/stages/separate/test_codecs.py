import itertools
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.audio import Encoding
from stages.separate.codecs import alaw_table, decode_frames, mulaw_table
from tests.unit.stages.separate.scripted import bursts

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import audioop

SAMPLE_BYTES: dict[Encoding, int] = {"pcm_s16le": 2, "mulaw": 1, "alaw": 1, "f32le": 4}


def test_g711_tables_are_those_of_the_standard_library() -> None:
    codes = bytes(range(256))
    assert mulaw_table().astype("<i2").tobytes() == audioop.ulaw2lin(codes, 2)
    assert alaw_table().astype("<i2").tobytes() == audioop.alaw2lin(codes, 2)


@given(
    st.sampled_from(sorted(SAMPLE_BYTES)),
    st.integers(1, 8),
    st.binary(max_size=400),
    st.lists(st.integers(0, 400), max_size=8),
)
def test_a_byte_stream_cut_anywhere_between_frames_decodes_alike(
    encoding: Encoding, channels: int, data: bytes, cuts: list[int]
) -> None:
    size = SAMPLE_BYTES[encoding] * channels
    whole, rest = decode_frames(encoding, channels, b"", data)
    assert whole.shape == (len(data) // size, channels)
    assert rest == data[len(whole) * size :]
    edges = sorted({min(cut * size, len(data)) for cut in cuts} | {0, len(data)})
    parts, carry = [], b""
    for first, last in itertools.pairwise(edges):
        frames, carry = decode_frames(encoding, channels, carry, data[first:last])
        parts.append(frames)
    assert np.array_equal(np.concatenate([np.zeros((0, channels), np.int16), *parts]), whole)


def test_a_stream_cut_within_samples_is_put_together_again() -> None:
    voice = np.cumsum(bursts((0, 1), length_s=1.0) // 30).astype(np.int16)
    data = voice.astype("<i2").tobytes()
    carry, parts = b"", []
    for first in range(0, len(data), 333):
        frames, carry = decode_frames("pcm_s16le", 1, carry, data[first : first + 333])
        parts.append(frames[:, 0])
    assert np.array_equal(np.concatenate(parts), voice)


def test_a_chunk_that_lost_a_byte_does_not_turn_later_audio_into_noise() -> None:
    voice = (8000 * np.sin(np.arange(8000) / 20)).astype("<i2").tobytes()
    _, carry = decode_frames("pcm_s16le", 1, b"", voice[:3999])
    assert carry
    frames, carry = decode_frames("pcm_s16le", 1, carry, voice[4000:8000])
    assert np.array_equal(frames[:, 0], np.frombuffer(voice[4000:8000], "<i2"))
    assert carry == b""


def test_floats_are_clipped_and_not_a_number_is_silence() -> None:
    data = np.asarray([0.5, -2.0, 2.0, np.nan, np.inf, -np.inf, 1e-9], "<f4").tobytes()
    frames, _ = decode_frames("f32le", 1, b"", data)
    assert frames[:, 0].tolist() == [16384, -32768, 32767, 0, 32767, -32768, 0]


def test_channels_come_apart_in_their_order() -> None:
    data = np.asarray([[1, 2, 3], [4, 5, 6]], "<i2").tobytes()
    frames, _ = decode_frames("pcm_s16le", 3, b"", data)
    assert frames.tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize("encoding", sorted(SAMPLE_BYTES))
@pytest.mark.parametrize("data", [b"", b"\xff"])
def test_almost_nothing_decodes_to_nothing_or_one_sample(encoding: Encoding, data: bytes) -> None:
    frames, carry = decode_frames(encoding, 2, b"", data)
    assert frames.shape == (0, 2)
    assert carry == data
