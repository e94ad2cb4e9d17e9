import io
from pathlib import Path

import numpy as np
import pytest

from stages.separate.files import AudioFileError, open_audio_file, open_audio_stream
from tests.calls import bad

SAMPLE = Path(bad.__file__).parent / "sample" / "sample.wav"


def decoded(path: Path) -> tuple[bytes, bool]:
    audio = open_audio_file(path)
    try:
        return b"".join(audio), audio.truncated
    finally:
        audio.close()


def test_a_wav_file_comes_out_byte_for_byte_in_blocks_of_half_a_second() -> None:
    pcm, rate_hz = bad.read_wav(SAMPLE)
    audio = open_audio_file(SAMPLE)
    blocks = list(audio)
    audio.close()
    assert (audio.sample_rate_hz, audio.channels, audio.format, audio.codec) == (rate_hz, 2, "wav", "pcm_s16le")
    assert audio.duration_s == pytest.approx(len(pcm) / rate_hz)
    assert max(map(len, blocks)) == rate_hz // 2 * 4
    assert b"".join(blocks) == pcm.astype("<i2").tobytes()
    assert not audio.truncated


@pytest.mark.parametrize("suffix", sorted(bad.CODECS))
def test_compressed_files_come_out_at_their_length_and_level(suffix: str, tmp_path: Path) -> None:
    pcm, rate_hz = bad.read_wav(SAMPLE)
    part = pcm[: 6 * rate_hz]
    path = bad.encoded(tmp_path / f"call{suffix}", part, rate_hz=rate_hz)
    audio = open_audio_file(path)
    samples = np.frombuffer(b"".join(audio), "<i2").reshape(-1, 2).astype(float)
    audio.close()
    assert audio.sample_rate_hz <= 16_000
    assert len(samples) / audio.sample_rate_hz == pytest.approx(6.0, abs=0.15)
    assert samples.std(axis=0) == pytest.approx(part.astype(float).std(axis=0), rel=0.1)
    assert not audio.truncated


def test_192_khz_is_brought_to_16_khz(tmp_path: Path) -> None:
    audio = open_audio_file(bad.at_192_khz(tmp_path / "high.wav"))
    data = b"".join(audio)
    audio.close()
    assert (audio.source_rate_hz, audio.sample_rate_hz) == (192_000, 16_000)
    assert len(data) / 2 == pytest.approx(32_000, abs=20)


def test_eight_channels_keep_their_order(tmp_path: Path) -> None:
    audio = open_audio_file(bad.eight_channels(tmp_path / "eight.wav"))
    samples = np.frombuffer(b"".join(audio), "<i2").reshape(-1, 8)
    audio.close()
    crossings = (np.diff(np.signbit(samples), axis=0)).sum(axis=0)
    assert [round(n / 4 / 100) for n in crossings] == [2, 3, 4, 5, 6, 7, 8, 9]


def test_an_incomplete_file_is_decoded_as_far_as_it_goes_and_truncated(tmp_path: Path) -> None:
    pcm, rate_hz = bad.read_wav(SAMPLE)
    data, truncated = decoded(bad.truncated(tmp_path / "cut.wav", SAMPLE, kept=0.5))
    assert truncated
    assert len(data) / len(pcm) / 4 == pytest.approx(0.5, abs=0.01)
    assert pcm.astype("<i2").tobytes().startswith(data)
    flac = bad.encoded(tmp_path / "whole.flac", pcm[: 10 * rate_hz], rate_hz=rate_hz)
    data, truncated = decoded(bad.truncated(tmp_path / "cut.flac", flac, kept=0.5))
    assert truncated
    assert 2 < len(data) / rate_hz / 4 < 8


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (bad.zero_bytes, "empty"),
        (bad.not_audio, "not a readable audio file"),
        (bad.random_bytes, "not a readable audio file"),
        (bad.no_channels, ""),
    ],
)
def test_a_file_without_audio_is_refused_with_its_name_and_the_reason(write, reason, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(AudioFileError) as error:
        decoded(write(tmp_path / "bad.wav"))
    assert str(error.value).startswith("bad.wav: ")
    assert reason in error.value.reason


def test_a_file_that_is_not_there_or_is_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AudioFileError, match=r"none\.wav: No such file"):
        open_audio_file(tmp_path / "none.wav")
    with pytest.raises(AudioFileError, match="is a directory"):
        open_audio_file(tmp_path)


def test_nine_channels_are_refused(tmp_path: Path) -> None:
    path = bad.write_wav(tmp_path / "nine.wav", [np.zeros((800, 9), np.int16)], channels=9)
    with pytest.raises(AudioFileError, match="9 channels"):
        open_audio_file(path)


def test_a_header_without_samples_is_an_empty_recording(tmp_path: Path) -> None:
    assert decoded(bad.header_only(tmp_path / "header.wav")) == (b"", False)


def test_a_stream_is_read_as_a_file_is() -> None:
    audio = open_audio_stream(io.BytesIO(SAMPLE.read_bytes()), "call")
    assert b"".join(audio) == decoded(SAMPLE)[0]
    audio.close()
    with pytest.raises(AudioFileError, match="call: there is no data"):
        open_audio_stream(io.BytesIO(b""), "call")
