"""The controller's metrics of all rollouts that it knows, read at each scrape."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from rollout.controller.overview import Overview

LABELS = ("namespace", "deployment")


class RolloutCollector(Collector):
    """Exports for each known rollout whether it is under way, and when its driver was last seen alive."""

    def __init__(self, overview: Overview) -> None:
        self._overview = overview

    def collect(self) -> Iterator[Metric]:
        """Return the families with one sample for each deployment; a rollout that is over has no driver."""
        under_way = GaugeMetricFamily(
            "serving_rollout_under_way", "1 while the last rollout of a deployment is not over", labels=LABELS
        )
        seen = GaugeMetricFamily(
            "serving_rollout_driver_seen_seconds",
            "Unix time at which the driver of a rollout under way was last seen alive",
            labels=LABELS,
        )
        for entry in self._overview.entries():
            under_way.add_metric((entry.namespace, entry.name), float(entry.under_way))
            if entry.under_way:
                seen.add_metric((entry.namespace, entry.name), entry.driver_seen_s)
        yield under_way
        yield seen
