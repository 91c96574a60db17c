"""What the gateway of this machine has seen of each predictor: Envoy's own statistics, as Istio's are in a cluster.

The pods count what they have answered. The gateway also counts what they have not: a refused connection, a reset, no
ready replica at all. Its counts begin anew when its process does.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from rollout.errors import EvidenceMalformed
from rollout.evidence.histogram import ENVOY, GRPC_CANCELLED, GRPC_ERRORS, REQUEST_TIMEOUT, Key, Series

_CLUSTER: Final = re.compile(r"(rest|grpc)-(.+)")
_GRPC_STATUS: Final = re.compile(r"envoy_cluster_grpc_Model(?:Stream)?Infer_(\d+)_total")
_UNANSWERED: Final = (
    "envoy_cluster_upstream_cx_destroy_remote_with_active_rq_total",  # the connection broke with a request on it
    "envoy_cluster_upstream_rq_rx_reset_total",  # a replica reset one stream of a connection (HTTP/2)
    "envoy_cluster_upstream_rq_pending_failure_eject_total",  # no connection could be made
    "envoy_cluster_upstream_cx_none_healthy_total",  # no replica was ready
)


@dataclass(frozen=True, slots=True)
class MeshCounts:
    """The requests of one predictor since the gateway's process began: REST, and gRPC's inference calls.

    Copies for a shadow count over REST only: Envoy does not read the gRPC status of a copy; the shadow itself does.

    errors: answered with 5xx, or a gRPC status that stands for one, by a replica or by the gateway in its place.
    rejected: answered with 4xx, or any other gRPC status but OK and CANCELLED. timeouts: those answered with 408, which
    are part of `rejected`. resets: those of the errors that no replica has answered. latency: (upper edge in ms,
    requests up to it) of what replicas answered, cumulative and ending with infinity; it may be half a second older
    than the counters.
    """

    requests: int = 0
    errors: int = 0
    rejected: int = 0
    timeouts: int = 0
    resets: int = 0
    latency: tuple[tuple[float, int], ...] = ()


def envoy_stats(page: bytes) -> dict[str, MeshCounts]:
    """Return the counts of each predictor that Envoy knows. Raises EvidenceMalformed for a page of anything else."""
    counts: dict[str, Counter[str]] = {}
    latency: dict[str, Counter[float]] = {}
    for protocol, predictor, sample in _samples(page):
        found = counts.setdefault(predictor, Counter())
        value = int(sample.value)
        if sample.name == "envoy_cluster_upstream_rq_time_bucket":
            latency.setdefault(predictor, Counter())[float(sample.labels["le"])] += value
        elif sample.name in _UNANSWERED:
            found["resets"] += value
        elif protocol == "rest" and sample.name == "envoy_cluster_upstream_rq_completed_total":
            found["requests"] += value
        elif protocol == "rest" and sample.name == "envoy_cluster_upstream_rq_xx_total":
            kind = {"4": "rejected", "5": "errors"}.get(sample.labels["envoy_response_code_class"], "")
            found[kind] += value
        elif protocol == "rest" and sample.labels.get("envoy_response_code") == str(REQUEST_TIMEOUT):
            found["timeouts"] += value
        elif protocol == "grpc" and (status := _GRPC_STATUS.fullmatch(sample.name)):
            number = int(status[1])
            found["requests"] += value
            answered = number in (0, GRPC_CANCELLED)
            found["errors" if number in GRPC_ERRORS else "ok" if answered else "rejected"] += value
    return {
        predictor: MeshCounts(
            found["requests"],
            found["errors"],
            found["rejected"],
            found["timeouts"],
            found["resets"],
            tuple(sorted(latency.get(predictor, Counter()).items())),
        )
        for predictor, found in counts.items()
    }


def gateway_series(page: bytes, *, at_s: float, slo_ms: float) -> list[Series]:
    """Return one series per predictor for the Ledger. Raises EvidenceMalformed, also when no bucket ends at `slo_ms`.

    The values: requests, errors, rejections, those with 408, answers with a latency, and those within `slo_ms`.
    """
    series = []
    for predictor, counts in envoy_stats(page).items():
        latency = dict(counts.latency) or {slo_ms: 0, math.inf: 0}  # no answer yet
        if slo_ms not in latency:
            edges = ", ".join(f"{edge:g}" for edge in latency)
            raise EvidenceMalformed(f"Envoy's latency buckets have no edge at the objective of {slo_ms:g} ms: {edges}")
        values = (counts.requests, counts.errors, counts.rejected, counts.timeouts, latency[math.inf], latency[slo_ms])
        series.append(Series(Key(predictor, "gateway", ENVOY, ()), ((at_s, values),)))
    return series


def _samples(page: bytes) -> Iterator[tuple[str, str, Sample]]:
    try:
        for family in text_string_to_metric_families(page.decode()):
            for sample in family.samples:
                if cluster := _CLUSTER.fullmatch(sample.labels.get("envoy_cluster_name", "")):
                    yield cluster[1], cluster[2], sample
    except ValueError as error:
        raise EvidenceMalformed(f"Envoy's statistics cannot be read: {error}") from error
