"""Logging: as text or JSON, through one handler for callstream and its libraries, with the call on each line."""

import io
import json
import logging
from typing import Literal, TextIO

import structlog
from structlog.typing import EventDict, ExcInfo, Processor, WrappedLogger

from pipeline.printable import one_line, without_controls
from schemas.calls import DEFAULT_TENANT, CallRef

LogFormat = Literal["console", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]

OUR_LOGGER = "callstream"
"""The root of our loggers (`callstream.runner`), which follow the level. Libraries log one level above it."""

_LIBRARY_LEVEL: dict[LogLevel, int] = {
    "debug": logging.INFO,
    "info": logging.WARNING,
    "warning": logging.ERROR,
    "error": logging.ERROR,
}


def configure(log_format: LogFormat, level: LogLevel, stream: TextIO) -> None:
    """Send all logging of this process to `stream`. A second call replaces the handler of the first.

    Warnings of Python's `warnings` module are logged too, as `py.warnings`.
    """
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderers(log_format, stream)],
        )
    )
    root = logging.getLogger()
    for former in list(root.handlers):
        root.removeHandler(former)
    root.addHandler(handler)
    root.setLevel(_LIBRARY_LEVEL[level])
    logging.getLogger(OUR_LOGGER).setLevel(level.upper())
    logging.captureWarnings(True)


def bind_call(call: CallRef, *, stage: str) -> None:
    """Add the call and the stage to all later log lines of this task and of tasks that it starts."""
    bound = {"call_id": call.call_id, "stage": stage}
    if call.tenant != DEFAULT_TENANT:
        bound["tenant"] = call.tenant
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(**bound)


def bind_event(event_id: str, trace_id: str | None) -> None:
    """Add the event to all later log lines of this task."""
    structlog.contextvars.bind_contextvars(event_id=event_id)
    if trace_id is None:
        structlog.contextvars.unbind_contextvars("trace_id")
    else:
        structlog.contextvars.bind_contextvars(trace_id=trace_id)


def _renderers(log_format: LogFormat, stream: TextIO) -> list[Processor]:
    if log_format == "json":
        return [structlog.processors.format_exc_info, _json_line]
    colours = stream.isatty()
    return [_printable, structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=_printable_traceback)]


def _printable(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Return the event for a terminal. What is no text is shown by `repr`, which escapes control characters."""
    return {name: one_line(value) if isinstance(value, str) else value for name, value in event.items()}


def _printable_traceback(stream: TextIO, error: ExcInfo) -> None:
    text = io.StringIO()
    structlog.dev.plain_traceback(text, error)
    stream.write(without_controls(text.getvalue()))


def _json_line(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    """Return one line of ASCII, by the standard library's encoder: it also takes file names that are not UTF-8."""
    return json.dumps({"timestamp": event.pop("timestamp"), "event": event.pop("event"), **event}, default=repr)
