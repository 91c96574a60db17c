"""Opens what a command line names: the place of a deployment, and the source of its evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rollout.counts import Counts
from rollout.errors import PlanError
from rollout.evidence.prometheus import PrometheusSource
from rollout.evidence.scrape import ScrapeSource
from rollout.evidence.source import Source
from rollout.session import Place
from rollout.targets.local import LocalTarget
from rollout.targets.local_store import LocalStore


class NoEvidence:
    """A source without counts, for the ways back: they are not judged."""

    def sample(self, predictors: Sequence[str]) -> Mapping[str, Counts]:
        """Return nothing."""
        return {}

    def close(self) -> None:
        """Do nothing."""


def open_place(target: str, name: str, *, namespace: str = "", context: str = "", state: Path) -> Place:
    """Return the deployment's place; target: `kubernetes`, or `local` with the state directory of seldon_local.py."""
    if target == "local":
        return LocalTarget(LocalStore.of(state, namespace, name))
    # The client takes most of a second to import, and is not wanted on one machine.
    from rollout.targets.kubernetes import KubernetesTarget
    from rollout.targets.kubernetes_connection import Connection

    return KubernetesTarget(name, Connection(namespace=namespace, context=context))


def open_source(spec: str, place: Place, *, namespace: str = "") -> Source:
    """Return where the counts come from; spec: `prometheus=URL`, or `scrape` on this machine. Raises PlanError."""
    kind, _, url = spec.partition("=")
    if kind == "prometheus" and url:
        return PrometheusSource(url, selector={"namespace": namespace} if namespace else {})
    if kind == "scrape" and isinstance(place, LocalTarget):
        return ScrapeSource(lambda predictor: place.metrics_urls().get(predictor, []))
    raise PlanError(f"evidence is {spec!r}; allowed: prometheus=http://HOST:PORT, or scrape with --target local")
