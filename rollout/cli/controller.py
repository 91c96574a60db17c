"""`churn-serving rollout controller`: drive every rollout of a cluster until a signal arrives."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import structlog
import typer

from rollout.cli.exit_codes import ExitCode
from rollout.cli.options import LEASE_S, LOGS, LeaseS, LogDir, WebhookUrl
from rollout.errors import PlanError, RolloutError

Watched = Annotated[str, typer.Option("--namespace", "-n", help="Default: all namespaces.")]
Prometheus = Annotated[str, typer.Option("--evidence", help="prometheus=URL, for all rollouts.")]
Port = Annotated[int, typer.Option(help="Serve /healthz, /metrics and the pages there; 0: nothing.", min=0, max=65535)]
TokenFile = Annotated[Path | None, typer.Option("--page-token", help="The file with the pages' token; none: no pages.")]


def controller(
    evidence: Prometheus,
    namespace: Watched = "",
    webhook: WebhookUrl = "",
    log: LogDir = LOGS,
    port: Port = 8080,
    page_token: TokenFile = None,
    lease: LeaseS = LEASE_S,
) -> None:
    """Drive every SeldonDeployment that has a rollout under way.

    Example:
    churn-serving rollout controller -n churn --evidence prometheus=http://prometheus-operated.monitoring:9090
    """
    from rollout.cli.controlling import control

    _log_as_json()
    try:
        control(
            evidence, namespace=namespace, webhook=webhook, logs=log, port=port, token=_token(page_token), lease_s=lease
        )
    except RolloutError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(ExitCode.USAGE if isinstance(error, PlanError) else ExitCode.ERROR) from error


def _token(file: Path | None) -> str:
    """Return the content of the file; empty without a file that has any: rollouts are driven without pages too."""
    if file is None:
        return ""
    try:
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        structlog.get_logger(__name__).warning("no_pages", detail=str(error))
        return ""
    if not token:
        structlog.get_logger(__name__).warning("no_pages", detail=f"{file} is empty")
    return token


def _log_as_json() -> None:
    """Write all log lines as JSON to standard error, those of kopf and other libraries from warnings on."""
    shared: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.format_exc_info, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
