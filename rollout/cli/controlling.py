"""Puts the controller together: sessions in a cluster, their evidence, and who is notified of each rollout."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from prometheus_client import Gauge

from rollout.cli.driving import check_evidence, open_source
from rollout.clock import SystemClock
from rollout.controller.drivers import Drivers
from rollout.controller.history import History, HistoryWriter
from rollout.controller.metrics import RolloutCollector
from rollout.controller.operator import watch
from rollout.controller.overview import Overview, OwnDriver
from rollout.controller.presence import Presence
from rollout.controller.server import Server
from rollout.engine.announcer import Background, Broadcast, Subscriber
from rollout.engine.session import Session
from rollout.evidence.source import Source
from rollout.plan.plan import Plan
from rollout.reporting.lines import Lines
from rollout.reporting.metrics import Metrics, NamespaceMetrics
from rollout.reporting.webhook import Webhook
from rollout.targets.kubernetes import KubernetesTarget, probe
from rollout.targets.kubernetes_connection import Connection
from rollout.targets.kubernetes_lease import CONTROLLER, KubernetesLease
from rollout.targets.target import LeaseStore


def control(evidence: str, *, namespace: str, webhook: str, logs: Path, port: int, token: str, lease_s: int) -> None:
    """Drive every rollout of a namespace (empty: of all) until a signal arrives.

    logs: where each rollout's log is kept. port: of health, metrics and pages; 0: none. token: of the pages; empty: no
    pages. Raises RolloutError.
    """
    check_evidence(evidence)
    clock, identity = SystemClock(), f"controller@{socket.gethostname()}-{os.getpid()}"
    overview, history, metrics = Overview(clock, identity), History(logs), Metrics()
    metrics.registry.register(RolloutCollector(overview))
    Gauge("serving_rollout_controller_up", "1 while a controller runs", registry=metrics.registry).set(1)
    lines = Lines(sys.stdout)
    hooks = [Background(Webhook(webhook))] if webhook else []

    def session(of: str, name: str) -> Session:
        target = KubernetesTarget(name, Connection(namespace=of))
        return Session(target, clock, lease_s=lease_s, identity=identity)

    def source(of: str, name: str, plan: Plan) -> Source:
        target = session(of, name).target
        return open_source(evidence, target, name=name, namespace=of, scale=plan.gates.scale)

    def subscriber(of: str, name: str) -> Subscriber:
        mine: list[Subscriber] = [
            OwnDriver(overview, of, name),
            HistoryWriter(history, of, name),
            NamespaceMetrics(metrics, of),
        ]
        return Broadcast([*mine, lines, *hooks])

    def presence_in(of: str) -> LeaseStore:
        return KubernetesLease(CONTROLLER, Connection(namespace=of))

    presence = Presence(presence_in, clock, identity, duration_s=lease_s)
    drivers = Drivers(session, source, subscriber, overview)
    server = Server(overview, history, metrics.registry, token=token, port=port) if port else None
    try:
        if server is not None:
            server.start()
        watch(drivers, overview, presence, namespace=namespace, probe=lambda: probe(namespace))
    finally:
        presence.close()
        if server is not None:
            server.close()
        for hook in hooks:
            hook.close()
