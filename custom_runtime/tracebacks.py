"""Tracebacks for the log: where it happened and what kind of error, never the message.

The message of an exception often quotes the value that it is about, and that may be a customer's.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import MutableMapping
from typing import Any


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
    """Put the traceback in exc_info's place; a structlog processor."""
    error = event.pop("exc_info", None)
    if error is True:
        error = sys.exc_info()[1]
    if isinstance(error, BaseException):
        event["exception"] = describe(error)
    return event


class Formatter(logging.Formatter):
    """The same for what libraries log."""

    def formatException(self, ei: Any) -> str:
        """Return the traceback without messages."""
        return describe(ei[1]) if ei[1] is not None else ""
