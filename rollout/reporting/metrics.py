"""The promoter's metrics, on a separate registry; all names begin with serving_rollout_."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from rollout.engine.record import SAMPLE, Record
from rollout.engine.state import Phase, RolloutState


class Metrics:
    """A subscriber that updates the metrics."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        one = ("namespace", "deployment")
        self._phase = self._gauge("serving_rollout_phase", "1 for the phase that the rollout is in", *one, "phase")
        self._weight = self._gauge(
            "serving_rollout_weight_percent", "What the rollout asks of the mesh", *one, "predictor"
        )
        self._verdicts = self._counter(
            "serving_rollout_verdicts_total", "Answers of the gates", *one, "gate", "verdict"
        )
        self._changes = self._counter("serving_rollout_changes_total", "Typed reasons as they came", *one, "reason")
        self._rollbacks = self._counter(
            "serving_rollout_rollbacks_total", "Rollbacks by the stage that worked", *one, "stage"
        )
        self._looked = self._gauge("serving_rollout_last_look_seconds", "Unix time of the last look", *one)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def serve(self, port: int) -> None:
        """Serve the registry on a port, in a daemon thread."""
        start_http_server(port, registry=self.registry)

    def notify(self, record: Record, state: RolloutState) -> None:
        """Process one record of the only deployment; Prometheus adds the namespace."""
        self.update("", record, state)

    def update(self, namespace: str, record: Record, state: RolloutState) -> None:
        """Process one record of a deployment in a namespace."""
        for phase in Phase:
            self._phase.labels(namespace, record.deployment, phase.value).set(phase is state.phase)
        for predictor, weight in record.weights_percent.items():
            self._weight.labels(namespace, record.deployment, predictor).set(weight)
        for result in record.verdicts:
            self._verdicts.labels(namespace, record.deployment, result.name, result.verdict.value).inc()
        if record.event != SAMPLE:
            self._changes.labels(namespace, record.deployment, record.event).inc()
        if state.phase is Phase.ROLLED_BACK:
            self._rollbacks.labels(namespace, record.deployment, state.rollback_stage).inc()
        self._looked.labels(namespace, record.deployment).set(record.at_s)


class NamespaceMetrics:
    """A subscriber for the deployments of one namespace, beside others on the same metrics."""

    def __init__(self, metrics: Metrics, namespace: str) -> None:
        self._metrics = metrics
        self._namespace = namespace

    def notify(self, record: Record, state: RolloutState) -> None:
        """Process one record."""
        self._metrics.update(self._namespace, record, state)
