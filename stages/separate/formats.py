"""Which audio files are read: containers by their first bytes, and codecs, both from lists.

FFmpeg guesses a format by asking each of its some 370 demuxers. Some of them open other files or sockets that the bytes
name (`ffconcat`, HLS, DASH, SDP). So the format is decided here, and FFmpeg is told its name.
"""

from collections.abc import Callable
from pathlib import PurePath
from typing import BinaryIO, Final

MPEG_AUDIO: Final = "mp3"
ADTS: Final = "aac"

_MAGIC: Final[tuple[tuple[int, bytes, str], ...]] = (
    (8, b"WAVE", "wav"),  # after RIFF, RIFX, RF64 or BW64 and a size
    (8, b"QLCM", "qcp"),
    (0, b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb", "w64"),
    (0, b"fLaC", "flac"),
    (0, b"OggS", "ogg"),
    (0, b"\x1aE\xdf\xa3", "matroska,webm"),
    (4, b"ftyp", "mov,mp4,m4a,3gp,3g2,mj2"),
    (4, b"moov", "mov,mp4,m4a,3gp,3g2,mj2"),
    (4, b"mdat", "mov,mp4,m4a,3gp,3g2,mj2"),
    (4, b"wide", "mov,mp4,m4a,3gp,3g2,mj2"),
    (4, b"styp", "mov,mp4,m4a,3gp,3g2,mj2"),
    (4, b"moof", "mov,mp4,m4a,3gp,3g2,mj2"),
    (4, b"free", "mov,mp4,m4a,3gp,3g2,mj2"),
    (4, b"skip", "mov,mp4,m4a,3gp,3g2,mj2"),
    (0, b"#!AMR", "amr"),
    (8, b"AIFF", "aiff"),  # after FORM and a size
    (8, b"AIFC", "aiff"),
    (0, b".snd", "au"),
    (0, b"caff", "caf"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "asf"),
    (0, b"Creative Voice File\x1a", "voc"),
    (0, b"NIST_1A", "nistsphere"),
)
"""(offset, bytes, FFmpeg's name of the demuxer)."""

_OUTER: Final = {
    b"WAVE": (b"RIFF", b"RIFX", b"RF64", b"BW64"),
    b"QLCM": (b"RIFF",),
    b"AIFF": (b"FORM",),
    b"AIFC": (b"FORM",),
}
"""What stands at the start of a file with these bytes further on."""

_HEADERLESS: Final = {".gsm": "gsm", ".g722": "g722", ".g729": "g729", ".sln": "sln"}
"""Asterisk's recordings without a header: by the suffix of their name."""

FORMATS: Final = frozenset({name for _, _, name in _MAGIC} | {MPEG_AUDIO, ADTS, "loas", *_HEADERLESS.values()})
"""FFmpeg's names of all demuxers in use. None of them opens another file by default."""

CODECS: Final = frozenset(
    (
        "aac", "aac_fixed", "aac_latm", "ac3", "ac3_fixed", "adpcm_ima_oki", "adpcm_ima_qt", "adpcm_ima_wav",
        "adpcm_ms", "adpcm_yamaha", "alac", "amrnb", "amrwb", "eac3", "evrc", "flac", "g722", "g723_1", "g726",
        "g726le", "g729", "gsm", "gsm_ms", "ilbc", "libgsm", "libgsm_ms", "libilbc", "libopencore_amrnb",
        "libopencore_amrwb", "libopus", "libspeex", "libvorbis", "mp1", "mp1float", "mp2", "mp2float", "mp3",
        "mp3float", "opus", "pcm_alaw", "pcm_f32be", "pcm_f32le", "pcm_f64be", "pcm_f64le", "pcm_mulaw", "pcm_s16be",
        "pcm_s16le", "pcm_s24be", "pcm_s24le", "pcm_s32be", "pcm_s32le", "pcm_s8", "pcm_u8", "qcelp", "speex",
        "truespeech", "vorbis", "wmalossless", "wmapro", "wmav1", "wmav2", "wmavoice",
    )
)  # fmt: skip
"""FFmpeg's names of the decoders in use."""

READABLE: Final = "WAV, MP3, FLAC, Ogg, Opus, M4A, MP4, WebM, AAC, AMR, AIFF, AU, CAF, WMA and GSM are read"

_HEAD_BYTES: Final = 65_536
_CHAIN: Final = 3
"""Frame headers in a row that prove MPEG audio in the middle of other bytes."""
_MAX_TAGS: Final = 8


def format_of(stream: BinaryIO, name: str) -> str | None:
    """Return FFmpeg's name of the demuxer for the bytes of a seekable stream; None if no format is known by them."""
    start = _after_tags(stream)
    stream.seek(start)
    head = stream.read(_HEAD_BYTES)
    for offset, magic, found in _MAGIC:
        if head.startswith(magic, offset) and head.startswith(_OUTER.get(magic, b"")):
            return found
    if head[:1] == b"\x56" and len(head) > 1 and head[1] & 0xE0 == 0xE0:
        return "loas"
    for found, length_of in ((ADTS, _adts_frame_bytes), (MPEG_AUDIO, _mpeg_frame_bytes)):
        if _is_chain(head, 0, length_of, links=2):
            return found
    for found, length_of in ((MPEG_AUDIO, _mpeg_frame_bytes), (ADTS, _adts_frame_bytes)):
        if _has_chain(head, length_of):
            return found
    return MPEG_AUDIO if start else _HEADERLESS.get(PurePath(name).suffix.lower())


def _after_tags(stream: BinaryIO) -> int:
    """Return the position after the ID3v2 tags at the start (id3.org, ID3v2.4.0, section 3.1)."""
    at = 0
    for _ in range(_MAX_TAGS):
        stream.seek(at)
        header = stream.read(10)
        if header[:3] != b"ID3" or len(header) < 10 or max(header[6:]) > 127:
            break
        size = header[6] << 21 | header[7] << 14 | header[8] << 7 | header[9]
        at += 10 + size + (10 if header[5] & 16 else 0)
    return at


def _has_chain(head: bytes, length_of: Callable[[bytes], int]) -> bool:
    at = head.find(b"\xff")
    while at >= 0:
        if _is_chain(head, at, length_of, links=_CHAIN):
            return True
        at = head.find(b"\xff", at + 1)
    return False


def _is_chain(head: bytes, at: int, length_of: Callable[[bytes], int], *, links: int) -> bool:
    """Return True if frames follow each other from `at` on, `links` of them or to the end of the file."""
    for link in range(links):
        if link and at >= len(head) - 6:
            return len(head) < _HEAD_BYTES and links < _CHAIN
        length = length_of(head[at : at + 7])
        if not length:
            return False
        at += length
    return True


_MPEG_KBITS: Final = {
    (1, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""Bit rates by (MPEG version, layer): ISO/IEC 11172-3, 2.4.2.3, and 13818-3. Index 0 is the free format."""

_MPEG_RATES_HZ: Final = (44_100, 48_000, 32_000)


def _mpeg_frame_bytes(header: bytes) -> int:
    """Return the size of the MPEG audio frame with this header; 0 if it is none."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return 0
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    kbits_index, rate_index = header[2] >> 4, header[2] >> 2 & 3
    if version == 1 or layer == 4 or kbits_index in (0, 15) or rate_index == 3:
        return 0
    kbits = _MPEG_KBITS[1 if version == 3 else 2, layer][kbits_index]
    rate_hz = _MPEG_RATES_HZ[rate_index] // {3: 1, 2: 2, 0: 4}[version]
    padding = header[2] >> 1 & 1
    if layer == 1:
        return (12_000 * kbits // rate_hz + padding) * 4
    return (144_000 if layer == 2 or version == 3 else 72_000) * kbits // rate_hz + padding


def _adts_frame_bytes(header: bytes) -> int:
    """Return the size of the ADTS frame with this header (ISO/IEC 14496-3, 1.A.2.2); 0 if it is none."""
    if len(header) < 7 or header[0] != 0xFF or header[1] & 0xF6 != 0xF0 or header[2] >> 2 & 15 > 12:
        return 0
    length = (header[3] & 3) << 11 | header[4] << 3 | header[5] >> 5
    return length if length >= 7 else 0
