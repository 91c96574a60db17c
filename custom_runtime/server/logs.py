"""The log: one JSON object a line on stderr, for our events and for what libraries log.

A traceback in the log has frames and classes, never an exception's message: it often quotes a value of a request.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import MutableMapping
from datetime import UTC, datetime
from typing import Any

import structlog


def configure_logs() -> None:
    """Log our events, and library records from WARNING on, as JSON lines on stderr."""
    logging.basicConfig(level=logging.WARNING, handlers=[_json_handler()])
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,  # the id of the request that a line belongs to
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            add_traceback,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def take_over_mlserver_log() -> None:
    """Replace the handlers that MLServer gave its own logger, which write text. Call it after MLServer's own set-up."""
    logger = logging.getLogger("mlserver")
    logger.handlers = [_json_handler()]
    logger.propagate = False


def _json_handler() -> logging.Handler:
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    return handler


class JsonFormatter(logging.Formatter):
    """A library's log record as a JSON object, with the fields that our own events have."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        line = {
            "event": record.getMessage(),
            "logger": record.name,
            "level": record.levelname.lower(),
            **structlog.contextvars.get_contextvars(),
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat().replace("+00:00", "Z"),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = describe(record.exc_info[1])
        return json.dumps(line)


def describe(error: BaseException) -> str:
    """Return the frames and the classes of an exception and of what caused it, outermost first."""
    parts: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(parts) < 10:
        frames = "".join(traceback.format_tb(cause.__traceback__))
        parts.append(f"{type(cause).__module__}.{type(cause).__qualname__}\n{frames}")
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return "caused by: ".join(parts)


def add_traceback(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace exc_info by the traceback text; a structlog processor."""
    error = event.pop("exc_info", None)
    if error is True:
        error = sys.exc_info()[1]
    if isinstance(error, BaseException):
        event["exception"] = describe(error)
    return event
