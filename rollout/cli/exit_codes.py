"""The end of a command: an exit code for a pipeline, and an error as one line."""

from __future__ import annotations

import functools
import json
import logging
import sys
import traceback
from collections.abc import Callable
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import typer

from rollout.errors import PlanError, RolloutError

if TYPE_CHECKING:
    from rollout.engine.state import RolloutState


class ExitCode(IntEnum):
    """The result of a command, for a pipeline."""

    PROMOTED = 0
    ROLLED_BACK = 1
    USAGE = 2
    HELD = 3
    ERROR = 4


def exit_code(state: RolloutState) -> ExitCode:
    """Return the code of a rollout that has stopped; one that is neither over nor failed is held."""
    from rollout.engine.state import Phase

    ends = {
        Phase.SUCCEEDED: ExitCode.PROMOTED,
        Phase.ROLLED_BACK: ExitCode.ROLLED_BACK,
        Phase.FAILED: ExitCode.ERROR,
    }
    return ends.get(state.phase, ExitCode.HELD)


def one_line_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command with this package's errors as one line and an exit code; it must have `output`."""

    @functools.wraps(command)
    def reported(**options: Any) -> None:
        import structlog

        structlog.configure(
            wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
            logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        )
        try:
            command(**options)
        except RolloutError as error:
            if options["output"] == "json":
                typer.echo(json.dumps({"error": str(error), "code": type(error).__name__}))
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(ExitCode.USAGE if isinstance(error, PlanError) else ExitCode.ERROR) from error
        except (typer.Exit, typer.Abort, BrokenPipeError):
            raise
        except Exception as error:  # 1 would mean "rolled back"
            traceback.print_exc()
            typer.echo(f"error: unexpected {type(error).__name__}: {error}", err=True)
            raise typer.Exit(ExitCode.ERROR) from error

    return reported
