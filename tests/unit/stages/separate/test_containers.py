"""Calls that are sent as a file in pieces, and files that no decoder likes."""

import asyncio
import threading
from collections.abc import Iterator
from typing import BinaryIO

import pytest

from schemas.audio import AudioChunk, AudioEvent, CallEnded, CallStarted
from schemas.calls import CallRef
from schemas.utterances import CallClosed, CallOpened
from stages.errors import DecoderLost
from stages.separate.decoder import Damage, DecodedAudio
from stages.separate.files import LocalDecoder
from stages.separate.stage import SeparateStage
from tests.calls import media
from tests.unit.stages.separate.scripted import CALL, LoudnessModel, Run, feed, in_order, separate
from tests.unit.stages.separate.test_replay import check_all_crashes


def pieces(data: bytes, size: int = 4_000) -> list[AudioEvent]:
    """Return a call whose chunks are the pieces of a file."""
    start = CallStarted(encoding="container", sample_rate_hz=8_000, channels=1)
    chunks = [AudioChunk(data=data[at : at + size]) for at in range(0, len(data), size)]
    return [start, *chunks, CallEnded(events=len(chunks) + 2)]


def closed(run: Run) -> CallClosed:
    [record] = run.of(CallClosed)
    assert isinstance(record, CallClosed)
    return record


def entries(run: Run, status: str) -> list[dict[str, object]]:
    return [
        output.record.detail  # type: ignore[attr-defined]
        for output in run.others
        if getattr(output.record, "status", None) == status
    ]


def joined() -> bytes:
    """Two MP3 files of different rates: FFmpeg reports bad data where they meet."""
    return media.encoded("mp3", "libmp3lame", rate_hz=44_100) + media.encoded("mp3", "libmp3lame", rate_hz=22_050)


async def test_a_call_of_joined_files_completes_with_the_audio_of_both() -> None:
    run = await separate(in_order(pieces(joined())))
    assert closed(run).duration_s == pytest.approx(4.0, abs=0.2)
    assert closed(run).reason == "hangup"
    [done] = entries(run, "completed")
    assert done["truncated"] is True


async def test_what_could_not_be_decoded_is_a_gap_and_a_ledger_entry_with_its_reason() -> None:
    data = media.recording("mp3", seconds=10.0)
    run = await separate(in_order(pieces(data[: len(data) // 2])))
    heard_s = closed(run).duration_s
    assert 4.0 < heard_s < 6.0
    [gap] = closed(run).gaps
    assert (gap.start_s, gap.events) == (heard_s, 0)
    assert gap.end_s == pytest.approx(10.0, abs=0.1)
    [entry] = entries(run, "gap")
    assert (entry["start_s"], entry["end_s"], entry["reason"]) == (heard_s, gap.end_s, "the file breaks off")


async def test_a_call_of_which_nothing_can_be_decoded_has_failed_and_is_closed() -> None:
    for data in (media.wav_of_rate(2_147_483_647), b"v=0\r\nm=audio 15004 RTP/AVP 0\r\n", b"ffconcat version 1.0\n"):
        run = await separate(in_order(pieces(data)))
        assert [type(record) for record in run.records] == [CallOpened, CallClosed]
        assert closed(run).reason.startswith("undecodable: ")
        assert len(entries(run, "failed")) == 1


async def test_a_crash_while_a_damaged_file_is_decoded_changes_no_byte() -> None:
    await check_all_crashes(in_order(pieces(joined())), SeparateStage(LoudnessModel()))


# -- decoders --------------------------------------------------------------------------------------------------------


class Scripted(LocalDecoder):
    """A decoder that notes what is asked of it. Its audio is `broken` after the first block, by the error given."""

    def __init__(self, broken: Exception | None = None, damage: Damage | None = None) -> None:
        super().__init__()
        self.prepared = self.most_open = self._open = 0
        self._broken, self._damage = broken, damage
        self._lock = threading.Lock()

    def prepare(self) -> None:
        self.prepared += 1

    def open(self, source: BinaryIO, name: str) -> DecodedAudio:  # type: ignore[override]
        with self._lock:
            self._open += 1
            self.most_open = max(self.most_open, self._open)
        return _ScriptedAudio(self, super().open(source, name))


class _ScriptedAudio:
    def __init__(self, decoder: Scripted, audio: DecodedAudio) -> None:
        self._decoder, self._audio = decoder, audio
        self.name, self.format, self.codec = audio.name, audio.format, audio.codec
        self.source_rate_hz, self.sample_rate_hz = audio.source_rate_hz, audio.sample_rate_hz
        self.channels, self.duration_s = audio.channels, audio.duration_s
        self.truncated = False
        self.damages = [decoder._damage] if decoder._damage is not None else []

    def __iter__(self) -> Iterator[bytes]:
        if self.damages:
            return
        for block in self._audio:
            yield block
            if self._decoder._broken is not None:
                raise self._decoder._broken

    def close(self) -> None:
        self._audio.close()
        with self._decoder._lock:
            self._decoder._open -= 1


async def test_a_lost_decoder_is_no_fault_of_the_call_which_comes_out_whole_later() -> None:
    events = in_order(pieces(media.recording("wav")))
    with pytest.raises(DecoderLost):
        await separate(events, SeparateStage(LoudnessModel(), decoder=Scripted(DecoderLost("killed"))))
    assert closed(await separate(events)).duration_s == 2.0


async def test_a_file_that_is_damaged_from_its_first_sample_on_is_a_failed_call() -> None:
    decoder = Scripted(damage=Damage(0.0, 2.0, "the decoder crashes on it (SIGSEGV)"))
    run = await separate(in_order(pieces(media.recording("wav"))), SeparateStage(LoudnessModel(), decoder=decoder))
    assert [type(record) for record in run.records] == [CallOpened, CallClosed]
    assert closed(run).reason == "undecodable: the decoder crashes on it (SIGSEGV)"


async def test_of_many_files_that_end_together_two_are_decoded_at_a_time() -> None:
    decoder = Scripted()
    stage = SeparateStage(LoudnessModel(), decoder=decoder)
    events = in_order(pieces(media.recording("wav", seconds=5.0)))
    calls = [stage.open(CallRef("default", f"{CALL.call_id}-{index}"), None) for index in range(8)]
    runs = await asyncio.gather(*(feed(call, events) for call in calls))
    assert decoder.prepared == 8
    assert decoder.most_open == decoder.at_once == 2
    assert {closed(run).duration_s for run in runs} == {5.0}
