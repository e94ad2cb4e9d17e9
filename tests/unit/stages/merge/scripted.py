"""Synthetic calls for tests of the merge stage: timed words of speakers, as the records that reach the stage."""

from collections.abc import Sequence

import msgspec

from schemas.calls import CallRef
from schemas.segments import Segment, SegmentRecord, Word
from schemas.transcripts import TranscriptCompleted, Turn
from schemas.utterances import CallClosed, CallOpened, CallProgress, Channel
from stages.merge.stage import MergeStage
from stages.protocol import CallProcessor, Checkpoint, Event, Origin, Output

CALL = CallRef("default", "call-1")


def segment(
    segment_id: str,
    channel: int,
    start_s: float,
    text: str,
    *,
    seq: int = 0,
    word_s: float = 0.5,
    guard: str | None = None,
    language: str = "en",
) -> Segment:
    """Return a segment of consecutive words, each `word_s` long. Without text it lasts one second."""
    words = [
        Word(text=word, start_s=start_s + index * word_s, end_s=start_s + (index + 1) * word_s, probability=0.9)
        for index, word in enumerate(text.split())
    ]
    end_s = words[-1].end_s if words else start_s + 1.0
    return Segment(
        call=CALL,
        seq=seq,
        segment_id=segment_id,
        channel=channel,
        start_s=start_s,
        end_s=end_s,
        text=text,
        words=words,
        voiced=[(start_s, end_s)],
        language=language,
        model="test",
        word_source="attention",
        probability=0.9,
        no_speech_probability=0.1,
        guard=guard,
    )


def joined(*made: Segment) -> Segment:
    """Return the segment of a pack of the utterances of these segments."""
    return msgspec.structs.replace(
        made[0],
        end_s=made[-1].end_s,
        text=" ".join(one.text for one in made if one.text),
        words=[word for one in made for word in one.words],
        voiced=[span for one in made for span in one.voiced],
        parts=[(one.start_s, one.end_s) for one in made],
    )


def shifted(made: Segment, by_s: float) -> Segment:
    """Return the same segment, `by_s` later."""
    words = [msgspec.structs.replace(word, start_s=word.start_s + by_s, end_s=word.end_s + by_s) for word in made.words]
    voiced = [(start_s + by_s, end_s + by_s) for start_s, end_s in made.voiced]
    return msgspec.structs.replace(
        made, start_s=made.start_s + by_s, end_s=made.end_s + by_s, words=words, voiced=voiced
    )


def opened(*roles: str, language: str | None = None) -> CallOpened:
    return CallOpened(
        call=CALL,
        seq=0,
        channels=[Channel(index, role) for index, role in enumerate(roles)],
        sample_rate_hz=8000,
        encoding="mulaw",
        language=language,
        partials=False,
        metadata={},
        opened_at=1_700_000_000.0,
    )


def progress(*heard_to_s: float) -> CallProgress:
    return CallProgress(call=CALL, seq=0, heard_to_s=list(heard_to_s))


def closed(duration_s: float, *, revision: int = 1, provisional: bool = False, utterances: int = 0) -> CallClosed:
    return CallClosed(
        call=CALL,
        seq=0,
        revision=revision,
        duration_s=duration_s,
        speech_s=0.0,
        utterances=utterances,
        gaps=[],
        reason="hangup",
        provisional=provisional,
    )


def numbered(records: Sequence[SegmentRecord]) -> list[SegmentRecord]:
    return [msgspec.structs.replace(record, seq=seq) for seq, record in enumerate(records)]


def feed(
    processor: CallProcessor[SegmentRecord], record: SegmentRecord, *, given_up: str | None = None
) -> list[Output]:
    """Return the outputs of one input, without an event loop: the merge stage never waits.

    `given_up` is why the input is given up.
    """

    async def collect() -> list[Output]:
        event = Event(
            seq=record.seq,
            event_id=f"in/{record.seq}",
            origin=Origin("in", 0, record.seq, record.call.key),
            timestamp_s=1_700_000_000.0 + record.seq,
        )
        outputs = (
            processor.submit(record, event) if given_up is None else processor.give_up(record, event, reason=given_up)
        )
        return [output async for output in outputs]

    collecting = collect()
    try:
        collecting.send(None)
    except StopIteration as done:
        outputs: list[Output] = done.value
        return outputs
    raise AssertionError("the merge stage awaited something")


def merge(records: Sequence[SegmentRecord]) -> list[Output]:
    """Return all outputs of a call without a crash."""
    processor = MergeStage().open(CALL, None)
    return [output for record in numbered(records) for output in feed(processor, record)]


def on_bus(outputs: Sequence[Output]) -> list[Output]:
    return [output for output in outputs if output.seq is not None]


def turns_of(outputs: Sequence[Output]) -> list[Turn]:
    return [output.record for output in outputs if isinstance(output.record, Turn)]


def transcripts_of(outputs: Sequence[Output]) -> list[TranscriptCompleted]:
    return [output.record for output in outputs if isinstance(output.record, TranscriptCompleted)]


def merge_with_crashes(records: Sequence[SegmentRecord], crashes: Sequence[tuple[int, int]]) -> list[Output]:
    """Return the numbered outputs on the bus when the stage dies, as the runner would store and replay them.

    A crash is (input, number of its outputs that still reach the bus). Everything in memory is lost. The next processor
    starts from the checkpoint of the last output on the bus and gets every input that it does not release.
    """
    inputs = numbered(records)
    bus: list[Output] = []
    kept = Checkpoint(state=b"", released=0)
    gone = 0
    pending = list(crashes)
    position = 0
    processor = MergeStage().open(CALL, None)
    while position < len(inputs):
        before = processor.checkpoint()
        outputs = on_bus(feed(processor, inputs[position]))
        crash = pending[0] if pending and pending[0][0] == position else None
        reached = outputs if crash is None else outputs[: crash[1]]
        for output in reached:
            assert output.seq is not None
            if output.seq < len(bus):
                assert msgspec.json.encode(output.record) == msgspec.json.encode(bus[output.seq].record)
                continue
            assert output.seq == len(bus)
            bus.append(output)
            kept = processor.checkpoint() if output is outputs[-1] else before
        gone = max(gone, kept.released)
        position += 1
        if crash is not None:
            pending.pop(0)
            processor = MergeStage().open(CALL, kept.state or None)
            position = gone
    return bus
