"""The promoter's metrics, on a separate registry; all names begin with serving_rollout_."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from rollout.engine.record import SAMPLE, Record
from rollout.engine.state import Phase, RolloutState


class Metrics:
    """A subscriber that updates the metrics."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._phase = Gauge(
            "serving_rollout_phase",
            "1 for the phase that the rollout is in",
            ["deployment", "phase"],
            registry=self.registry,
        )
        self._weight = Gauge(
            "serving_rollout_weight_percent", "What the rollout asks of the mesh", ["deployment", "predictor"],
            registry=self.registry,
        )  # fmt: skip
        self._verdicts = Counter(
            "serving_rollout_verdicts_total", "Answers of the gates", ["deployment", "gate", "verdict"],
            registry=self.registry,
        )  # fmt: skip
        self._changes = Counter(
            "serving_rollout_changes_total",
            "Typed reasons as they came",
            ["deployment", "reason"],
            registry=self.registry,
        )
        self._rollbacks = Counter(
            "serving_rollout_rollbacks_total", "Rollbacks by the stage that worked", ["deployment", "stage"],
            registry=self.registry,
        )  # fmt: skip
        self._looked = Gauge(
            "serving_rollout_last_look_seconds", "Unix time of the last look", ["deployment"], registry=self.registry
        )

    def serve(self, port: int) -> None:
        """Serve the registry on a port, in a daemon thread."""
        start_http_server(port, registry=self.registry)

    def notify(self, record: Record, state: RolloutState) -> None:
        """Process one record."""
        for phase in Phase:
            self._phase.labels(record.deployment, phase.value).set(phase is state.phase)
        for predictor, weight in record.weights_percent.items():
            self._weight.labels(record.deployment, predictor).set(weight)
        for result in record.verdicts:
            self._verdicts.labels(record.deployment, result.name, result.verdict.value).inc()
        if record.event != SAMPLE:
            self._changes.labels(record.deployment, record.event).inc()
        if state.phase is Phase.ROLLED_BACK:
            self._rollbacks.labels(record.deployment, state.rollback_stage).inc()
        self._looked.labels(record.deployment).set(record.at_s)
