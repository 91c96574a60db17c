"""`churn-serving rollout controller`: drive every rollout of a cluster, for ever."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from rollout.cli.exit_codes import ExitCode
from rollout.cli.options import LEASE_S, LeaseS, MetricsPort, WebhookUrl
from rollout.errors import RolloutError

Watched = Annotated[str, typer.Option("--namespace", "-n", help="Default: all namespaces.")]
Prometheus = Annotated[str, typer.Option("--evidence", help="prometheus=URL, for all rollouts.")]
Liveness = Annotated[str, typer.Option(help="Answers probes there, such as http://0.0.0.0:8080/healthz.")]


def controller(
    evidence: Prometheus,
    namespace: Watched = "",
    webhook: WebhookUrl = "",
    metrics_port: MetricsPort = 0,
    liveness: Liveness = "",
    lease: LeaseS = LEASE_S,
) -> None:
    """Drive every SeldonDeployment that carries a rollout, until a signal comes.

    Example:
    churn-serving rollout controller -n churn --evidence prometheus=http://prometheus-operated.monitoring:9090
    """
    # These import the cluster's client and kopf, which take most of a second.
    from rollout.cli.driving import open_source
    from rollout.controller.drivers import Drivers
    from rollout.controller.operator import run
    from rollout.engine.announcer import Background, Broadcast
    from rollout.engine.session import Session
    from rollout.reporting.lines import Lines
    from rollout.reporting.metrics import Metrics
    from rollout.reporting.webhook import Webhook
    from rollout.targets.kubernetes import KubernetesTarget
    from rollout.targets.kubernetes_connection import Connection

    def session(of: str, name: str) -> Session:
        return Session(KubernetesTarget(name, Connection(namespace=of)), lease_s=lease)

    metrics = Metrics()
    if metrics_port:
        metrics.serve(metrics_port)
    hooks = [Background(Webhook(webhook))] if webhook else []
    drivers = Drivers(
        session,
        lambda of, name: open_source(evidence, session(of, name).target, namespace=of),
        Broadcast([Lines(sys.stdout), metrics, *hooks]),
    )
    try:
        run(drivers, namespace=namespace, liveness=liveness or None)
    except RolloutError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(ExitCode.ERROR) from error
    finally:
        for hook in hooks:
            hook.close()
