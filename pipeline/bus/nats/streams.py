"""The stream of a topic: how it is made, and what it tells."""

from typing import Any, Final

from pipeline.bus.nats.connection import NANOSECONDS, ApiError, Session
from pipeline.bus.nats.subjects import PRODUCER_TOPICS, stream_name, subject_base
from pipeline.bus.protocol import TopicSpec, TopicState

PARTITIONS: Final = "callstream-partitions"
_RETENTION: Final = "callstream-retention-s"
_SHARE: Final = "callstream-max-bytes"
"""What a stream was made for: its number of partitions, its age limit, which the keeper of `space` may apply instead of
the server, and its size limit, which the keeper lowers while room is short."""
_DUPLICATE_WINDOW_S: Final = 120.0
STREAM_NOT_FOUND: Final = 10059


async def ensure_stream(session: Session, spec: TopicSpec) -> None:
    """Create the stream of a topic, or give it the limits of `spec`. Raises ApiError and SessionLost."""
    name, base = stream_name(spec.name), subject_base(spec.name)
    max_bytes = -1 if spec.max_bytes is None else spec.max_bytes
    limits: dict[str, Any] = {
        "max_age": 0 if spec.readers else int(spec.retention_s * NANOSECONDS),
        "max_bytes": max_bytes,
        "duplicate_window": int(min(_DUPLICATE_WINDOW_S, spec.retention_s) * NANOSECONDS),
    }
    made_for = {_RETENTION: repr(spec.retention_s), _SHARE: str(max_bytes)}
    try:
        config = (await session.api(f"STREAM.INFO.{name}"))["config"]
    except ApiError as error:
        if error.code != STREAM_NOT_FOUND:
            raise
    else:
        metadata = config.get("metadata") or {}
        if metadata.get(_SHARE) == str(max_bytes):
            del limits["max_bytes"]  # it may be lower for a while
        wanted = limits | {"metadata": metadata | made_for}
        if any(config.get(field) != value for field, value in wanted.items()):
            await session.api(f"STREAM.UPDATE.{name}", config | wanted)
        return
    config = limits | {
        "name": name,
        "subjects": [f"{base}.*.*"],
        "storage": "file",
        "retention": "limits",
        "discard": "new",
        "allow_direct": True,
        "metadata": {PARTITIONS: str(spec.partitions), **made_for},
    }
    if spec.name in PRODUCER_TOPICS:
        config["subjects"] = [f"{base}.*"]
        config["subject_transform"] = {
            "src": f"{base}.*",
            "dest": f"{base}.{{{{partition({spec.partitions},1)}}}}.{{{{wildcard(1)}}}}",
        }
    await session.api(f"STREAM.CREATE.{name}", config)


def topic_state(topic: str, info: dict[str, Any]) -> TopicState:
    """Return a topic from the server's description of its stream."""
    config, held = info["config"], info["state"]
    return TopicState(
        name=topic,
        partitions=int(config["metadata"][PARTITIONS]),
        retention_s=config["max_age"] / NANOSECONDS or float(config["metadata"].get(_RETENTION, 0)) or None,
        max_bytes=None if config["max_bytes"] < 0 else config["max_bytes"],
        replicas=config["num_replicas"],
        compacted=config["max_msgs_per_subject"] == 1,
        records=held["messages"],
        size_bytes=held["bytes"],
    )
