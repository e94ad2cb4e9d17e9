"""Metrics: nothing is global, records are counted once, and Prometheus can read what is served."""

import urllib.error
import urllib.request

import msgspec
import pytest
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.parser import text_string_to_metric_families

from pipeline.telemetry.metrics import Metrics, MetricsServer
from schemas.calls import CallRef
from schemas.segments import Segment, Unheard
from schemas.transcripts import CallMetrics, TranscriptCompleted
from schemas.utterances import CallClosed, CallOpened, Utterance

CALL = CallRef("default", "call-1")
OPENED = CallOpened(
    call=CALL,
    seq=0,
    channels=[],
    sample_rate_hz=8000,
    encoding="mulaw",
    language=None,
    partials=False,
    metadata={},
    opened_at=0.0,
)
UTTERANCE = Utterance(
    call=CALL,
    seq=1,
    channel=0,
    first_sample=0,
    sample_rate_hz=8000,
    pcm=b"",
    voiced=[(0.5, 1.5), (2.0, 2.25)],
    cut="pause",
)
CLOSED = CallClosed(
    call=CALL,
    seq=2,
    revision=1,
    duration_s=60.0,
    speech_s=1.25,
    utterances=1,
    gaps=[],
    reason="hangup",
    provisional=False,
)


def segment(guard: str | None) -> Segment:
    return Segment(
        call=CALL,
        seq=1,
        segment_id="s",
        channel=0,
        start_s=0.0,
        end_s=2.0,
        text="",
        words=[],
        voiced=[],
        language="en",
        model="base",
        word_source="attention",
        probability=0.9,
        no_speech_probability=0.9,
        guard=guard,
    )


def completed(part: int) -> TranscriptCompleted:
    figures = CallMetrics(
        duration_s=60.0,
        speech_s=0.0,
        silence_s=60.0,
        longest_silence_s=60.0,
        overlap_s=0.0,
        interruptions=0,
        channels=[],
    )
    return TranscriptCompleted(
        tenant="default",
        call_id="call-1",
        revision=1,
        part=part,
        parts=2,
        duration_s=60.0,
        channels=[],
        turns=[],
        metrics=figures,
        gaps=[],
        language="en",
        utterances=1,
        provisional=False,
    )


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"callstream_{name}", labels)


def test_two_sets_of_metrics_in_a_process_do_not_share_values() -> None:
    first, second = Metrics(), Metrics()
    first.records_in.labels("merge", "calls.segments").inc()
    assert value(first, "records_in_total", stage="merge", topic="calls.segments") == 1
    assert value(second, "records_in_total", stage="merge", topic="calls.segments") is None


def test_forwarded_records_are_counted_where_they_arise_only() -> None:
    metrics = Metrics()
    for topic in ("calls.utterances", "calls.segments"):
        for record in (OPENED, UTTERANCE, CLOSED):
            metrics.count(topic, record)
    assert value(metrics, "calls_opened_total") == 1
    assert value(metrics, "utterances_total", cut="pause") == 1
    assert value(metrics, "speech_seconds_total") == 1.25
    assert value(metrics, "audio_seconds_total") == 60


def test_a_dropped_text_is_counted_under_its_guard() -> None:
    metrics = Metrics()
    for guard in (None, "no_speech", "no_speech", "phrase"):
        metrics.count("calls.segments", segment(guard))
    assert value(metrics, "guard_drops_total", guard="no_speech") == 2
    assert value(metrics, "guard_drops_total", guard="phrase") == 1


def test_seconds_without_words_are_counted_by_lane_and_reason() -> None:
    metrics = Metrics()
    spans = [
        Unheard(start_s=start_s, end_s=start_s + 0.5, level_dbfs=-30.0, reason=reason)
        for start_s, reason in ((1.0, "no_words"), (3.0, "no_words"), (5.0, "error"))
    ]
    record = msgspec.structs.replace(segment(None), unheard=spans)
    metrics.count("calls.segments", record)
    metrics.count("calls.segments", record, lane="batch")
    assert value(metrics, "unheard_seconds_total", lane="live", reason="no_words") == 1.0
    assert value(metrics, "unheard_seconds_total", lane="batch", reason="error") == 0.5


def test_a_transcript_in_parts_completes_one_call() -> None:
    metrics = Metrics()
    for part in (1, 2):
        metrics.count("calls.transcripts", completed(part))
    assert value(metrics, "calls_completed_total") == 1


def test_prometheus_can_read_what_is_served_until_it_is_stopped() -> None:
    metrics = Metrics()
    with metrics.stage_seconds.labels("merge").time():
        pass
    server = MetricsServer(metrics, port=0)
    try:
        with urllib.request.urlopen(server.url, timeout=5) as response:
            families = {family.name: family for family in text_string_to_metric_families(response.read().decode())}
    finally:
        server.stop()
    assert families["callstream_build_info"].samples[0].labels["version"]
    buckets = [s for s in families["callstream_stage_seconds"].samples if s.name.endswith("_bucket")]
    assert buckets[-1].labels == {"stage": "merge", "le": "+Inf"}
    assert buckets[-1].value == 1
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(server.url, timeout=5)


def test_a_port_that_is_taken_is_an_error() -> None:
    metrics = Metrics()
    server = MetricsServer(metrics, port=0)
    try:
        with pytest.raises(OSError, match="in use"):
            MetricsServer(metrics, port=server.port)
    finally:
        server.stop()


def test_every_metric_says_what_it_counts_and_names_its_unit_last() -> None:
    families = [f for f in Metrics().registry.collect() if f.name.startswith("callstream_")]
    assert families
    for family in families:
        assert family.documentation, family.name
        if family.type == "histogram":
            assert family.name.endswith("_seconds"), family.name


def test_no_label_names_a_call_or_a_tenant_for_every_user_of_the_machine_reads_metrics() -> None:
    families = [family for family in vars(Metrics()).values() if isinstance(family, MetricWrapperBase)]
    labels = {label for family in families for label in family._labelnames}
    assert "stage" in labels
    assert not {label for label in labels if any(part in label for part in ("call", "tenant", "source", "speaker"))}
