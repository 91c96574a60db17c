"""Output of the hand-off's commands: results on stdout, events on stderr, an error as one line and exit code 1."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import structlog
import typer

from custom_runtime.errors import StartupError
from handoff.errors import HandoffError

OutputFormat = Literal["text", "json"]


def configure_log() -> None:
    """Send log events to stderr, so that stdout holds nothing but the result."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))


@contextmanager
def fail_with_one_line() -> Iterator[None]:
    """Print an expected error's message on stderr and exit with code 1; other exceptions keep their traceback."""
    try:
        yield
    except (HandoffError, StartupError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
