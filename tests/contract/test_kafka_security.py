"""TLS and logins with real Kafka brokers: the whole bus works over them, and a refusal is reported at once."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.admin import CreateAclsRequest

from pipeline.bus.kafka.bus import KafkaBus
from pipeline.bus.protocol import Outgoing, Progress, Subscription, TopicSpec
from pipeline.bus.security import BusSecurity
from pipeline.errors import BusError, ConfigurationError
from pipeline.secret import Secret
from tests.contract.conftest import Running
from tests.contract.recorder import Recorder, holding
from tests.support.brokers.certificates import Authority
from tests.support.brokers.kafka import KafkaServer

IN, OUT = "calls.utterances", "calls.segments"
SUBSCRIPTION = Subscription(group="transcribe", topics=(IN,), progress_topic=OUT)
PASSWORD = "s3cret=word"
USER = ("branch", PASSWORD)

pytestmark = [pytest.mark.kafka, pytest.mark.slow]


@pytest.fixture(scope="module")
def sasl_ssl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    with KafkaServer(tmp_path_factory.mktemp("kafka"), scram_user=USER, tls=True) as server:
        server.start()
        yield server


@pytest.fixture(autouse=True)
def nothing_shows_the_password(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    caplog.set_level(logging.DEBUG)
    yield
    said = capfd.readouterr()
    for text in (said.out, said.err, caplog.text):
        assert PASSWORD not in text


def login(server: KafkaServer, password: str = PASSWORD) -> BusSecurity:
    ca_file = server.ca_file if server.tls else None
    return BusSecurity(user=USER[0], password=Secret(password), tls=server.tls, ca_file=ca_file)


@contextlib.asynccontextmanager
async def connected(server: KafkaServer, security: BusSecurity) -> AsyncIterator[KafkaBus]:
    bus = KafkaBus(server.bootstrap, security=security, reconnect_s=10.0)
    await bus.connect()
    try:
        yield bus
    finally:
        await bus.close()


async def refused(servers: str, security: BusSecurity | None = None) -> str:
    """Return the text of the error, which must come at once, before a lost broker is given up."""
    bus = KafkaBus(servers, security=security, reconnect_s=60.0)
    began = time.monotonic()
    with pytest.raises(ConfigurationError) as raised:
        await bus.connect()
    assert time.monotonic() - began < 15
    said = str(raised.value)
    assert PASSWORD not in said
    assert said.startswith(f"Kafka at {servers} refuses: ")
    return said.removeprefix(f"Kafka at {servers} refuses: ")


async def everything_works(server: KafkaServer, security: BusSecurity, running: Running) -> None:
    async with connected(server, security) as bus:
        await bus.ensure_topics([TopicSpec(name=name, partitions=2, retention_s=3600) for name in (IN, OUT)])
        feed = await bus.follow((OUT,))
        await bus.publish(Outgoing(IN, key=b"call", value=b"0", event_id="0"))
        recorder = holding()
        async with running(bus, SUBSCRIPTION, recorder):
            await recorder.count(1)
            assert await bus.lag(SUBSCRIPTION) == 1
            [partition] = [recorder.partitions[IN, record.partition] for record in recorder.records]
            for seq, size in enumerate((9, 20_000)):
                progress = Progress(seq=seq, released=seq, state=b"x" * size)
                await partition.publish(
                    Outgoing(OUT, key=b"call", value=b"%d" % seq, event_id="out"), progress=progress
                )
            recorder.ack(recorder.records[0])
        assert await bus.lag(SUBSCRIPTION) == 0
        assert (await anext(feed)).value == b"0"
        await feed.close()
        assert [record.value async for record in bus.stored(OUT)] == [b"0", b"1"]
        assert [topic.name for topic in await bus.describe((IN, OUT))] == [IN, OUT]
        await bus.publish(Outgoing(IN, key=b"call", value=b"1", event_id="1"))
        recorder = Recorder()
        async with running(bus, SUBSCRIPTION, recorder):
            await recorder.count(1)
            assert await recorder.partitions[IN, recorder.records[0].partition].progress(b"call") == progress


async def test_everything_works_with_a_login_over_tls(sasl_ssl: KafkaServer, running: Running) -> None:
    await everything_works(sasl_ssl, login(sasl_ssl), running)


@pytest.mark.parametrize(("user", "tls"), [(USER, False), (None, True)], ids=["a login alone", "TLS alone"])
async def test_everything_works_with_a_login_or_tls_alone(
    tmp_path: Path, running: Running, user: tuple[str, str] | None, tls: bool
) -> None:
    with KafkaServer(tmp_path, scram_user=user, tls=tls) as server:
        server.start()
        trusting = BusSecurity(tls=True, ca_file=server.ca_file) if tls else BusSecurity()
        await everything_works(server, login(server) if user else trusting, running)
        if user:
            assert await refused(server.bootstrap, login(server, "guessed")) == "it rejects this user name and password"
            wrong = BusSecurity(tls=True)
            assert await refused(server.bootstrap, wrong) == "TLS is on, but it does not speak TLS there"
        else:
            named = BusSecurity(user=USER[0], password=Secret(PASSWORD), tls=True, ca_file=server.ca_file)
            assert await refused(server.bootstrap, named) == "a user is set, but it accepts no logins there"


async def test_a_wrong_login_is_refused(sasl_ssl: KafkaServer) -> None:
    right = login(sasl_ssl)
    assert await refused(sasl_ssl.bootstrap, login(sasl_ssl, "guessed")) == "it rejects this user name and password"
    stranger = BusSecurity(user="stranger", password=right.password, tls=True, ca_file=right.ca_file)
    assert await refused(sasl_ssl.bootstrap, stranger) == "it rejects this user name and password"
    nobody = BusSecurity(tls=True, ca_file=right.ca_file)
    assert await refused(sasl_ssl.bootstrap, nobody) == "it requires a login (SCRAM-SHA-512), and no user is set"
    plain = BusSecurity(user=USER[0], password=right.password, tls=True, ca_file=right.ca_file, sasl="PLAIN")
    assert await refused(sasl_ssl.bootstrap, plain) == "it accepts logins by SCRAM-SHA-512, not by PLAIN"


async def test_a_broker_with_an_untrusted_certificate_is_refused(sasl_ssl: KafkaServer, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other")
    for ca_file in (other.ca_file, None):
        security = BusSecurity(user=USER[0], password=Secret(PASSWORD), tls=True, ca_file=ca_file)
        said = await refused(sasl_ssl.bootstrap, security)
        assert said.startswith("its certificate is not trusted: ")


async def test_plain_text_to_a_tls_port_is_refused_and_vice_versa(sasl_ssl: KafkaServer) -> None:
    assert await refused(sasl_ssl.bootstrap) == "TLS is off, but it speaks TLS there"
    without = BusSecurity(user=USER[0], password=Secret(PASSWORD))
    assert await refused(sasl_ssl.bootstrap, without) == "TLS is off, but it speaks TLS there"
    assert await refused(sasl_ssl.inside, login(sasl_ssl)) == "TLS is on, but it does not speak TLS there"
    assert await refused(sasl_ssl.inside, without) == "a user is set, but it accepts no logins there"


async def test_a_required_client_certificate_is_presented_or_asked_for(tmp_path: Path) -> None:
    with KafkaServer(tmp_path / "kafka", tls=True) as server:
        server.folder.mkdir(parents=True)
        authority, other = Authority(tmp_path / "clients"), Authority(tmp_path / "others")
        server.extra = {
            "ssl.client.auth": "required",
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(authority.ca_file),
        }
        server.start()
        certificate, key = authority.issue("branch")
        trusting = BusSecurity(tls=True, ca_file=server.ca_file)
        mine = BusSecurity(tls=True, ca_file=server.ca_file, cert_file=certificate, key_file=key)
        async with connected(server, mine) as bus:
            await bus.ensure_topics([TopicSpec(name=IN, partitions=1, retention_s=3600)])
        assert await refused(server.bootstrap, trusting) == "it requires a client certificate, and none is set"
        certificate, key = other.issue("stranger")
        theirs = BusSecurity(tls=True, ca_file=server.ca_file, cert_file=certificate, key_file=key)
        assert await refused(server.bootstrap, theirs) == "it does not trust the client certificate"


async def test_an_address_where_nothing_listens_is_retried_then_reported() -> None:
    began = time.monotonic()
    with pytest.raises(BusError, match=r"no Kafka broker answers at 127.0.0.1:1: .*Connect call failed"):
        await KafkaBus("127.0.0.1:1", reconnect_s=1.0).connect()
    assert time.monotonic() - began > 1
    with pytest.raises(BusError, match=r"no Kafka broker answers at nobody\.invalid:9092"):
        await KafkaBus("nobody.invalid:9092", reconnect_s=0.1).connect()


async def test_an_outage_later_on_fails_requests_until_the_broker_is_back(
    sasl_ssl: KafkaServer, running: Running
) -> None:
    async with connected(sasl_ssl, login(sasl_ssl)) as bus:
        await bus.ensure_topics([TopicSpec(name=IN, partitions=2, retention_s=3600)])
        group = Subscription(group="later", topics=(IN,))
        recorder = Recorder()
        async with running(bus, group, recorder):
            await recorder.until(lambda: len(recorder.held) == 2)
            sasl_ssl.kill()
            publishing = asyncio.create_task(bus.publish(Outgoing(IN, key=b"call", value=b"later", event_id="later")))
            with pytest.raises(BusError, match="reading the offsets of later"):
                await bus.lag(group)
            with pytest.raises(BusError, match=f"no Kafka broker answers at {sasl_ssl.bootstrap}"):
                [record async for record in bus.stored(IN)]
            await asyncio.to_thread(sasl_ssl.start)
            await publishing
            await recorder.until(lambda: b"later" in recorder.values, timeout_s=40.0)


async def test_a_group_forbidden_by_an_access_list_ends_the_run_with_the_reason(tmp_path: Path) -> None:
    with KafkaServer(tmp_path, scram_user=USER) as server:
        server.extra = {
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
            "allow.everyone.if.no.acl.found": "true",
        }
        server.start()
        async with connected(server, login(server)) as bus:
            await bus.ensure_topics([TopicSpec(name=IN, partitions=1, retention_s=3600)])
            await deny_group(server.inside, "separate")
            with pytest.raises(BusError, match="GroupAuthorizationFailed"):
                async with asyncio.timeout(30):
                    await bus.run(Subscription(group="separate", topics=(IN,)), Recorder())


async def deny_group(server: str, group: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=server)
    await admin.start()
    try:
        group_resource, literal, everything, deny = 3, 3, 2, 2
        rule = CreateAclsRequest(group_resource, group, literal, f"User:{USER[0]}", "*", everything, deny)
        await admin._client.send(admin._client.get_random_node(), rule)
    finally:
        await admin.close()
