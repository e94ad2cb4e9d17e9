"""What became of a call's speech."""

import asyncio
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from schemas.segments import Segment, Unheard, Word
from schemas.utterances import Part, Utterance, UtteranceRecord
from stages.transcribe.engine.protocol import Row, Transcription
from stages.transcribe.unheard import SILENT_DBFS, SpeechAccount, account, level_dbfs
from tests.unit.stages.transcribe.engines import FakeEngine
from tests.unit.stages.transcribe.records import closed
from tests.unit.stages.transcribe.test_stage import ledger, opened, process, segments, stage, stamped, utterance


class SkippingEngine(FakeEngine):
    """Writes a word each 0.4 s of a row's last stretch of speech, and nothing for the others.

    Of a row with one stretch it writes what its first level says: 7 nothing, 9 a text that is no speech, else words.
    """

    def transcribe_batch(self, rows: Sequence[Row]) -> list[Transcription]:
        return [self._last_stretch(row) for row in rows]

    def _last_stretch(self, row: Row) -> Transcription:
        start_s, end_s = row.voiced[-1]
        level = round(float(row.audio[min(len(row.audio) - 1, round(start_s * 16_000))]) * 1000)
        count = 0 if level == 7 else max(1, int((end_s - start_s) / 0.4))
        step_s = (end_s - start_s) / max(1, count)
        words = [
            Word(text=f"{level}-{n}", start_s=start_s + n * step_s, end_s=start_s + (n + 1) * step_s, probability=0.9)
            for n in range(count)
        ]
        return Transcription(
            text=" ".join(word.text for word in words),
            words=words,
            language="en",
            average_logprob=-0.2,
            no_speech_probability=0.95 if level == 9 else 0.05,
        )


def pack(seq: int, *levels: int) -> Utterance:
    """A pack of utterances of 2 s, 5 s apart, each with 1.5 s of speech."""
    made = [utterance(seq, level, voiced_s=1.5) for level in levels]
    starts = [seq * 10.0 + 5.0 * n for n in range(len(levels))]
    return msgspec.structs.replace(
        made[0],
        pcm=b"".join(one.pcm for one in made),
        voiced=[(start, start + 1.5) for start in starts],
        parts=[Part(round(start * 16_000), 32_000) for start in starts],
    )


async def test_utterances_that_the_decoder_skipped_in_a_pack_are_heard_again_in_their_place() -> None:
    (segment,) = await segments([opened("en"), pack(1, 1, 2, 3)], SkippingEngine())
    assert segment.text == "1-0 1-1 1-2 2-0 2-1 2-2 3-0 3-1 3-2"
    assert [word.start_s for word in segment.words] == [10.0, 10.5, 11.0, 15.0, 15.5, 16.0, 20.0, 20.5, 21.0]
    assert segment.unheard is UNSET


async def test_what_gives_nothing_is_unheard_with_its_place_level_and_reason() -> None:
    (segment,) = await segments([opened("en"), pack(1, 7, 9, 3)], SkippingEngine())
    assert segment.text == "3-0 3-1 3-2"
    assert segment.unheard == [
        Unheard(start_s=10.0, end_s=11.5, level_dbfs=-43.1, reason="no_speech"),
        Unheard(start_s=15.0, end_s=16.5, level_dbfs=-40.9, reason="no_speech"),
    ]


async def test_speech_that_the_engine_failed_on_is_unheard_and_the_ledger_balances() -> None:
    engine = FakeEngine(broken=frozenset({7}))
    records: list[UtteranceRecord] = [opened("en"), utterance(1, 7), utterance(2, 19), utterance(3, 2), closed(4)]
    async with stage(engine) as open_call:
        outputs = await process(open_call(None), records)
    first = next(output.record for output in outputs if isinstance(output.record, Segment))
    assert first.guard == "error"
    assert first.unheard == [Unheard(start_s=10.0, end_s=12.0, level_dbfs=-43.1, reason="error")]
    (completed,) = ledger(outputs, "completed")
    assert completed.detail["seconds"] == {
        "received_s": 120.0,
        "silence_s": 114.0,
        "worded_s": 0.75,
        "dropped_s": {"no_speech": 2.0},
        "unheard_s": {"error": 2.0, "no_words": 1.25},
    }


async def test_a_state_from_before_the_account_ends_without_it() -> None:
    async with stage() as open_call:
        processor = open_call(None)
        await process(processor, [opened("en"), utterance(1, 1)])
        state = msgspec.msgpack.decode(processor.checkpoint().state)
        del state["channels"], state["speech"]
        outputs = await process(open_call(msgspec.msgpack.encode(state)), [closed(2)])
    (completed,) = ledger(outputs, "completed")
    assert "seconds" not in completed.detail


def test_the_level_is_that_of_the_stretch_in_its_part() -> None:
    made = pack(1, 0, 500)
    assert level_dbfs(made, (10.0, 11.5)) == SILENT_DBFS
    assert level_dbfs(made, (15.0, 16.5)) == pytest.approx(-6.0, abs=0.05)
    loud = msgspec.structs.replace(made, pcm=np.full(64_000, -32768, "<i2").tobytes())
    assert level_dbfs(loud, (15.0, 16.5)) == 0.0


levels = st.lists(st.lists(st.sampled_from([1, 7, 9]), min_size=1, max_size=4), min_size=1, max_size=4)


@settings(max_examples=30)
@given(levels)
def test_the_seconds_of_a_call_add_up_and_a_replay_gives_the_same_bytes(packs: list[list[int]]) -> None:
    records: list[UtteranceRecord] = [opened("en"), *(pack(3 * n + 1, *levels) for n, levels in enumerate(packs))]
    records = [msgspec.structs.replace(record, seq=seq) for seq, record in enumerate([*records, closed(0)])]

    async def run() -> tuple[list[tuple[str, bytes]], SpeechAccount, dict[str, object]]:
        async with stage(SkippingEngine()) as open_call:
            outputs = await process(open_call(None), records)
        found = [output.record for output in outputs if isinstance(output.record, Segment)]
        (completed,) = ledger(outputs, "completed")
        return stamped(outputs), sum((account(one) for one in found), SpeechAccount()), completed.detail["seconds"]

    once, total, said = asyncio.run(run())
    assert asyncio.run(run())[0] == once
    assert total.voiced == total.worded + sum(total.dropped.values()) + sum(total.unheard.values())
    assert total.voiced == 1500 * sum(map(len, packs))
    assert said == total.described(received_ms=120_000)
