"""A quality check as Prometheus text, for node_exporter's textfile collector or a Pushgateway.

serving_quality{model,version,metric,bound="value|low|high"}
serving_quality_labels{model,version}
serving_quality_drift{model,version,input}             PSI against the training profile
serving_quality_feature_age_seconds{model,version,quantile}
serving_quality_challenger{model,version,challenger,metric,bound}   challenger minus champion
serving_quality_timestamp_seconds{model}                when the check was made
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from handoff.quality.results import Quality


def render_metrics(quality: Quality) -> bytes:
    """Return the metrics of a check as text."""
    registry = CollectorRegistry()
    model = quality.model
    values = Gauge(
        "serving_quality", "A quality metric of labelled predictions, with its 95 % interval.",
        ("model", "version", "metric", "bound"), registry=registry,
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
        for name, measure in version.overall.measures.items():
            for bound, value in (("value", measure.value), ("low", measure.low), ("high", measure.high)):
                if value is not None:
                    values.labels(model, version.version, name, bound).set(value)
    for version_name, drifts in quality.drift.items():
        for found in drifts:
            drift.labels(model, version_name, found.name).set(found.psi)
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
    return generate_latest(registry)
