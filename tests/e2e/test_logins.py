"""Logins to the embedded server: what owner, producers and viewers may do, with a plain client on a real server."""

import asyncio
import contextlib
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import nats
import nats.errors
import pytest

from pipeline.bus.nats.logins import PRODUCER_INBOX, Logins
from pipeline.bus.nats.server import NatsServer
from pipeline.bus.opening import open_bus
from pipeline.bus.protocol import Bus
from pipeline.bus.security import BusSecurity
from pipeline.errors import ConfigurationError
from pipeline.runtime.decoding import stage_records
from pipeline.settings import Settings
from pipeline.wiring import topology
from pipeline.wiring.embedded_bus import embedded_logins, embedded_server
from schemas.utterances import CallProgress
from stages.errors import RejectedInput

CHANGE_WITHIN_S = 10.0
DENIED = "permissions violation"


class Guest:
    """A connection of a plain client, and what the server refused it."""

    def __init__(self) -> None:
        self.refusals: list[str] = []
        self.gone = asyncio.Event()
        self.client: Any = None

    async def note(self, error: Exception) -> None:
        self.refusals.append(str(error))

    async def leave(self) -> None:
        self.gone.set()

    async def refused(self) -> bool:
        """Return True if the server refused something since the last call."""
        await self.client.flush()
        await asyncio.sleep(0.05)
        found, self.refusals[:] = any(DENIED in said for said in self.refusals), []
        return found


@contextlib.asynccontextmanager
async def guest(url: str, seed: Path, **options: Any) -> AsyncIterator[Guest]:
    made = Guest()
    made.client = nats.NATS()
    try:
        await made.client.connect(
            url,
            nkeys_seed=str(seed),
            allow_reconnect=False,
            max_reconnect_attempts=0,
            error_cb=made.note,
            closed_cb=made.leave,
            **options,
        )
        yield made
    finally:
        with contextlib.suppress(OSError):  # the server may have cut it off
            await made.client.close()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    settings = Settings(data=tmp_path, store_gb=0.5)
    server = embedded_server(settings)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
def logins(tmp_path: Path, server: NatsServer) -> Logins:
    found = embedded_logins(Settings(data=tmp_path))
    assert found is not None
    return found


@pytest.fixture
async def bus(server: NatsServer, logins: Logins) -> AsyncIterator[Bus]:
    """The stages' connection."""
    bus = await open_bus(server.url, BusSecurity(credentials=logins.owner))
    await bus.ensure_topics(topology.topic_specs(partitions=2, retention_days=1, store_bytes=10**8))
    yield bus
    await bus.close()


async def test_who_has_no_login_is_refused_at_once(server: NatsServer) -> None:
    with pytest.raises(ConfigurationError, match="rejects these credentials"):
        await open_bus(server.url, BusSecurity())


async def test_a_key_that_the_server_does_not_know_is_refused(server: NatsServer, tmp_path: Path) -> None:
    other = Logins(tmp_path / "other")
    other.prepare()
    with pytest.raises(ConfigurationError, match="rejects these credentials"):
        await open_bus(server.url, BusSecurity(credentials=other.owner))


@pytest.mark.usefixtures("bus")
async def test_a_producer_sends_audio_in_both_lanes_and_is_acknowledged(server: NatsServer, logins: Logins) -> None:
    async with guest(server.url, logins.producer, inbox_prefix=PRODUCER_INBOX) as producer:
        js = producer.client.jetstream()
        assert (await js.publish("calls.audio.Y2FsbA", b"x")).seq == 1
        assert (await js.publish("calls.audio_batch.Y2FsbA", b"x")).seq == 1
        assert not await producer.refused()


@pytest.mark.usefixtures("bus")
async def test_a_producer_may_publish_nothing_else(server: NatsServer, logins: Logins) -> None:
    async with guest(server.url, logins.producer, inbox_prefix=PRODUCER_INBOX) as producer:
        for subject in (
            "calls.audio.0.Y2FsbA",
            "calls.utterances.0.Y2FsbA",
            "calls.status.0.Y2FsbA",
            "live.default.call",
            "$JS.API.STREAM.NAMES",
            "$JS.API.STREAM.PURGE.calls-audio",
            "$KV.leases.separate",
        ):
            await producer.client.publish(subject, b"{}")
            assert await producer.refused(), subject


async def test_the_reply_subject_of_a_producer_commands_nothing(server: NatsServer, logins: Logins, bus: Bus) -> None:
    """The server publishes the acknowledgement to any subject that the producer names."""
    async with (
        guest(server.url, logins.owner) as owner,
        guest(server.url, logins.producer, inbox_prefix=PRODUCER_INBOX) as producer,
    ):
        owners, audio = owner.client.jetstream(), producer.client.jetstream()
        await owners.add_consumer("calls-audio", durable_name="separate_0", ack_policy="all")
        for _ in range(5):
            await audio.publish("calls.audio.Y2FsbA", b"x")
        before = (await owners.stream_info("calls-audio")).config
        commands = [f"STREAM.{what}.calls-audio" for what in ("PURGE", "DELETE", "UPDATE", "MSG.DELETE", "RESTORE")]
        commands += [
            f"CONSUMER.{what}.calls-audio.separate_0" for what in ("RESET", "PAUSE", "DELETE", "CREATE", "MSG.NEXT")
        ]
        for command in commands:
            await producer.client.publish("calls.audio.Y2FsbA", b"x", reply=f"$JS.API.{command}")
        await producer.client.publish("calls.audio.Y2FsbA", b"x", reply="calls.utterances.0.Y2FsbA")
        await producer.client.flush()
        await asyncio.sleep(0.5)
        stream = await owners.stream_info("calls-audio")
        assert (stream.state.messages, stream.state.first_seq) == (5 + len(commands) + 1, 1)
        assert stream.config == before
        [consumer] = await owners.consumers_info("calls-audio")
        assert (consumer.num_pending, consumer.ack_floor.stream_seq) == (16, 0)
        assert not consumer.paused
        [junk] = [record async for record in bus.stored("calls.utterances")]
    with pytest.raises(RejectedInput, match="not a stage record"):
        stage_records(CallProgress)(junk)


@pytest.mark.usefixtures("bus")
async def test_a_producer_may_listen_to_nobody_else(server: NatsServer, logins: Logins) -> None:
    async with guest(server.url, logins.producer, inbox_prefix=PRODUCER_INBOX) as producer:
        for subject in (">", "*.>", "calls.>", "calls.audio.>", "live.>", "_INBOX.>", "$JS.>"):
            await producer.client.subscribe(subject)
            assert await producer.refused(), subject


async def test_a_viewer_sees_the_calls_of_its_tenant_alone(server: NatsServer, logins: Logins) -> None:
    path = logins.add_viewer("bank.nk")  # a name that a subject cannot hold
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    seen: list[str] = []

    async def see(message: Any) -> None:
        seen.append(message.subject)

    async with guest(server.url, logins.owner) as owner:
        viewer = await once_known(server.url, path)
        async with viewer as view:
            await view.client.subscribe("live.=YmFuay5uaw.>", cb=see)
            assert not await view.refused()
            for subject in ("live.>", "live.*.call", "live.shop.>", "calls.>", "_INBOX.>", ">"):
                await view.client.subscribe(subject, cb=see)
                assert await view.refused(), subject
            for subject in ("calls.audio.Y2FsbA", "live.=YmFuay5uaw.call", "$JS.API.INFO"):
                await view.client.publish(subject, b"")
                assert await view.refused(), subject
            for subject in ("live.=YmFuay5uaw.call", "live.shop.call", "calls.transcripts.0.Y2FsbA"):
                await owner.client.publish(subject, b"")
            await owner.client.flush()
            await view.client.flush()
            assert seen == ["live.=YmFuay5uaw.call"]


async def once_known(url: str, path: Path) -> contextlib.AbstractAsyncContextManager[Guest]:
    """Return a connection with a login that was just made, once the server lets it in."""
    deadline = asyncio.get_running_loop().time() + CHANGE_WITHIN_S
    while True:
        try:
            async with guest(url, path):
                return guest(url, path)
        except (nats.errors.Error, OSError):  # it may cut off the client before that has read the refusal
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.2)


async def test_a_removed_login_is_cut_off_and_the_others_stay_connected(
    server: NatsServer, logins: Logins, bus: Bus
) -> None:
    path = logins.add_viewer("bank")
    async with (
        await once_known(server.url, path) as viewer,
        guest(server.url, logins.producer, inbox_prefix=PRODUCER_INBOX) as producer,
    ):
        path.unlink()
        async with asyncio.timeout(CHANGE_WITHIN_S):
            await viewer.gone.wait()
        assert (await producer.client.jetstream().publish("calls.audio.Y2FsbA", b"x")).seq == 1
        assert not producer.gone.is_set()
        assert len(await bus.describe(("calls.audio",))) == 1


async def test_a_removed_producer_s_login_is_replaced(server: NatsServer, logins: Logins) -> None:
    old = logins.producer.read_text()
    async with guest(server.url, logins.producer, inbox_prefix=PRODUCER_INBOX) as producer:
        logins.producer.unlink()
        async with asyncio.timeout(CHANGE_WITHIN_S):
            await producer.gone.wait()
    async with guest(server.url, logins.producer, inbox_prefix=PRODUCER_INBOX):
        assert logins.producer.read_text() != old


async def test_logins_are_kept_over_a_restart(server: NatsServer, logins: Logins) -> None:
    before = logins.owner.read_text(), logins.producer.read_text()
    await server.stop()
    await server.start()
    async with guest(server.url, logins.owner):
        assert before == (logins.owner.read_text(), logins.producer.read_text())


async def test_a_damaged_login_ends_the_start_with_its_name(server: NatsServer, logins: Logins) -> None:
    await server.stop()
    logins.producer.write_text("nothing\n")
    with pytest.raises(ConfigurationError, match=r"producer\.nk holds no NKey seed"):
        await server.start()


async def test_a_damaged_login_of_a_viewer_keeps_nobody_else_out(server: NatsServer, logins: Logins) -> None:
    (logins.owner.parent / "viewer-bank.nk").write_text("nothing\n")
    async with await once_known(server.url, logins.add_viewer("shop")), guest(server.url, logins.owner) as owner:
        assert not owner.gone.is_set()
    await server.stop()
    await server.start()
    async with guest(server.url, logins.owner):
        assert server.restarts == 0


async def test_with_auth_off_a_plain_client_is_let_in(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path, store_gb=0.5, bus_auth="off")
    assert embedded_logins(settings) is None
    server = embedded_server(settings)
    url = await server.start()
    try:
        client = await nats.connect(url, allow_reconnect=False)
        assert await client.jetstream().streams_info() == []
        await client.close()
    finally:
        await server.stop()
    assert not (tmp_path / "credentials").exists()


async def test_the_server_s_configuration_holds_no_secret(server: NatsServer, logins: Logins) -> None:
    config = next(logins.owner.parent.parent.glob("*/nats-server.conf")).read_text()
    assert '"nkey": "U' in config
    for login in logins.all():
        assert login.path.read_text().strip() not in config
