"""Puts the controller together: sessions in a cluster, their evidence, and who hears of each rollout."""

from __future__ import annotations

import os
import socket
import sys

from rollout.cli.driving import open_source
from rollout.clock import SystemClock
from rollout.controller.drivers import Drivers
from rollout.controller.operator import watch
from rollout.controller.overview import Overview, OwnDriver
from rollout.engine.announcer import Background, Broadcast, Subscriber
from rollout.engine.session import Session
from rollout.evidence.source import Source
from rollout.reporting.lines import Lines
from rollout.reporting.metrics import Metrics
from rollout.reporting.webhook import Webhook
from rollout.targets.kubernetes import KubernetesTarget, probe
from rollout.targets.kubernetes_connection import Connection


def control(evidence: str, *, namespace: str, webhook: str, metrics_port: int, lease_s: int) -> None:
    """Drive every rollout of a namespace (empty: of all) until a signal arrives. Raises RolloutError."""
    clock = SystemClock()
    overview = Overview(clock, identity=f"controller {socket.gethostname()}-{os.getpid()}")
    metrics, lines = Metrics(), Lines(sys.stdout)
    hooks = [Background(Webhook(webhook))] if webhook else []

    def session(of: str, name: str) -> Session:
        return Session(KubernetesTarget(name, Connection(namespace=of)), clock, lease_s=lease_s)

    def subscriber(of: str, name: str) -> Subscriber:
        return Broadcast([OwnDriver(overview, of, name), lines, metrics, *hooks])

    def source(of: str, name: str) -> Source:
        opened = session(of, name)
        _, state = opened.active()
        return open_source(evidence, opened.target, name=name, namespace=of, scale=state.plan.gates.scale)

    drivers = Drivers(session, source, subscriber, overview)
    if metrics_port:
        metrics.serve(metrics_port)
    try:
        watch(drivers, overview, namespace=namespace, probe=lambda: probe(namespace))
    finally:
        for hook in hooks:
            hook.close()
