"""`churn-serving rollout controller`: drive every rollout of a cluster until a signal arrives."""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import structlog
import typer

from rollout.cli.exit_codes import ExitCode
from rollout.cli.options import LEASE_S, LeaseS, MetricsPort, WebhookUrl
from rollout.errors import RolloutError

Watched = Annotated[str, typer.Option("--namespace", "-n", help="Default: all namespaces.")]
Prometheus = Annotated[str, typer.Option("--evidence", help="prometheus=URL, for all rollouts.")]


def controller(
    evidence: Prometheus,
    namespace: Watched = "",
    webhook: WebhookUrl = "",
    metrics_port: MetricsPort = 0,
    lease: LeaseS = LEASE_S,
) -> None:
    """Drive every SeldonDeployment that has a rollout under way.

    Example:
    churn-serving rollout controller -n churn --evidence prometheus=http://prometheus-operated.monitoring:9090
    """
    from rollout.cli.controlling import control

    _log_as_json()
    try:
        control(evidence, namespace=namespace, webhook=webhook, metrics_port=metrics_port, lease_s=lease)
    except RolloutError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(ExitCode.ERROR) from error


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
