import msgspec
import pytest

from pipeline.bus.memory import MemoryBus
from pipeline.bus.protocol import Outgoing, Record, TopicSpec
from pipeline.client.dead_letters import DeadLetters, Letter, NotReplayable, Selection
from pipeline.errors import BusError, InputError
from pipeline.runtime.publisher import Publisher
from pipeline.telemetry.metrics import Metrics
from schemas import cloudevents, topics
from schemas.audio import AudioChunk, CallEnded, CallStarted
from schemas.calls import CallRef
from schemas.status import DEAD_LETTER_TYPE, MAX_LETTER_BYTES, RESOLVED_TYPE, DeadLetter, LetterResolved
from stages.errors import RejectedInput

CALL = CallRef("default", "call-1")
ALL = Selection()


class Scene:
    """A bus with records on it, some of them rejected."""

    def __init__(self) -> None:
        self.bus = MemoryBus(partitions=4)

    async def record(
        self,
        *,
        topic: str = topics.AUDIO,
        call: CallRef = CALL,
        seq: int = 1,
        value: bytes = b"\0\1",
        partition: int = 3,
    ) -> Record:
        headers, data = cloudevents.encode_audio_event(AudioChunk(data=value), call=call, seq=seq, source="/pbx")
        event_id = f"{headers['ce_id']}/{topic}/{partition}"
        await self.bus.publish(
            Outgoing(topic, key=call.key, value=data, event_id=event_id, headers=headers), partition=partition
        )
        return (await self.held(topic))[-1]

    async def rejected(self, record: Record, *, stage: str = "separate", why: str = "no start") -> Record:
        publisher = Publisher(self.bus, stage=stage, lane="live", metrics=Metrics())
        await publisher.reject(record, None, RejectedInput(why), attempts=1)
        return record

    async def letters(self) -> DeadLetters:
        return await DeadLetters.read(self.bus, clock=lambda: 1000.0)

    async def only(self) -> Letter:
        [letter] = (await self.letters()).select(ALL, resolved=True)
        return letter

    async def held(self, topic: str) -> list[Record]:
        """In the order of partitions; within one as stored."""
        return [record async for record in self.bus.stored(topic)]


def content(record: Record) -> tuple[object, ...]:
    return record.topic, record.partition, record.key, record.value, dict(record.headers)


async def test_a_replayed_record_is_on_its_topic_again_as_it_was() -> None:
    scene = Scene()
    record = await scene.rejected(await scene.record())
    letters = await scene.letters()
    await letters.replay(await scene.only())
    first, again = await scene.held(topics.AUDIO)
    assert content(first) == content(again) == content(record)
    letter = await scene.only()
    assert (letter.letter_id, letter.state) == ("separate/calls.audio/3/0", "replayed")
    assert (await scene.letters()).select(ALL) == []


async def test_a_resolution_lies_behind_its_letter() -> None:
    scene = Scene()
    await scene.rejected(await scene.record())
    await (await scene.letters()).replay(await scene.only())
    letter, resolution = await scene.held(topics.DEAD_LETTERS)
    assert (letter.partition, letter.key) == (resolution.partition, resolution.key)
    assert resolution.headers["ce_type"] == RESOLVED_TYPE
    assert msgspec.json.decode(resolution.value, type=LetterResolved) == LetterResolved(
        letter_id="separate/calls.audio/3/0", position=letter.position, action="replayed", at=1000.0
    )


async def test_a_dropped_letter_is_deleted_and_a_note_of_it_stays() -> None:
    scene = Scene()
    await scene.rejected(await scene.record())
    [letter] = await scene.held(topics.DEAD_LETTERS)
    about = msgspec.json.decode(letter.value, type=DeadLetter)
    await (await scene.letters()).drop(await scene.only())
    [note] = await scene.held(topics.DEAD_LETTERS)
    assert (note.partition, note.key, note.headers["ce_type"]) == (letter.partition, letter.key, RESOLVED_TYPE)
    assert msgspec.json.decode(note.value, type=LetterResolved) == LetterResolved(
        letter_id="separate/calls.audio/3/0",
        position=letter.position,
        action="dropped",
        at=1000.0,
        letter=msgspec.structs.replace(about, value=b""),
    )
    assert (await scene.letters()).select(ALL) == []
    assert (await scene.only()).state == "dropped"


async def test_letters_are_dropped_although_the_store_is_full() -> None:
    scene = Scene()
    record = await scene.record(value=bytes(20_000))
    spec = TopicSpec(name=topics.DEAD_LETTERS, partitions=4, retention_s=0, max_bytes=27_500)
    await scene.bus.ensure_topics([spec])
    await scene.rejected(record)
    [state] = await scene.bus.describe((topics.DEAD_LETTERS,))
    assert state.size_bytes is not None
    assert state.size_bytes > 27_000, "there is no room for a note"
    await (await scene.letters()).drop(await scene.only())
    [state] = await scene.bus.describe((topics.DEAD_LETTERS,))
    assert state.size_bytes is not None
    assert state.size_bytes < 2_000
    assert (await scene.only()).state == "dropped"


async def test_an_interrupted_replay_is_done_again_and_puts_the_record_back_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = Scene()
    await scene.rejected(await scene.record())
    letters, publish = await scene.letters(), scene.bus.publish

    async def fail_on_letters(record: Outgoing, *, partition: int | None = None) -> None:
        if record.topic == topics.DEAD_LETTERS:
            raise BusError("gone")
        await publish(record, partition=partition)

    monkeypatch.setattr(scene.bus, "publish", fail_on_letters)
    with pytest.raises(BusError):
        await letters.replay(await scene.only())
    monkeypatch.undo()
    assert (await scene.only()).state == "open"
    await (await scene.letters()).replay(await scene.only())
    assert (await scene.only()).state == "replayed"
    assert len(await scene.held(topics.AUDIO)) == 2


async def test_a_letter_that_is_stored_again_after_its_replay_is_open_again() -> None:
    scene = Scene()
    await scene.rejected(await scene.record())
    await (await scene.letters()).replay(await scene.only())
    [stored, _] = await scene.held(topics.DEAD_LETTERS)
    await scene.bus.publish(
        Outgoing(topics.DEAD_LETTERS, key=stored.key, value=stored.value, event_id="again", headers=stored.headers)
    )
    assert (await scene.only()).state == "open"
    await (await scene.letters()).drop(await scene.only())
    assert (await scene.only()).state == "dropped"


async def test_a_record_that_fails_again_is_a_letter_of_its_own() -> None:
    scene = Scene()
    await scene.rejected(await scene.record())
    await (await scene.letters()).replay(await scene.only())
    [_, again] = await scene.held(topics.AUDIO)
    await scene.rejected(again)
    assert [one.letter_id for one in (await scene.letters()).select(ALL)] == ["separate/calls.audio/3/1"]


async def test_a_repeated_letter_shows_once() -> None:
    scene = Scene()
    await scene.rejected(await scene.record())
    [stored] = await scene.held(topics.DEAD_LETTERS)
    for number in range(3):
        await scene.bus.publish(
            Outgoing(
                topics.DEAD_LETTERS, key=stored.key, value=stored.value, event_id=str(number), headers=stored.headers
            )
        )
    assert (await scene.only()).position == 3


async def test_a_dropped_letter_can_be_replayed_by_its_id() -> None:
    scene = Scene()
    await scene.rejected(await scene.record())
    await (await scene.letters()).drop(await scene.only())
    for count in (2, 3):
        letters = await scene.letters()
        [letter] = letters.select(Selection(ids=frozenset({"separate/calls.audio/3/0"})), resolved=True)
        await letters.replay(letter)
        assert len(await scene.held(topics.AUDIO)) == count
    with pytest.raises(InputError, match=r"no dead letter 'separate/calls\.audio/3/7'"):
        letters.select(Selection(ids=frozenset({"separate/calls.audio/3/7"})))


async def test_a_value_that_was_cut_is_read_from_the_record_s_origin() -> None:
    scene = Scene()
    value = bytes(range(256)) * (MAX_LETTER_BYTES // 200)
    record = await scene.rejected(await scene.record(value=value))
    letters = await scene.letters()
    assert len((await letters.stored(await scene.only())).value) == MAX_LETTER_BYTES
    assert (await letters.whole(await scene.only())).value == value
    await letters.replay(await scene.only())
    first, again = await scene.held(topics.AUDIO)
    assert content(first) == content(again) == content(record)


@pytest.mark.parametrize("there", [None, b"another value of some other topic that was made anew"])
async def test_a_cut_value_whose_origin_is_gone_is_not_replayed(there: bytes | None) -> None:
    lost, scene = Scene(), Scene()
    await lost.rejected(await lost.record(value=bytes(MAX_LETTER_BYTES + 1)))
    [stored] = await lost.held(topics.DEAD_LETTERS)
    await scene.bus.ensure_topics([TopicSpec(name=topics.AUDIO, partitions=4, retention_s=60)])
    if there is not None:
        await scene.record(value=there)
    await scene.bus.publish(
        Outgoing(topics.DEAD_LETTERS, key=stored.key, value=stored.value, event_id="x", headers=stored.headers)
    )
    before = len(await scene.held(topics.AUDIO))
    with pytest.raises(NotReplayable, match=r"640000 of 640001 bytes of the value, and calls\.audio no longer holds"):
        await (await scene.letters()).replay(await scene.only())
    assert (await scene.only()).state == "open"
    assert len(await scene.held(topics.AUDIO)) == before


async def test_letters_are_selected_by_what_they_are_about() -> None:
    scene = Scene()
    other = CallRef("acme", "call-2")
    await scene.rejected(await scene.record(seq=1), why="The Start is missing")
    await scene.rejected(await scene.record(seq=2, topic=topics.AUDIO_BATCH))
    await scene.rejected(await scene.record(call=other, seq=0, topic=topics.STATUS), stage="sink")
    letters = await scene.letters()

    def found(**wanted: str) -> list[str]:
        return [one.letter_id for one in letters.select(Selection(**wanted))]  # type: ignore[arg-type]

    first, second, third = (
        "separate/calls.audio/3/0",
        "separate/calls.audio.batch/3/0",
        "sink/calls.status/3/0",
    )
    assert found() == [third, first, second]
    assert found(call="call-1") == found(tenant="default") == found(stage="separate") == [first, second]
    assert found(call="call-2") == found(tenant="acme") == found(topic=topics.STATUS) == [third]
    assert found(error="start is missing") == [first]
    assert found(error="RejectedInput", topic=topics.AUDIO_BATCH) == [second]
    assert found(error="Rejected") == []


async def test_letters_of_a_call_come_in_the_call_s_order() -> None:
    scene = Scene()
    for seq in (7, 3, 10, 1):
        await scene.rejected(await scene.record(seq=seq))
    assert [one.seq for one in (await scene.letters()).select(ALL)] == [1, 3, 7, 10]


async def test_the_call_of_a_structured_event_is_known() -> None:
    scene = Scene()
    event = {
        "specversion": "1.0",
        "id": "x",
        "source": "/pbx",
        "type": "callstream.call.ended",
        "subject": "call-9",
        "tenant": "acme",
        "callseq": 12,
        "data": {"events": 13},
    }
    headers = {"content-type": "application/cloudevents+json"}
    await scene.bus.publish(
        Outgoing(topics.AUDIO, key=b"call-9", value=msgspec.json.encode(event), event_id="x", headers=headers)
    )
    [record] = await scene.held(topics.AUDIO)
    await scene.rejected(record)
    letter = await scene.only()
    assert (letter.call, letter.seq) == (CallRef("acme", "call-9"), 12)


@pytest.mark.parametrize(
    ("key", "headers", "call", "seq"),
    [
        (b"call-1", {}, CALL, None),
        (b"\xff", {}, None, None),
        (b"\xff", {"ce_subject": "call-1"}, None, None),
        (b"call-1", {"ce_subject": "call-2", "ce_tenant": "acme"}, CallRef("acme", "call-2"), None),
        (b"call-1", {"ce_callseq": "9" * 5000}, CALL, None),
        (b"call-1", {"ce_callseq": "-1"}, CALL, None),
        (b"call-1", {"ce_callseq": "5"}, CALL, 5),
    ],
)
async def test_the_call_of_an_event_that_cannot_be_read_is_what_it_says(
    key: bytes, headers: dict[str, str], call: CallRef | None, seq: int | None
) -> None:
    scene = Scene()
    await scene.bus.publish(Outgoing(topics.AUDIO, key=key, value=b"\xff", event_id="x", headers=headers))
    [record] = await scene.held(topics.AUDIO)
    await scene.rejected(record)
    letter = await scene.only()
    assert (letter.call, letter.seq) == (call, seq)


async def test_what_a_stage_would_pass_over_is_refused() -> None:
    scene = Scene()
    records = [await scene.record(topic=topics.UTTERANCES, seq=seq) for seq in range(6)]
    for record in records[2:4]:
        await scene.rejected(record, stage="transcribe")
    letters = await scene.letters()
    for letter in letters.select(ALL):
        with pytest.raises(NotReplayable, match=rf"record {letter.seq} of its call, and transcribe has taken record 4"):
            await letters.replay(letter)
    assert len(await scene.held(topics.UTTERANCES)) == 6


async def test_the_last_records_of_a_call_go_to_their_stage_again_in_order() -> None:
    scene = Scene()
    records = [await scene.record(topic=topics.UTTERANCES, seq=seq) for seq in range(6)]
    for record in reversed(records[2:]):
        await scene.rejected(record, stage="transcribe")
    letters = await scene.letters()
    for letter in letters.select(Selection(call="call-1")):
        await letters.replay(letter)
    numbers = [record.headers["ce_callseq"] for record in await scene.held(topics.UTTERANCES)]
    assert numbers == ["0", "1", "2", "3", "4", "5", "2", "3", "4", "5"]
    [first, *_] = (await scene.letters()).select(ALL, resolved=True)
    with pytest.raises(NotReplayable, match="has taken record 3"):
        await (await scene.letters()).replay(first)


async def test_another_call_of_the_same_partition_does_not_count_as_later() -> None:
    scene = Scene()
    await scene.rejected(await scene.record(topic=topics.SEGMENTS, seq=1), stage="merge")
    await scene.record(topic=topics.SEGMENTS, call=CallRef("default", "call-2"), seq=9)
    await scene.record(topic=topics.SEGMENTS, seq=9, partition=1)
    await (await scene.letters()).replay(await scene.only())


async def test_the_sink_takes_a_record_again_though_it_had_later_ones() -> None:
    scene = Scene()
    first = await scene.record(topic=topics.SUMMARIES, seq=0)
    await scene.record(topic=topics.SUMMARIES, seq=1)
    await scene.rejected(first, stage="sink")
    await (await scene.letters()).replay(await scene.only())
    assert len(await scene.held(topics.SUMMARIES)) == 3


async def test_what_is_no_letter_is_passed_over() -> None:
    scene = Scene()
    await scene.rejected(await scene.record())
    for number, (event_type, value) in enumerate(
        [(DEAD_LETTER_TYPE, b"{}"), (RESOLVED_TYPE, b"?"), ("a.later.type", b"{}"), ("", b"")]
    ):
        headers = {"ce_type": event_type, "ce_id": str(number)}
        await scene.bus.publish(
            Outgoing(topics.DEAD_LETTERS, key=b"k", value=value, event_id=str(number), headers=headers)
        )
    assert (await scene.only()).letter_id == "separate/calls.audio/3/0"


def test_a_letter_of_before_it_said_whether_it_is_cut_is_read() -> None:
    letter = DeadLetter(
        stage="sink",
        topic="t",
        partition=0,
        position=0,
        key=b"k",
        value=b"v",
        value_bytes=1,
        headers={},
        error="E",
        message="m",
        attempts=1,
        at=1.0,
    )
    earlier = msgspec.to_builtins(letter)
    del earlier["cut"]
    assert msgspec.json.decode(msgspec.json.encode(earlier), type=DeadLetter) == letter


@pytest.mark.parametrize("event", [CallStarted(encoding="mulaw", sample_rate_hz=8000, channels=1), CallEnded(events=1)])
async def test_starts_and_ends_are_put_back_too(event: CallStarted | CallEnded) -> None:
    scene = Scene()
    headers, value = cloudevents.encode_audio_event(event, call=CALL, seq=0, source="/pbx")
    await scene.bus.publish(Outgoing(topics.AUDIO, key=b"call-1", value=value, event_id="x", headers=headers))
    [record] = await scene.held(topics.AUDIO)
    await scene.rejected(record)
    await (await scene.letters()).replay(await scene.only())
    first, again = await scene.held(topics.AUDIO)
    assert content(first) == content(again) == content(record)
