"""A quality check as Prometheus metrics: text for node_exporter's textfile collector, or pushed to a Pushgateway.

serving_quality{model,version,metric,bound="value|low|high"}
serving_quality_class{model,version,label,metric,bound}  the same of one class of several
serving_quality_labels{model,version}
serving_quality_drift{model,version,input}             PSI against the training profile, unless it is within chance
serving_quality_feature_age_seconds{model,version,quantile}
serving_quality_challenger{model,version,challenger,metric,bound}   challenger minus champion
serving_quality_timestamp_seconds{model}                when the check was made
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, Gauge, generate_latest, push_to_gateway

from handoff.errors import DataError
from handoff.quality.results import Measure, Quality

JOB = "quality"
PUSH_TIMEOUT_S = 10.0


def render_metrics(quality: Quality) -> bytes:
    """Return the metrics of a check as text."""
    return generate_latest(registry_of(quality))


def push_metrics(quality: Quality, gateway: str) -> None:
    """Replace what a Pushgateway holds of this model. Raises DataError."""
    try:
        push_to_gateway(
            gateway, JOB, registry_of(quality), grouping_key={"model": quality.model}, timeout=PUSH_TIMEOUT_S
        )
    except OSError as error:
        raise DataError(
            f"the Pushgateway {gateway} did not take the metrics: {error}; allowed: http://host:port"
        ) from error


def registry_of(quality: Quality) -> CollectorRegistry:
    """Return a registry that holds the metrics of a check."""
    registry = CollectorRegistry()
    model = quality.model
    values = Gauge(
        "serving_quality", "A quality metric of labelled predictions, with its 95 % interval.",
        ("model", "version", "metric", "bound"), registry=registry,
    )  # fmt: skip
    classes = Gauge(
        "serving_quality_class", "A quality metric of one class, with its 95 % interval.",
        ("model", "version", "label", "metric", "bound"), registry=registry,
    )  # fmt: skip
    labels = Gauge("serving_quality_labels", "Labelled predictions.", ("model", "version"), registry=registry)
    drift = Gauge(
        "serving_quality_drift", "Population stability index against the training profile.",
        ("model", "version", "input"), registry=registry,
    )  # fmt: skip
    age = Gauge(
        "serving_quality_feature_age_seconds", "Age of the stored features when they were scored.",
        ("model", "version", "quantile"), registry=registry,
    )  # fmt: skip
    challenger = Gauge(
        "serving_quality_challenger", "A challenger's metric minus the champion's, with its 95 % interval.",
        ("model", "version", "challenger", "metric", "bound"), registry=registry,
    )  # fmt: skip
    made = Gauge("serving_quality_timestamp_seconds", "When quality was measured.", ("model",), registry=registry)
    made.labels(model).set(quality.made.timestamp())
    for version in quality.versions:
        labels.labels(model, version.version).set(version.overall.labels)
        for name, bound, value in _bounds(version.overall.measures):
            values.labels(model, version.version, name, bound).set(value)
        for found in version.classes:
            for name, bound, value in _bounds(found.measures):
                classes.labels(model, version.version, found.label, name, bound).set(value)
    for version_name, drifts in quality.drift.items():
        for moved in (one for one in drifts if one.verdict != "within chance"):
            drift.labels(model, version_name, moved.name).set(moved.psi)
    for fresh in quality.freshness:
        for quantile, seconds in (("0.5", fresh.median_s), ("0.95", fresh.p95_s)):
            if seconds is not None:
                age.labels(model, fresh.version, quantile).set(seconds)
    for challenge in quality.challenges:
        for difference in challenge.comparison.differences:
            bounds = (("value", difference.difference), ("low", difference.low), ("high", difference.high))
            for bound, value in bounds:
                named = (challenge.champion, challenge.challenger, difference.metric, bound)
                challenger.labels(model, *named).set(value)
    return registry


def _bounds(measures: Mapping[str, Measure]) -> Iterator[tuple[str, str, float]]:
    """Yield (metric, bound, value) of what is defined."""
    for name, measure in measures.items():
        for bound, value in (("value", measure.value), ("low", measure.low), ("high", measure.high)):
            if value is not None:
                yield name, bound, value
