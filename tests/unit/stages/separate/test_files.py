import io
import random
import socket
import struct
from pathlib import Path

import numpy as np
import pytest

from stages.errors import MachineFailure
from stages.separate.decoder import AudioFileError, Damage, DecodeLimits
from stages.separate.files import AudioFile, open_audio_file, open_audio_stream
from tests.calls import bad, media

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
    with pytest.raises(AudioFileError, match="call: the file is empty"):
        open_audio_stream(io.BytesIO(b""), "call")


def whole(data: bytes, limits: DecodeLimits | None = None) -> tuple[AudioFile, bytes]:
    audio = open_audio_stream(io.BytesIO(data), "call", limits)
    pcm = b"".join(audio)
    audio.close()
    return audio, pcm


def mp3(rate_hz: int, channels: int = 1) -> bytes:
    return media.encoded("mp3", "libmp3lame", rate_hz=rate_hz, channels=channels)


def adts(rate_hz: int) -> bytes:
    return media.encoded("adts", "aac", rate_hz=rate_hz)


# -- what changes in the middle of a file ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parts",
    [
        (mp3(44_100), mp3(22_050)),
        (mp3(8_000), mp3(44_100)),
        (mp3(44_100), mp3(44_100, 2)),
        (mp3(44_100, 2), mp3(44_100)),
        (adts(16_000), adts(44_100)),
        (mp3(16_000), mp3(44_100, 2), mp3(8_000)),
    ],
    ids=["44 and 22 kHz", "8 and 44 kHz", "mono and stereo", "stereo and mono", "AAC", "three"],
)
def test_joined_files_of_different_formats_are_decoded_to_the_end(parts: tuple[bytes, ...]) -> None:
    audio, pcm = whole(b"".join(parts))
    samples = np.frombuffer(pcm, "<i2").reshape(-1, audio.channels)[:, 0].astype(float)
    rate_hz = audio.sample_rate_hz
    assert len(samples) / rate_hz == pytest.approx(2.0 * len(parts), abs=0.25)
    for index in range(len(parts)):
        part = samples[int((2 * index + 0.5) * rate_hz) : int((2 * index + 1.5) * rate_hz)]
        spectrum = np.abs(np.fft.rfft(part))
        assert int(spectrum.argmax()) == pytest.approx(300, abs=2)  # a part of 1 s: the bin is the frequency
    assert max((damage.end_s for damage in audio.damages), default=0.0) <= len(samples) / rate_hz


# -- damage ----------------------------------------------------------------------------------------------------------


def test_damage_in_the_middle_is_named_by_its_second_and_the_rest_is_decoded() -> None:
    noise = bad.noise(20.0, level_db=-20)
    data = bytearray(media.encoded_samples("mp3", "libmp3lame", noise, rate_hz=8_000))
    _, healthy = whole(bytes(data))
    half = len(data) // 2
    data[half : half + 600] = bytes(600)
    audio, pcm = whole(bytes(data))
    [damage, *_] = audio.damages
    assert audio.truncated
    assert damage.start_s == pytest.approx(10.0, abs=1.0)
    assert str(damage).startswith(f"damaged at {damage.start_s:.1f} s (")
    n_before = int((damage.start_s - 0.1) * 8_000) * 2
    assert pcm[:n_before] == healthy[:n_before]
    assert len(healthy) * 0.9 < len(pcm) <= len(healthy)
    assert np.frombuffer(pcm, "<i2")[-40_000:].std() > 2_000


def test_a_file_that_breaks_off_says_from_where_to_where() -> None:
    data = media.recording("mp3", seconds=10.0)
    audio, pcm = whole(data[: len(data) // 2])
    [damage] = audio.damages
    assert damage.reason == "the file breaks off"
    assert damage.start_s == len(pcm) / 2 / 16_000
    assert damage.end_s == pytest.approx(10.0, abs=0.1)


def test_a_byte_that_flipped_costs_at_most_its_neighbourhood() -> None:
    data = media.recording("mp3", seconds=1.0)
    chance = random.Random(5)
    for _ in range(150):
        flipped = bytearray(data)
        flipped[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        try:
            audio, pcm = whole(bytes(flipped))
        except AudioFileError:
            continue
        assert len(pcm) / 2 / audio.sample_rate_hz > 0.5 or audio.truncated


@pytest.mark.parametrize("rate_hz", [3_000_000, 100_000_000, 2_147_483_647])
def test_a_header_with_an_absurd_rate_is_refused(rate_hz: int) -> None:
    with pytest.raises(AudioFileError, match=f"its sample rate of {rate_hz} Hz is above 192000 Hz|not a readable"):
        whole(media.wav_of_rate(rate_hz))


def test_what_the_decoder_raises_is_the_files_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    import av

    def out_of_memory(*_: object, **__: object) -> None:
        raise MemoryError

    data = media.recording("wav", seconds=4.0)
    with monkeypatch.context() as patched:
        patched.setattr(av, "open", out_of_memory)
        with pytest.raises(AudioFileError, match=r"not a readable audio file \(MemoryError\)"):
            whole(data)
    with monkeypatch.context() as patched:
        patched.setattr(av, "AudioResampler", out_of_memory)
        audio, pcm = whole(data)
    assert (pcm, audio.damages) == (b"", [Damage(0.0, 4.0, "MemoryError")])


def test_a_disk_that_fails_is_not_the_files_fault() -> None:
    class Failing(io.BytesIO):
        healthy = True

        def read(self, size: int | None = -1, /) -> bytes:
            if not self.healthy:
                raise OSError(5, "Input/output error")
            return super().read(size)

    source = Failing(media.recording("wav", seconds=60.0))
    source.healthy = False
    with pytest.raises(MachineFailure, match="the file cannot be read: Input/output error"):
        open_audio_stream(source, "call")
    source = Failing(media.recording("wav", seconds=60.0))
    audio = open_audio_stream(source, "call")
    source.healthy = False
    with pytest.raises(MachineFailure, match="the file cannot be read: Input/output error"):
        list(audio)
    audio.close()


# -- limits ----------------------------------------------------------------------------------------------------------


def test_a_small_file_does_not_become_hours_of_audio() -> None:
    data = media.encoded("flac", "flac", rate_hz=8_000, seconds=1_200.0, hz=0.0)
    audio, pcm = whole(data)
    kept_s = len(pcm) / 2 / 8_000
    assert kept_s == pytest.approx(max(600.0, 320 * len(data) / 8_000), abs=0.01)
    [damage] = audio.damages
    assert damage.start_s == pytest.approx(kept_s)
    assert damage.end_s == pytest.approx(1_200.0)
    assert f"s of audio from {len(data)} bytes" in damage.reason


def test_ten_minutes_of_silence_are_no_bomb() -> None:
    audio, pcm = whole(media.encoded("flac", "flac", rate_hz=8_000, seconds=600.0, hz=0.0))
    assert (len(pcm) / 2 / 8_000, audio.truncated) == (600.0, False)


def test_audio_beyond_the_longest_duration_is_cut_off() -> None:
    audio, pcm = whole(media.recording("wav", seconds=3.0), DecodeLimits(audio_s=1.25))
    assert len(pcm) / 4 / 8_000 == 1.25
    assert audio.damages[0].start_s == 1.25


# -- files that name other files -------------------------------------------------------------------------------------

SDP = b"""v=0\r
o=- 0 0 IN IP4 127.0.0.1\r
s=x\r
c=IN IP4 127.0.0.1\r
t=0 0\r
m=audio 15004 RTP/AVP 0\r
a=rtpmap:0 PCMU/8000\r
"""
NAMING: dict[str, bytes] = {
    "ffconcat": b"ffconcat version 1.0\nfile 'secret.wav'\n",
    "SDP": SDP,
    "HLS": b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:2,\nsecret.wav\n#EXT-X-ENDLIST\n",
    "DASH": b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period/></MPD>',
    "IMF": b'<?xml version="1.0"?><CompositionPlaylist/>',
}


@pytest.mark.parametrize("kind", NAMING)
@pytest.mark.parametrize("suffix", [".wav", ".m3u8", ".sdp", ""])
def test_a_file_that_names_others_is_not_opened(
    kind: str, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_socket(*_: object, **__: object) -> None:
        raise AssertionError("a socket")

    (tmp_path / "secret.wav").write_bytes(media.recording("wav"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socket, "socket", no_socket)
    path = tmp_path / f"upload{suffix}"
    path.write_bytes(NAMING[kind])
    with pytest.raises(AudioFileError, match="not a readable audio file"):
        open_audio_file(path)
    with pytest.raises(AudioFileError, match="not a readable audio file"):
        open_audio_stream(io.BytesIO(NAMING[kind]), "the call's audio")


def test_an_mp4_whose_media_lies_in_another_file_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A data reference of the kind `alis` with a relative path: FFmpeg's demuxer can follow it."""
    (tmp_path / "secret.wav").write_bytes(media.recording("wav"))
    monkeypatch.chdir(tmp_path)
    data = media.recording("m4a")
    own = struct.pack(">II4sI", 28, 0, b"\0\0\0\1", 12) + b"url \0\0\0\1"
    at = data.index(b"dref") - 4
    assert data[at + 16 : at + 28] == own[-12:]
    other = data[: at + 20] + b"alis\0\0\0\0" + data[at + 28 :]
    try:
        _, pcm = whole(other)
    except AudioFileError:
        return
    assert pcm in (b"", whole(data)[1])


# -- the list of formats ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", media.CONTAINERS)
def test_what_telephone_systems_record_is_read(kind: str) -> None:
    audio, pcm = whole(media.recording(kind))
    assert len(pcm) / 2 / audio.channels / audio.sample_rate_hz == pytest.approx(2.0, abs=0.15)
    assert audio.damages == []


@pytest.mark.parametrize("before", [b"\0" * 500, b"ID3\4\0\0\0\0\x0f\x76" + b"\0" * 2_038, b"garbage" * 300])
def test_an_mp3_after_other_bytes_is_read(before: bytes) -> None:
    audio, pcm = whole(before + media.recording("mp3"))
    assert audio.format == "mp3"
    assert len(pcm) / 2 / 16_000 == pytest.approx(2.0, abs=0.1)


def test_asterisks_files_without_a_header_are_read_by_their_suffix(tmp_path: Path) -> None:
    (tmp_path / "call.gsm").write_bytes(bytes.fromhex("d2") + bytes(32) + (bytes.fromhex("d2") + bytes(32)) * 99)
    audio = open_audio_file(tmp_path / "call.gsm")
    assert (audio.format, len(b"".join(audio)) / 2) == ("gsm", 100 * 160)
    audio.close()
