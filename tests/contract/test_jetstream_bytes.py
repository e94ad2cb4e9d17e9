"""Bytes that no client library sends: a producer that writes NATS's protocol itself, well or badly."""

import asyncio
import random
import socket
from collections.abc import Iterable

import pytest

from pipeline.bus.nats.bus import JetStreamBus
from pipeline.bus.nats.subjects import NO_PARTITION
from pipeline.bus.protocol import Outgoing, Subscription, TopicSpec
from tests.contract.brokers import JetStreamBroker
from tests.contract.conftest import Running
from tests.contract.recorder import Recorder

AUDIO = "calls.audio"
LETTERS = "calls.dead-letters"
SEED = 14
ODD_BYTES = b"\x01\x0b\x0c\r\x1c\x1f\x85\xa0"
"""Some library takes each for a space or the end of a line; to the server they are part of a subject. 0x7f is left out:
nats-server 2.15.1 has no such subject in its index, and delivers such a record with later ones alone."""
READ = Subscription(group="separate", topics=(AUDIO,))


def published(subject: bytes, value: bytes, header: bytes = b"") -> bytes:
    """One publish as it is on the wire; `header` with its first line."""
    if not header:
        return b"PUB %b %d\r\n%b\r\n" % (subject, len(value), value)
    return b"HPUB %b %d %d\r\n%b%b\r\n" % (subject, len(header), len(header) + len(value), header, value)


def send(url: str, publishes: Iterable[bytes]) -> int:
    """Publish on a socket and return how many the server took: one that it refuses ends the connection."""
    host, port = url.removeprefix("nats://").split(":")
    sent = 0
    waiting = list(publishes)
    while waiting:
        with socket.create_connection((host, int(port)), timeout=5) as client:
            client.recv(4096)
            client.sendall(b'CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true}\r\n')
            while waiting:
                client.sendall(waiting.pop(0) + b"PING\r\n")
                if b"PONG" not in client.recv(4096):
                    break
                sent += 1
    return sent


async def bus_with_audio(broker: JetStreamBroker) -> JetStreamBus:
    bus = await broker.bus()
    await bus.ensure_topics([TopicSpec(name=AUDIO, partitions=1, retention_s=3600)])
    return bus


@pytest.mark.parametrize(
    "publish",
    [
        published(b"calls.audio.caf\xe9-17", b"latin-1"),
        published(b"calls.audio.\xff\xfe", b"no text at all"),
        published(b"calls.audio.Q\x0cQ", b"form feed"),
        published(b"calls.audio.Q\x0bQ", b"vertical tab", b"NATS/1.0\r\nce-id: 1\r\n\r\n"),
        published(b"calls.audio.Q\x0c17", b"number"),
        published(b"calls.audio.Q\rQ", b"carriage return"),
        published(b"calls.audio.QQ", b"header", b"NATS/1.0\r\nce-id: \xff\xfe\r\n\r\n"),
        published(b"calls.audio.QQ", b"a space after the server's name", b"NATS/1.0\r\nNats-Subject : x\r\n\r\n"),
        published(b"calls.audio.QQ", b"a line in the server's name", b"NATS/1.0\r\nNats-Subject: x\ny\r\n\r\n"),
        published(b"calls.audio.QQ", b"status", b"NATS/1.0 \xff\xfe\r\n\r\n"),
        published(b"calls.audio.QQ", b"status text", b"NATS/1.0 100 \xff\xfe\r\nx: y\r\n\r\n"),
        published(b"calls.audio.QQ", b"header of two bytes", b"\r\n"),
        published(b"calls.audio.QQ", b"header of eight bytes", b"NATS/1\r\n"),
        published(b"calls.audio.QQ", b"header without names", b"NATS/1.0\r\n: \r\n:\r\n\r\n"),
    ],
)
async def test_bytes_that_no_client_sends_are_a_record_like_any_other(
    jetstream: JetStreamBroker, running: Running, publish: bytes
) -> None:
    bus = await bus_with_audio(jetstream)
    assert await asyncio.to_thread(send, jetstream.url, [publish]) == 1
    recorder = Recorder()
    async with running(bus, READ, recorder):
        await recorder.count(1)
        await bus.publish(Outgoing(AUDIO, key=b"good", value=b"after it", event_id="good/1"))
        await recorder.count(2)
    assert recorder.records[1].key == b"good"
    assert recorder.records[0].value == publish.rstrip(b"\r\n").rpartition(b"\n")[2]
    assert await bus.lag(READ) == 0


@pytest.mark.parametrize("key", [b"caf\xe9-17", *(b"Q%bQ%b" % (bytes([byte]), bytes([byte])) for byte in ODD_BYTES)])
async def test_the_bytes_of_a_subject_are_the_key(jetstream: JetStreamBroker, running: Running, key: bytes) -> None:
    bus = await bus_with_audio(jetstream)
    feed = await bus.follow((AUDIO,))
    assert await asyncio.to_thread(send, jetstream.url, [published(b"calls.audio." + key, b"")]) == 1
    recorder = Recorder()
    async with running(bus, READ, recorder):
        await recorder.count(1)
    followed = await anext(feed)
    await feed.close()
    read = await bus.read(AUDIO, recorder.records[0].partition, recorder.records[0].position)
    assert read is not None
    stored = [record async for record in bus.stored(AUDIO)]
    assert [record.key for record in (recorder.records[0], followed, read, *stored)] == [key] * 4


@pytest.mark.parametrize("partition", [b"x", b"-1", b"\xff", b"1_0", b"9" * 30])
async def test_a_record_in_no_partition_is_listed_and_followed_like_any_other(
    jetstream: JetStreamBroker, partition: bytes
) -> None:
    bus = await jetstream.bus()
    await bus.ensure_topics([TopicSpec(name=LETTERS, partitions=1, retention_s=3600)])
    feed = await bus.follow((LETTERS,))
    odd = published(b"calls.dead-letters." + partition + b".QQ", b"odd")
    assert await asyncio.to_thread(send, jetstream.url, [odd]) == 1
    await bus.publish(Outgoing(LETTERS, key=b"good", value=b"after it", event_id="good/1"))
    followed = [await anext(feed), await anext(feed)]
    await feed.close()
    for found in (followed, [record async for record in bus.stored(LETTERS)]):
        assert [(record.partition, record.key, record.value) for record in found] == [
            (NO_PARTITION, b"A", b"odd"),
            (0, b"good", b"after it"),
        ]


async def test_no_mutated_publish_ends_the_connection(jetstream: JetStreamBroker, running: Running) -> None:
    """Every mutant that the server takes arrives, and the reader's connection is the same afterwards."""
    chance = random.Random(SEED)
    bus = await bus_with_audio(jetstream)
    session = await bus._connection.session()
    sent = await asyncio.to_thread(send, jetstream.url, [mutant(chance) for _ in range(400)])
    assert sent > 100
    recorder = Recorder()
    async with running(bus, READ, recorder):
        await bus.publish(Outgoing(AUDIO, key=b"good", value=b"after them", event_id="good/1"))
        await recorder.until(lambda: any(record.key == b"good" for record in recorder.records))
    assert len(recorder.records) > sent // 2  # a mutated first token goes to no stream of ours
    assert not session.lost.is_set()


def mutant(chance: random.Random) -> bytes:
    """A publish with some bytes of its subject and header replaced by any that do not break its framing."""
    subject = bytearray(b"calls.audio.QW5ydWY")
    header = bytearray(b"NATS/1.0\r\nce-id: 1\r\nce-type: callstream.audio.chunk\r\n\r\n")
    for text, first, n_bytes in ((subject, len(b"calls.audio."), 3), (header, len(b"NATS/1.0"), 4)):
        for _ in range(chance.randrange(n_bytes)):
            at = chance.randrange(first, len(text) - 4)
            byte = chance.choice(b"\x01\x0b\x0c\x1c\x7f\x80\xc3\xe9\xff:= \t-_a9")
            if text is header or byte not in b" \t\x01":
                text[at] = byte
    return published(bytes(subject), b"\x00" * chance.randrange(50), bytes(header))
