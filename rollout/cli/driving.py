"""Drives a rollout with its outputs: log, page, terminal, metrics and webhook.

Also opens the target of a deployment and the source of the evidence that a command line names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from rollout.analysis.counts import LatencyScale
from rollout.engine.announcer import Background, Broadcast, Log
from rollout.engine.promoter import Outcome
from rollout.engine.session import RolloutTarget, Session
from rollout.engine.state import Command
from rollout.errors import PlanError
from rollout.evidence.prometheus import Mesh, PrometheusSource
from rollout.evidence.scrape import ScrapeSource
from rollout.evidence.source import Reading, Source
from rollout.process import recorded_signals
from rollout.reporting.metrics import Metrics
from rollout.reporting.report import Page
from rollout.reporting.terminal import Screen
from rollout.reporting.webhook import Webhook
from rollout.targets.local import LocalTarget
from rollout.targets.local_store import LocalStore
from rollout.targets.place import place_of
from rollout.targets.target import LeaseStore


@dataclass(frozen=True, slots=True)
class Driven:
    """The outcome, the paths of its log and page, and how a command line names the deployment."""

    outcome: Outcome
    log: Path
    page: Path
    options: str = ""


def drive(
    session: Session,
    source: Source,
    logs: Path,
    webhook: str,
    metrics: Metrics | None = None,
    *,
    command: Command | None = None,
) -> Driven:
    """Drive the active rollout until it is over or a signal arrives, and close the source.

    logs: the directory of the log and the page. webhook: none when empty. Raises RolloutError.
    """
    snapshot, found = session.active()
    log = Log(logs / f"{snapshot.deployment.name}-{found.id}.jsonl")
    place = place_of(session.target)
    page = Page(log.file, place=place)
    with recorded_signals() as came, Screen(Console(stderr=True)) as screen:
        hooks = [Background(Webhook(webhook))] if webhook else []
        everybody = Broadcast([log, page, screen, *([metrics] if metrics else []), *hooks])
        try:
            outcome = session.drive(source, everybody, command=command, stop=lambda: bool(came()))
        finally:
            source.close()
            for hook in hooks:
                hook.close()
    return Driven(outcome, log.file, page.file, f" {snapshot.deployment.name}{place.options}")


class NoEvidence:
    """A source without counts, for rollbacks and undo, which are not judged."""

    def sample(self, predictors: Sequence[str]) -> Reading:
        """Return nothing."""
        return Reading()

    def close(self) -> None:
        """Do nothing."""


def open_metrics(port: int) -> Metrics | None:
    """Serve the promoter's own metrics; None with port 0. Raises PlanError when the port is taken."""
    if not port:
        return None
    metrics = Metrics()
    try:
        metrics.serve(port)
    except OSError as error:
        raise PlanError(f"--metrics-port is {port}: {error.strerror}; choose a free one, or leave it out") from error
    return metrics


def open_target(target: str, name: str, *, namespace: str = "", context: str = "", state: Path) -> RolloutTarget:
    """Return the deployment's target; target: `kubernetes`, or `local` with the state directory of seldon_local.py."""
    if target == "local":
        return LocalTarget(LocalStore.of(state, namespace, name))
    # The client takes most of a second to import, and is not needed on one machine.
    from rollout.targets.kubernetes import KubernetesTarget
    from rollout.targets.kubernetes_connection import Connection

    return KubernetesTarget(name, Connection(namespace=namespace, context=context))


def open_presence(target: str, *, namespace: str = "", context: str = "") -> LeaseStore | None:
    """Return the lease of a controller in the namespace; None on one machine, where there is none."""
    if target == "local":
        return None
    from rollout.targets.kubernetes_connection import Connection
    from rollout.targets.kubernetes_lease import CONTROLLER, KubernetesLease

    return KubernetesLease(CONTROLLER, Connection(namespace=namespace, context=context))


def check_evidence(spec: str) -> None:
    """Check that a cluster's rollouts can be judged by this source. Raises PlanError."""
    kind, _, url = spec.partition("=")
    if kind != "prometheus" or not url:
        raise PlanError(f"evidence is {spec!r}; allowed: prometheus=http://HOST:PORT")


def open_source(
    spec: str,
    target: RolloutTarget,
    *,
    name: str = "",
    namespace: str = "",
    scale: LatencyScale = LatencyScale(),  # noqa: B008
) -> Source:
    """Return where the counts come from; spec: `prometheus=URL`, or `scrape` on this machine. Raises PlanError.

    name: the SeldonDeployment; with it the callers' view is read from the mesh too. scale: the latency buckets.
    """
    kind, _, url = spec.partition("=")
    if kind == "prometheus" and url:
        selector = {"namespace": namespace} if namespace else {}
        return PrometheusSource(url, selector=selector, scale=scale, mesh=Mesh.of(name) if name else None)
    if kind == "scrape" and isinstance(target, LocalTarget):
        return ScrapeSource(
            lambda predictor: target.metrics_urls().get(predictor, []), gateway=target.mesh_statistics, scale=scale
        )
    raise PlanError(f"evidence is {spec!r}; allowed: prometheus=http://HOST:PORT, or scrape with --target local")
