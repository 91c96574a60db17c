"""The end of a command: an exit code for a pipeline, and an error as one line."""

from __future__ import annotations

import functools
import json
import logging
import traceback
from collections.abc import Callable
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import typer

from rollout.errors import PlanError, RolloutError, os_error_line
from rollout.process import log_to_stderr

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
    """Return the command with errors of this package and of files as one line; it must have `output`."""

    @functools.wraps(command)
    def reported(**options: Any) -> None:
        log_to_stderr(logging.WARNING)
        try:
            command(**options)
        except (RolloutError, OSError) as error:
            if isinstance(error, BrokenPipeError):
                raise
            message = os_error_line(error) if isinstance(error, OSError) else str(error)
            if not message:
                raise _unexpected(error) from error
            if options["output"] == "json":
                typer.echo(json.dumps({"error": message, "code": type(error).__name__}))
            typer.echo(f"error: {message}", err=True)
            raise typer.Exit(ExitCode.USAGE if isinstance(error, PlanError) else ExitCode.ERROR) from error
        except (typer.Exit, typer.Abort):
            raise
        except Exception as error:
            raise _unexpected(error) from error

    return reported


def _unexpected(error: Exception) -> typer.Exit:
    """Print a defect with its traceback; its exit code is not 1, which would mean "rolled back"."""
    traceback.print_exc()
    typer.echo(f"error: unexpected {type(error).__name__}: {error}; this is a defect, please report it", err=True)
    return typer.Exit(ExitCode.ERROR)
