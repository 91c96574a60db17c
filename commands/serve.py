"""`churn-serving serve`: runs the pod's server process on a developer's machine, and can prepare its model first."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from custom_runtime.server.command import MODELS

# Without the directory of the clone.
SHOWN = f"{MODELS.parent.name}/{MODELS.name}"


def serve(
    models: Annotated[Path, typer.Option(help="Folder of models.", show_default=SHOWN)] = MODELS,
    workers: Annotated[int, typer.Option(help="Processes that share the ports.", min=1)] = 1,
    prepare: Annotated[
        bool, typer.Option("--prepare", help="First train, import and load features, where missing.")
    ] = False,
    train: Annotated[
        Path | None,
        typer.Option(help="With --prepare: the script that trains and registers a model, run when there is none."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="With --prepare: the table to load, and to compare on where the run logged no rows."),
    ] = None,
) -> None:
    """Serve the model over REST and gRPC, in the foreground, until SIGTERM or Ctrl-C.

    Exit code 0 after a signal, 1 when the model, the feature store or a port is not available (one line says why).

    Ports: MLSERVER_HTTP_PORT (8080), MLSERVER_GRPC_PORT (8081), MLSERVER_METRICS_PORT (8082). Everything else is a
    SERVING_* variable of custom_runtime/settings.py.

    Example:
    SERVING_MISSING_KEY=default churn-serving serve --workers 2
    """
    if prepare:
        prepare_missing(train, data)
        typer.echo("starting the server")
    # A separate process, because training leaves hundreds of megabytes in memory.
    sys.stdout.flush()
    options = ["--models", str(models), "--workers", str(workers)]
    os.execv(sys.executable, [sys.executable, "-m", "custom_runtime.server", *options])  # noqa: S606 (no shell is wanted)


def prepare_missing(script: Path | None, data: Path | None) -> None:
    """Train, import and load features where something is missing; an error is one line and exit code 1."""
    from pydantic import ValidationError

    from custom_runtime.errors import StartupError
    from custom_runtime.settings import ServingSettings, one_line
    from handoff.errors import HandoffError
    from handoff.loading import ensure_loaded
    from handoff.prepare import prepare

    try:
        settings = ServingSettings()
        prepare(settings.bundle, settings.bundle.parent / "stock", script=script, data=data)
        ensure_loaded(settings.feature_store, data)
    except (HandoffError, StartupError, ValidationError) as error:
        typer.echo(f"churn-serving cannot prepare: {one_line(error)}", err=True)
        raise typer.Exit(1) from error
