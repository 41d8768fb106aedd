"""Structured logs: one JSON object a line, for our own events and for those of the libraries beneath us."""

import json
import logging
import sys
import threading
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import IO, Any, TextIO

import orjson
import structlog
from structlog.typing import EventDict, Processor

from config import LogLevel
from observe.lines import Lines

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO}


@dataclass(slots=True)
class _Process:
    """What kind of process this is, and where its lines go: by default where its output goes at the moment."""

    service: str = ""
    stream: TextIO | None = None

    def out(self) -> IO[bytes]:
        """Where they go."""
        return (self.stream or sys.stdout).buffer


_process = _Process()
# What is true of every line of a request. (structlog's own keeps each fact in a variable of its own, and looks through
# all variables of the process for every line.)
_context: ContextVar[dict[str, str] | None] = ContextVar("log_context", default=None)


def begin_context(**facts: str) -> None:
    """Let every line from now on have these, and none of those before."""
    _context.set(facts)


def bind(**facts: str) -> None:
    """Let every line from now on have these, too, until the context ends."""
    context = _context.get()
    if context is None:
        _context.set(facts)
    else:
        context.update(facts)


def end_context() -> None:
    """Let lines be about nothing in particular."""
    _context.set(None)


def merge_context(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Add to a line what is true of all of them: one of structlog's processors."""
    if context := _context.get():
        event.update((name, fact) for name, fact in context.items() if name not in event)
    return event


def configure(level: LogLevel, *, service: str, stream: TextIO | None = None) -> None:
    """Send every log line of this process to a stream as JSON, uncaught exceptions of any thread included.

    Args:
        level: the least level that is written.
        service: which kind of process this is; stands in every line.
        stream: standard output, unless that is wanted for something else.
    """
    _process.service, _process.stream = service, stream

    def add_service(_logger: Any, _method: str, event: EventDict) -> EventDict:
        event["service"] = service
        return event

    shared: list[Processor] = [
        merge_context,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.format_exc_info,
        add_service,
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer(serializer=_dumps, default=str)],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        # One write a line: lines of several processes share a file, and must not interleave.
        logger_factory=structlog.BytesLoggerFactory(_lines),  # type: ignore[arg-type]
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers = [_handler_of_libraries(shared)]
    root.setLevel(level)
    # What Alembic tells is how it was set up, at every start of every process.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # SQLAlchemy's own loggers say nothing below a warning; a pool of ours is not one of them.
    logging.getLogger("models.database.pool").setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread
    sys.unraisablehook = _log_unraisable


class _LinesHandler(logging.Handler):
    """Writes what libraries tell."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write it; what cannot even be formatted is told on stderr, as logging does it."""
        try:
            _lines.write(self.format(record).encode() + b"\n")
        except Exception:  # noqa: BLE001 - a library's arguments may do anything
            self.handleError(record)


def _handler_of_libraries(shared: list[Processor]) -> logging.Handler:
    """Return what gives the events of libraries the same form as ours."""
    handler = _LinesHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(serializer=_dumps_text, default=str),
            ],
        )
    )
    return handler


def write(level: str, event: str, facts: Mapping[str, Any]) -> None:
    """Write one line at once: as structlog would write it, at a fifth of the price. For what is told of every request.

    Args:
        level: ``debug`` or ``info``.
        event: what has happened.
        facts: about it.
    """
    if logging.getLogger().isEnabledFor(_LEVELS[level]):
        context = _context.get() or {}
        _write([{**context, **facts, "event": event, "level": level, "time": _now(), "service": _process.service}])


def write_transfers(transfers: Iterable[tuple[int, str, str | None, str | None]]) -> None:
    """Write one line for each transfer of a batch, all in one go: a worker settles thousands a second.

    Args:
        transfers: id, status, reason, and the W3C traceparent that it came with.
    """
    if not logging.getLogger().isEnabledFor(logging.INFO):
        return
    common = {"event": "transfer settled", "level": "info", "time": _now(), "service": _process.service}
    _write(
        {**common, "job_id": str(transfer_id), "status": status, "reason": reason, "trace_id": trace_id_of(trace)}
        for transfer_id, status, reason, trace in transfers
    )


def _write(lines: Iterable[Mapping[str, Any]]) -> None:
    """Write lines in one go: those of several processes share a file, and must not interleave."""
    _lines.write(b"".join([_dumps(line) + b"\n" for line in lines]))


def _tell_of_lost(lines: int) -> bytes:
    about = {"event": "log lines were lost", "level": "warning", "lines": lines, "service": _process.service}
    return _dumps(about | {"time": _now()}) + b"\n"


# For all who write, so that what is lost is told once.
_lines = Lines(_process.out, _tell_of_lost)


def trace_id_of(traceparent: str | None) -> str | None:
    """Return the trace id within a W3C traceparent: ``00-<32 digits of trace id>-…``."""
    return traceparent[3:35] if traceparent else None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _dumps(event: Any, **options: Any) -> bytes:
    try:
        return orjson.dumps(event, **options)
    except TypeError:
        # An integer beyond 64 bits, half of a surrogate pair, a key that is no string: no log line may break what
        # it tells of.
        return json.dumps(event, default=str).encode()


def _dumps_text(event: Any, **options: Any) -> str:
    return _dumps(event, **options).decode()


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    logging.getLogger("uncaught").critical("process dies of an exception", exc_info=(kind, error, trace))


def _log_uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_type is SystemExit or args.exc_value is None:  # as Python itself: a thread that ends itself is no error
        return
    name = args.thread.name if args.thread else None
    logging.getLogger("uncaught").critical(
        "thread %s dies of an exception", name, exc_info=(args.exc_type, args.exc_value, args.exc_traceback)
    )


def _log_unraisable(args: "sys.UnraisableHookArgs") -> None:
    """Tell of an exception in a finalizer; not of the object, whose representation may hold anything."""
    error = args.exc_value or args.exc_type()
    logging.getLogger("uncaught").error(
        "exception ignored in %s", type(args.object).__name__, exc_info=(args.exc_type, error, args.exc_traceback)
    )
