"""TLS and credentials with real NATS servers: which clients get in, and that a refusal is reported at once."""

import asyncio
import time
from pathlib import Path
from secrets import token_hex

import msgspec
import pytest

from pipeline.bus.nats.bus import JetStreamBus
from pipeline.bus.protocol import Outgoing, TopicSpec
from pipeline.bus.security import BusSecurity
from pipeline.errors import BusError, ConfigurationError
from pipeline.secret import Secret
from tests.support.brokers.certificates import Authority
from tests.support.brokers.nats import NatsProcess
from tests.support.brokers.nats_accounts import Operator

TOPIC = TopicSpec(name="calls.utterances", partitions=2, retention_s=3600)
USER = {"authorization": {"user": "branch", "password": "hunter2"}}
BRANCH = BusSecurity(user="branch", password=Secret("hunter2"))


async def stores(url: str, security: BusSecurity | None = None) -> None:
    """Connect, store a record, and check that it arrives."""
    bus = JetStreamBus(url, security=security)
    await bus.connect()
    try:
        await bus.ensure_topics([TOPIC])
        feed = await bus.follow((TOPIC.name,))
        await bus.publish(Outgoing(TOPIC.name, key=b"call", value=b"audio", event_id=token_hex(4)))
        assert (await anext(feed)).value == b"audio"
        await feed.close()
    finally:
        await bus.close()


async def refused(url: str, security: BusSecurity | None = None) -> str:
    """Return the text of the error, which must come at once, before a lost broker is given up."""
    bus = JetStreamBus(url, security=security, reconnect_s=30.0)
    began = time.monotonic()
    with pytest.raises(ConfigurationError) as raised:
        await bus.connect()
    assert time.monotonic() - began < 5
    return str(raised.value)


async def test_a_user_with_the_right_password_gets_in(tmp_path: Path) -> None:
    with NatsProcess(tmp_path, USER) as server:
        await stores(server.url, BRANCH)


async def test_a_wrong_password_is_refused_at_once_and_not_shown(tmp_path: Path) -> None:
    with NatsProcess(tmp_path, USER) as server:
        said = await refused(server.url, BusSecurity(user="branch", password=Secret("hunter3")))
        assert said == f"the NATS server at {server.url} refuses: it rejects these credentials"
        assert "rejects these credentials" in await refused(server.url)


async def test_a_user_with_a_credentials_file_gets_in(tmp_path: Path) -> None:
    operator = Operator()
    with NatsProcess(tmp_path / "nats", operator.settings) as server:
        await stores(server.url, BusSecurity(credentials=operator.user(tmp_path / "branch.creds")))


async def test_credentials_that_the_server_rejects_are_an_error_at_once(tmp_path: Path) -> None:
    operator = Operator()
    with NatsProcess(tmp_path / "nats", operator.settings) as server:
        strangers = Operator().user(tmp_path / "stranger.creds")
        assert "rejects these credentials" in await refused(server.url, BusSecurity(credentials=strangers))
        late = operator.user(tmp_path / "late.creds", expired=True)
        assert "refuses" in await refused(server.url, BusSecurity(credentials=late))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (("BEGIN NATS USER JWT", "BEGIN NATS USER"), "holds no user token"),
        (("BEGIN USER NKEY SEED", "END"), "holds no user token"),
        (("SEED-----\nSU", "SEED-----\nSU\n"), "is damaged"),
    ],
)
async def test_a_damaged_credentials_file_is_named_and_its_seed_is_not_shown(
    tmp_path: Path, damage: tuple[str, str], words: str
) -> None:
    path = Operator().user(tmp_path / "branch.creds")
    text = path.read_text()
    seed = next(line for line in text.splitlines() if line.startswith("SU"))
    path.write_text(text.replace(*damage))
    said = await refused("nats://127.0.0.1:1", BusSecurity(credentials=path))
    assert words in said
    assert str(path) in said
    assert seed[4:] not in said


async def test_a_server_with_tls_is_trusted_by_its_authority(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    cert, key = authority.issue("server")
    with NatsProcess(tmp_path / "nats", {"tls": {"cert_file": str(cert), "key_file": str(key)}}) as server:
        await stores(server.url, BusSecurity(tls=True, ca_file=authority.ca_file))
        await stores(f"tls://{server.address}", BusSecurity(ca_file=authority.ca_file))


async def test_a_server_of_an_unknown_authority_is_refused_at_once(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path / "authority"), Authority(tmp_path / "other")
    cert, key = authority.issue("server")
    with NatsProcess(tmp_path / "nats", {"tls": {"cert_file": str(cert), "key_file": str(key)}} | USER) as server:
        for ca_file in (other.ca_file, None):
            said = await refused(f"tls://{server.address}", BusSecurity(ca_file=ca_file))
            assert "its certificate is not trusted: " in said
            assert "certificate" in said


async def test_a_certificate_for_another_address_is_refused_at_once(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    cert, key = authority.issue("server", address="127.0.0.2")
    with NatsProcess(tmp_path / "nats", {"tls": {"cert_file": str(cert), "key_file": str(key)}}) as server:
        said = await refused(f"tls://{server.address}", BusSecurity(ca_file=authority.ca_file))
        assert "IP address mismatch" in said


async def test_a_client_is_known_by_its_certificate(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path / "authority"), Authority(tmp_path / "other")
    cert, key = authority.issue("server")
    tls = {"cert_file": str(cert), "key_file": str(key), "ca_file": str(authority.ca_file), "verify": True}
    with NatsProcess(tmp_path / "nats", {"tls": tls}) as server:
        url = f"tls://{server.address}"
        mine, mine_key = authority.issue("branch")
        await stores(url, BusSecurity(ca_file=authority.ca_file, cert_file=mine, key_file=mine_key))
        both = tmp_path / "both.pem"
        both.write_text(mine_key.read_text() + mine.read_text())
        await stores(url, BusSecurity(ca_file=authority.ca_file, cert_file=both))
        assert "requires a client certificate" in await refused(url, BusSecurity(ca_file=authority.ca_file))
        theirs, theirs_key = other.issue("stranger")
        said = await refused(url, BusSecurity(ca_file=authority.ca_file, cert_file=theirs, key_file=theirs_key))
        assert "client certificate" in said


async def test_nothing_is_sent_to_a_server_that_does_not_speak_tls(tmp_path: Path) -> None:
    heard = bytearray()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"x","version":"2.14.0","max_payload":1000,"auth_required":true}\r\n')
        heard.extend(await reader.read())
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        assert "does not offer it" in await refused(f"tls://127.0.0.1:{port}", BRANCH)
    assert not heard


@pytest.mark.parametrize("broken", ["ca_file", "cert_file", "key_file", "credentials"])
async def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, broken: str) -> None:
    authority = Authority(tmp_path / "authority")
    cert, key = authority.issue("branch")
    missing = tmp_path / "missing.pem"
    security = BusSecurity(ca_file=authority.ca_file, cert_file=cert, key_file=key)
    said = await refused("tls://127.0.0.1:1", msgspec.structs.replace(security, **{broken: missing}))
    assert str(missing) in said
    assert "No such file" in said


async def test_a_server_that_refuses_later_on_is_retried(tmp_path: Path) -> None:
    server = NatsProcess(tmp_path, USER)
    with server:
        bus = JetStreamBus(server.url, security=BRANCH, reconnect_s=10.0)
        await bus.connect()
        await bus.ensure_topics([TOPIC])
        server.kill()
        server.settings["authorization"] = {"user": "branch", "password": "changed"}
        server.start()
        publishing = asyncio.create_task(bus.publish(Outgoing(TOPIC.name, key=b"call", value=b"x", event_id="1")))
        done, _ = await asyncio.wait({publishing}, timeout=1.5)
        assert not done
        server.kill()
        server.settings |= USER
        server.start()
        await publishing
        await bus.close()


async def test_a_lasting_refusal_is_the_reason_of_the_bus_error(tmp_path: Path) -> None:
    with NatsProcess(tmp_path, USER) as server:
        bus = JetStreamBus(server.url, security=BRANCH, reconnect_s=1.0)
        await bus.connect()
        server.kill()
        server.settings["authorization"] = {"user": "branch", "password": "changed"}
        server.start()
        with pytest.raises(BusError, match="rejects these credentials"):
            await bus.ensure_topics([TOPIC])
        await bus.close()
