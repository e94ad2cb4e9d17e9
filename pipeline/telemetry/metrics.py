"""Prometheus metrics of one process, on a registry of their own."""

import contextlib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from platform import python_version
from threading import Thread
from typing import TypeVar
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, start_http_server

from pipeline.errors import ConfigurationError
from schemas import topics
from schemas.partials import Partial
from schemas.segments import Segment
from schemas.summaries import Summary
from schemas.transcripts import TranscriptCompleted
from schemas.utterances import CallClosed, CallOpened, Utterance

_FAST_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0)
"""A broker's answer: a millisecond when it is well, seconds when it restarts."""
_WORK_S = (0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 120.0)
"""A stage's work on a record: microseconds to cut audio, seconds to transcribe, a minute to summarize."""
_WAIT_S = (0.01, 0.05, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0, 120.0, 600.0, 3600.0)
"""Waiting: below 3 s a live call feels live; backfill waits for hours."""


Family = TypeVar("Family", Counter, Gauge, Histogram)


class Metrics:
    """All metrics, as attributes; label values are given in the order of the labels named here."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        Info("callstream_build", "Version of callstream and of Python", registry=registry).info(
            {"version": version("callstream"), "python": python_version()}
        )

        def counter(name: str, text: str, *labels: str) -> Counter:
            return _remembering(Counter(f"callstream_{name}", text, labels, registry=registry))

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return _remembering(Gauge(f"callstream_{name}", text, labels, registry=registry))

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return _remembering(Histogram(f"callstream_{name}", text, labels, buckets=buckets, registry=registry))

        self.records_in = counter("records_in", "Records read, repeats included", "stage", "topic")
        self.records_out = counter("records_out", "Records published", "stage", "topic")
        self.record_bytes = counter("record_bytes", "Bytes of the records read", "stage", "topic")
        self.dead_letters = counter("dead_letters", "Records that the stage could not use", "stage", "error")
        self.stage_restarts = counter("stage_restarts", "Times that the stage began again from its floor", "stage")
        self.publish_retries = counter("publish_retries", "Publishes refused by a full store and repeated", "topic")
        self.calls_opened = counter("calls_opened", "Calls whose start was read")
        self.calls_completed = counter("calls_completed", "Transcripts completed, a reopened call's again")
        self.audio_seconds = counter("audio_seconds", "Length of the calls that have ended, a reopened one's again")
        self.speech_seconds = counter("speech_seconds", "Speech in the utterances cut, all channels'")
        self.utterances = counter("utterances", "Utterances cut", "cut")
        self.words = counter("words", "Words transcribed")
        self.live_events = counter("live_events", "Events sent to who watches calls live", "type")
        self.live_dropped = counter("live_dropped", "Events not sent live: the NATS server was away", "type")
        self.partials = counter("partials", "Partials published, an utterance's last one included")
        self.interims_dropped = counter("interims_dropped", "Interim versions of which no partial was made", "reason")
        self.guard_drops = counter("guard_drops", "Texts dropped as invented", "guard")
        self.summaries = counter("summaries", "Summaries published, a replaced stand-in's again", "kind", "method")
        self.summary_claims = counter(
            "summary_claims",
            "Key points and action items by language models: believed, or why they were left out",
            "as",
        )

        self.ready = gauge("ready", "1 once models are loaded and calls are worked on")
        self.inflight_bytes = gauge("inflight_bytes", "Bytes of the records in work", "stage")
        self.queue_depth = gauge("queue_depth", "Records not acknowledged yet", "group")
        self.asr_queue = gauge("asr_queue", "Utterances that wait for the transcriber's engine", "queue")
        self.asr_oldest_seconds = gauge("asr_oldest_seconds", "How long the oldest of them has waited", "queue")
        self.asr_running = gauge("asr_running", "Batches that the engine works on")
        self.asr_busy_seconds = gauge("asr_busy_seconds", "Time that the engine's workers have worked, all together")
        self.asr_longest_batch_seconds = gauge(
            "asr_longest_batch_seconds",
            "The longest time of a batch in the engine: what a live utterance waits for at most behind running ones",
            "queue",
        )
        self.asr_rows = counter(
            "asr_rows", "Utterances transcribed, interims included, by what did it", "device", "compute_type"
        )
        self.asr_steps_down = counter(
            "asr_steps_down",
            "Times that a device had to go on with less: a smaller batch, lighter arithmetic, the cpu",
            "device",
            "step",
        )
        self.model_load_seconds = gauge(
            "model_load_seconds", "How long the model took to load and prove that it works, the last time", "model"
        )
        self.model_loads = counter("model_loads", "Times that the model was loaded", "model")
        self.model_unloads = counter("model_unloads", "Times that it was unloaded for the sake of others", "model")
        self.model_bytes = gauge(
            "model_bytes", "Size of a loaded model's weights in memory, Whisper's as they are stored", "model"
        )

        self.llm_circuit = gauge(
            "llm_circuit", "1 for the state of the circuit breaker before the language model's server", "state"
        )
        self.llm_seconds = histogram(
            "llm_seconds", "A request to the language model, by how it ended", _WAIT_S, "outcome"
        )

        self.publish_seconds = histogram("publish_seconds", "Until the bus had stored a record", _FAST_S, "topic")
        self.stage_seconds = histogram("stage_seconds", "Work on a record, its publishing included", _WORK_S, "stage")
        self.asr_wait_seconds = histogram(
            "asr_wait_seconds", "From an utterance's arrival in the engine's queue to its batch", _WAIT_S, "queue"
        )
        self.asr_batch_seconds = histogram(
            "asr_batch_seconds", "A batch in the engine, by the queue of its first utterance", _WORK_S, "queue"
        )
        self.queue_seconds = histogram("queue_seconds", "From stored to read, of each record", _WAIT_S, "stage")

    def count(self, topic: str, record: object) -> None:
        """Count what was published on a topic (as in the live lane), from the record itself.

        Records that a later stage forwards to its own topic are not counted again there.
        """
        if topic == topics.UTTERANCES:
            self._count_separated(record)
        elif isinstance(record, Segment):
            self.words.inc(len(record.words))
            if record.guard is not None:
                self.guard_drops.labels(record.guard).inc()
        elif isinstance(record, Partial):
            self.partials.inc()
        elif isinstance(record, TranscriptCompleted) and record.part == record.parts:
            self.calls_completed.inc()
        elif isinstance(record, Summary):
            self._count_summary(record)

    def _count_summary(self, summary: Summary) -> None:
        self.summaries.labels(summary.kind, summary.method).inc()
        if summary.method == "llm":
            self.summary_claims.labels("believed").inc(len(summary.key_points) + len(summary.action_items))
        for claim in summary.doubted:
            self.summary_claims.labels(claim.doubt).inc()

    def _count_separated(self, record: object) -> None:
        if isinstance(record, CallOpened):
            self.calls_opened.inc()
        elif isinstance(record, Utterance):
            self.utterances.labels(record.cut).inc()
            self.speech_seconds.inc(sum(end_s - start_s for start_s, end_s in record.voiced))
        elif isinstance(record, CallClosed):
            self.audio_seconds.inc(record.duration_s)


def _remembering(family: Family) -> Family:
    """Each record counts under the same few labels: they are looked up without checking them again."""
    family.labels = cache(family.labels)  # type: ignore[method-assign]
    return family


class MetricsServer:
    """Serves `/metrics` on 127.0.0.1 from a thread until `stop`. Raises OSError where the port is taken."""

    def __init__(self, metrics: Metrics, port: int) -> None:
        self._server: WSGIServer
        self._thread: Thread
        self._server, self._thread = start_http_server(port, addr="127.0.0.1", registry=metrics.registry)
        self.port = self._server.server_port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/metrics"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextlib.contextmanager
def served(metrics: Metrics, port: int | None) -> Iterator[str | None]:
    """The URL of the metrics while inside; None where `port` is None. Raises ConfigurationError for a taken port."""
    if port is None:
        yield None
        return
    try:
        server = MetricsServer(metrics, port)
    except OSError as error:
        raise ConfigurationError(f"CALLSTREAM_METRICS_PORT {port}: {error.strerror}") from error
    try:
        yield server.url
    finally:
        server.stop()
