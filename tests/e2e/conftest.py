"""One running `callstream up` for the tests that share it; those that kill it make their own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.calls import bad
from tests.support.brokers.kafka import KafkaServer
from tests.support.processes.deployment import SAMPLE, Deployment
from tests.support.processes.workers import Workers


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """An instance with the real model, ready. Its idle limit is short, so that tests of it are."""
    with Deployment(tmp_path_factory.mktemp("deployment") / "data", idle_s="4") as deployment:
        deployment.start()
        deployment.wait_ready()
        yield deployment


@pytest.fixture(scope="session")
def kafka_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """A broker with its default limits."""
    with KafkaServer(tmp_path_factory.mktemp("kafka")) as kafka:
        kafka.start()
        yield kafka


@pytest.fixture(scope="session")
def on_kafka(kafka_broker: KafkaServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    """A worker process for each stage on `kafka_broker`, ready."""
    data = tmp_path_factory.mktemp("on-kafka") / "data"
    with Workers(Deployment(data, bus=f"kafka://{kafka_broker.bootstrap}", idle_s="10")) as workers:
        workers.wait_ready()
        yield workers


@pytest.fixture(scope="session")
def short_call(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 18 s of the sample call, both channels."""
    pcm, rate_hz = bad.read_wav(SAMPLE)
    path = tmp_path_factory.mktemp("calls") / "short.wav"
    return bad.write_wav(path, [pcm[: 18 * rate_hz]], rate_hz=rate_hz, channels=2)


@pytest.fixture(scope="session")
def greeting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 5.4 s of the sample call: what the agent says before the customer answers."""
    pcm, rate_hz = bad.read_wav(SAMPLE)
    path = tmp_path_factory.mktemp("calls") / "greeting.wav"
    return bad.write_wav(path, [pcm[: int(5.4 * rate_hz)]], rate_hz=rate_hz, channels=2)
