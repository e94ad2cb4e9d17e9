"""Prometheus metrics of one process, in a registry of its own."""

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
from schemas.topics import Lane
from schemas.transcripts import TranscriptCompleted
from schemas.utterances import CallClosed, CallOpened, Utterance

_FAST_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0)
"""A broker's answer takes a millisecond, or seconds while it restarts."""
_WORK_S = (0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 120.0)
"""A stage's work on a record takes microseconds to cut audio, seconds to transcribe, a minute to summarize."""
_WAIT_S = (0.01, 0.05, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0, 120.0, 600.0, 3600.0)
"""Waiting times: below 3 s a live call feels live; backfill waits for hours."""


Family = TypeVar("Family", Counter, Gauge, Histogram)


class Metrics:
    """All metrics, as attributes. Label values are passed in the order in which the labels are named here."""

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

        self.records_in = counter("records_in", "Records read, including repeats", "stage", "topic")
        self.records_out = counter("records_out", "Records published", "stage", "topic")
        self.record_bytes = counter("record_bytes", "Bytes of the records read", "stage", "topic")
        self.dead_letters = counter("dead_letters", "Records rejected by the stage", "stage", "error")
        self.records_expired_unread = counter(
            "records_expired_unread", "Records that the broker deleted before the stage had read them", "stage", "topic"
        )
        self.dead_letters_evicted = counter(
            "dead_letters_evicted", "Oldest dead letters deleted because their topic was at its limit"
        )
        self.stage_restarts = counter("stage_restarts", "Restarts of the stage from its floor", "stage")
        self.call_retries = counter("call_retries", "Retries of a call alone after a failure", "stage", "blame")
        self.publish_retries = counter("publish_retries", "Retries of publishes that a full store refused", "topic")
        self.calls_opened = counter("calls_opened", "Calls started")
        self.calls_completed = counter("calls_completed", "Transcripts completed; a reopened call counts again")
        self.audio_seconds = counter("audio_seconds", "Duration of ended calls; a reopened call counts again")
        self.speech_seconds = counter("speech_seconds", "Speech in utterances, over all channels")
        self.utterances = counter("utterances", "Utterances, by what ended them", "cut")
        self.words = counter("words", "Words transcribed")
        self.live_events = counter("live_events", "Events published to live viewers", "type")
        self.live_dropped = counter("live_dropped", "Events dropped because the live NATS server was away", "type")
        self.partials = counter("partials", "Partials published, final ones included")
        self.interims_dropped = counter("interims_dropped", "Interim utterances skipped without a partial", "reason")
        self.guard_drops = counter("guard_drops", "Texts dropped as hallucinations", "guard")
        self.unheard_seconds = counter(
            "unheard_seconds", "Detected speech that no words account for, by the reason", "lane", "reason"
        )
        self.summaries = counter("summaries", "Summaries published; a replacement counts again", "kind", "method")
        self.summary_claims = counter(
            "summary_claims",
            "Key points and action items by language models: believed, or the reason they were left out",
            "as",
        )

        self.ready = gauge("ready", "1 while models are loaded and every group with waiting records moves")
        self.inflight_bytes = gauge("inflight_bytes", "Bytes of records in progress", "stage")
        self.queue_depth = gauge("queue_depth", "Unacknowledged records", "group")
        self.group_stalled = gauge("group_stalled", "1 while records wait and none was finished for a minute", "group")
        self.asr_queue = gauge("asr_queue", "Utterances waiting for the speech engine", "queue")
        self.asr_oldest_seconds = gauge("asr_oldest_seconds", "Age of the oldest waiting utterance", "queue")
        self.asr_running = gauge("asr_running", "Batches in the speech engine")
        self.asr_busy_seconds = gauge("asr_busy_seconds", "Busy time of all engine workers together")
        self.asr_longest_batch_seconds = gauge(
            "asr_longest_batch_seconds",
            "Longest batch so far: the most that a live utterance waits for running batches",
            "queue",
        )
        self.asr_rows = counter(
            "asr_rows", "Utterances transcribed, including interims, by device", "device", "compute_type"
        )
        self.asr_steps_down = counter(
            "asr_steps_down",
            "Fallbacks of a device after out-of-memory: smaller batch, lighter arithmetic, CPU",
            "device",
            "step",
        )
        self.model_load_seconds = gauge(
            "model_load_seconds", "Duration of the model's last load, with its self-test", "model"
        )
        self.model_loads = counter("model_loads", "Loads of the model", "model")
        self.model_unloads = counter("model_unloads", "Evictions of the model", "model")
        self.model_bytes = gauge(
            "model_bytes", "Size of a loaded model's weights in memory; for Whisper the size of the file", "model"
        )

        self.llm_circuit = gauge(
            "llm_circuit", "1 for the current state of the language model's circuit breaker", "state"
        )
        self.llm_seconds = histogram("llm_seconds", "Requests to the language model, by outcome", _WAIT_S, "outcome")

        self.publish_seconds = histogram("publish_seconds", "Time to store a record on the bus", _FAST_S, "topic")
        self.stage_seconds = histogram("stage_seconds", "Work on a record, including publishing", _WORK_S, "stage")
        self.asr_wait_seconds = histogram(
            "asr_wait_seconds", "Wait of an utterance in the engine's queue", _WAIT_S, "queue"
        )
        self.asr_batch_seconds = histogram(
            "asr_batch_seconds", "Time of a batch in the engine, by the queue of its first utterance", _WORK_S, "queue"
        )
        self.queue_seconds = histogram("queue_seconds", "Time between storing and reading a record", _WAIT_S, "stage")

    def count(self, topic: str, record: object, *, lane: Lane = "live") -> None:
        """Count what was published on a topic (as in the live lane), from the record itself.

        Records that a later stage forwards to its own topic are not counted again there.
        """
        if topic == topics.UTTERANCES:
            self._count_separated(record)
        elif isinstance(record, Segment):
            self.words.inc(len(record.words) + sum(len(one.words) for one in record.apart or []))
            if record.guard is not None:
                self.guard_drops.labels(record.guard).inc()
            for one in record.unheard or []:
                self.unheard_seconds.labels(lane, one.reason).inc(one.end_s - one.start_s)
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
    """Cache the label lookup: every record uses one of a few label sets."""
    family.labels = cache(family.labels)  # type: ignore[method-assign]
    return family


class MetricsServer:
    """Serves `/metrics` on 127.0.0.1 from a thread until `stop`. Raises OSError if the port is taken."""

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
    """Serve metrics inside the block and yield their URL, None if `port` is None.

    Raises ConfigurationError if the port is taken.
    """
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
