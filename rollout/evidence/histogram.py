"""The service's two histograms, and a gateway's counters, read from samples of any origin and checked before use.

What a caller has caused is neither an error nor a rejection. A request that its caller gave up (499, gRPC CANCELLED, or
a connection that the caller closed) counts as a request and by its latency only, because callers also give up what is
too slow. One whose body the caller did not send in time (408) is not counted at all: its duration is the caller's too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

from rollout.analysis.counts import ZERO, Counts, LatencyScale
from rollout.errors import EvidenceMalformed

REQUESTS: Final = "serving_request_seconds_bucket"
SCORES: Final = "serving_score_bucket"
MESH_REQUESTS: Final = "istio_requests_total"
MESH_LATENCY: Final = "istio_request_duration_milliseconds_bucket"
ENVOY: Final = "envoy"
"""The name of what Envoy's own statistics give; its values are listed in envoy_stats.py."""
ROUTES: Final = ("predict", "v2_rest", "v2_grpc")
"""The routes that serve predictions; anything else would dilute the rates."""

# The labels the service gives its series. All others (job, endpoint, service, ...) come from whoever scraped it.
_OWN_LABELS: Final = ("model", "version", "route", "code")
_MESH_LABELS: Final = ("response_code", "response_flags", "request_protocol", "grpc_response_status")
REQUEST_TIMEOUT: Final = 408
CLIENT_CLOSED: Final = 499
GRPC_CANCELLED: Final = 1
# UNKNOWN, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, INTERNAL, UNAVAILABLE, DATA_LOSS: what REST would answer with 5xx.
GRPC_ERRORS: Final = frozenset({2, 4, 8, 13, 14, 15})


class Sample(NamedTuple):
    """The values of one series as the source gave them, oldest first, with the time of their scrape in seconds."""

    name: str
    labels: Mapping[str, str]
    points: tuple[tuple[float, float], ...]


class Key(NamedTuple):
    """What tells a counter from all others: whose it is, in which process, and its own labels."""

    predictor: str
    process: str
    name: str
    labels: tuple[str, ...]


Values = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Series:
    """One counter of one process, or the cumulative buckets of one histogram, with +Inf last; oldest point first."""

    key: Key
    points: tuple[tuple[float, Values], ...]
    slo_index: int = 0

    @property
    def at_s(self) -> float:
        """When it was last scraped."""
        return self.points[-1][0]

    @property
    def last(self) -> Values:
        """What it last was."""
        return self.points[-1][1]

    def counts(self, gained: Values) -> Counts:
        """Return what a gain of these values means."""
        name, labels = self.key.name, self.key.labels
        if name == ENVOY:
            return _envoy_counts(gained)
        if name in (MESH_REQUESTS, MESH_LATENCY):
            is_error, is_rejected = _mesh_outcome(*labels[: len(_MESH_LABELS)])
            if int(labels[0]) == REQUEST_TIMEOUT:
                return ZERO
            if name == MESH_LATENCY:
                return Counts(slow=gained[-1] - gained[self.slo_index])
            return Counts(requests=gained[0], errors=gained[0] * is_error, rejected=gained[0] * is_rejected)
        bins = [high - low for low, high in zip([0, *gained], gained, strict=False)]
        if name == SCORES:
            # What is beyond the declared range counts as the highest bin.
            return Counts(scores=(*bins[:-2], bins[-2] + bins[-1]))
        code = int(labels[_OWN_LABELS.index("code")])
        if code == REQUEST_TIMEOUT:
            return ZERO
        errors, rejected = gained[-1] * (code >= 500), gained[-1] * _is_rejected(code)
        return Counts.of_latency(bins, errors=errors, rejected=rejected, slo_bucket=self.slo_index + 1)


def _is_rejected(code: int) -> bool:
    return 400 <= code < 500 and code != CLIENT_CLOSED


def _mesh_outcome(code: str, flags: str, protocol: str, grpc_status: str) -> tuple[bool, bool]:
    """Say whether the mesh's labels mean an error, and whether a rejection."""
    if "DC" in flags.split(","):  # the caller closed the connection (downstream connection termination)
        return False, False
    if protocol == "grpc" and grpc_status.isdigit():
        status = int(grpc_status)
        return status in GRPC_ERRORS, status not in {0, GRPC_CANCELLED, *GRPC_ERRORS}
    # 0 is what the mesh writes when the connection broke before any answer.
    return int(code) >= 500 or int(code) == 0, _is_rejected(int(code))


def _envoy_counts(gained: Values) -> Counts:
    """Return what a gain of Envoy's counters means; they are read one after the other, so a difference may lag."""
    requests, errors, rejected, timeouts, answered, fast = gained
    return Counts(
        requests=max(0, requests - timeouts),
        errors=errors,
        rejected=max(0, rejected - timeouts),
        slow=max(0, answered - fast),
    )


def read(
    samples: Iterable[Sample],
    process: Callable[[Mapping[str, str]], str],
    *,
    scale: LatencyScale,
    predictor_label: str = "predictor",
) -> list[Series]:
    """Join bucket samples to histograms. `process` names the process that a series belongs to, from its labels.

    Raises EvidenceMalformed for a value that is no count, for two series of one process with the same labels of the
    service's own (it is scraped twice: adding them would count every request double), and for missing buckets.
    """
    found: dict[Key, dict[float, Sample]] = {}
    for sample in samples:
        name, labels, points = sample
        if name not in (REQUESTS, SCORES) or (name == REQUESTS and labels.get("route") not in ROUTES) or not points:
            continue
        own = tuple(labels.get(label, "") for label in _OWN_LABELS)
        key = Key(labels.get(predictor_label, ""), process(labels), name, own)
        if name == REQUESTS and not labels.get("code", "").isdigit():
            raise EvidenceMalformed(
                f"{name} of {key.process} has code={labels.get('code')!r}; an HTTP status is wanted"
            )
        _check_counts(sample)
        buckets = found.setdefault(key, {})
        edge = _edge(name, labels)
        if edge in buckets:
            raise EvidenceMalformed(_doubled(key, labels, buckets[edge].labels))
        buckets[edge] = sample
    wanted = {
        REQUESTS: (*(edge / 1000 for edge in scale.edges_ms), math.inf),
        SCORES: _score_edges({key: buckets for key, buckets in found.items() if key.name == SCORES}),
    }
    return [_joined(key, buckets, wanted[key.name], scale.slo_bucket - 1) for key, buckets in found.items()]


def read_mesh(
    samples: Iterable[Sample], predictor: Callable[[Mapping[str, str]], str], *, slo_ms: float
) -> list[Series]:
    """Read what a gateway counted: requests by status, and how many were slower than the objective.

    predictor: names the predictor that a series belongs to, or returns the empty string for others. Series that differ
    only in labels beyond the status are separate counters. Raises EvidenceMalformed, also when the mesh's buckets have
    no edge at the objective.
    """
    found: dict[Key, dict[float, Sample]] = {}
    for sample in samples:
        name, labels, points = sample
        whose = predictor(labels)
        if name not in (MESH_REQUESTS, MESH_LATENCY) or not points or not whose:
            continue
        if not labels.get("response_code", "").isdigit():
            raise EvidenceMalformed(
                f"{name} has response_code={labels.get('response_code')!r}; an HTTP status is wanted"
            )
        _check_counts(sample)
        process = f"{labels.get('namespace', '')}/{labels['pod']}" if "pod" in labels else labels.get("instance", "")
        others = sorted(
            (label, value) for label, value in labels.items() if label not in ("le", "__name__", *_MESH_LABELS)
        )
        own = (*(labels.get(label, "") for label in _MESH_LABELS), str(others))
        edge = _edge(name, labels) if name == MESH_LATENCY else math.inf
        found.setdefault(Key(whose, f"gateway {process}", name, own), {})[edge] = sample
    series = []
    for key, buckets in found.items():
        edges = tuple(sorted(buckets))
        if key.name == MESH_LATENCY and slo_ms not in edges:
            raise EvidenceMalformed(
                f"the mesh's latency buckets have no edge at the objective of {slo_ms:g} ms, only "
                f"{', '.join(f'{edge:g}' for edge in edges)}; choose one of them as gates.slo_ms, or leave the mesh out"
            )
        series.append(_joined(key, buckets, edges, edges.index(slo_ms) if key.name == MESH_LATENCY else 0))
    return series


def _score_edges(found: Mapping[Key, Mapping[float, Sample]]) -> tuple[float, ...]:
    """Return the edges that the predictors' score histograms share: what a score is follows from their contract.

    Its bins are equally wide, and all predictors have the same ones: other scores cannot be compared. Raises
    EvidenceMalformed.
    """
    edges = tuple(sorted({edge for buckets in found.values() for edge in buckets}))
    finite = [edge for edge in edges if math.isfinite(edge)]
    widths = [high - low for low, high in pairwise(finite)]
    if edges and (not finite or edges[-1] != math.inf or (widths and max(widths) > 1.001 * min(widths))):
        raise EvidenceMalformed(
            f"{SCORES} has the edges {', '.join(f'{edge:g}' for edge in edges)}; equally wide bins and +Inf are "
            "wanted, the same for every predictor: bins are missing, or the predictors serve different contracts"
        )
    return edges


def _check_counts(sample: Sample) -> None:
    for _, value in sample.points:
        if not (math.isfinite(value) and value >= 0):
            raise EvidenceMalformed(f"{sample.name}{dict(sample.labels)} is {value}; a finite count is wanted")


def _edge(name: str, labels: Mapping[str, str]) -> float:
    try:
        return float(labels["le"])
    except (KeyError, ValueError):
        raise EvidenceMalformed(f"{name} has a bucket with le={labels.get('le')!r}; a number is wanted") from None


def _joined(key: Key, buckets: Mapping[float, Sample], wanted: tuple[float, ...], slo_index: int) -> Series:
    """Put the buckets side by side, at the times that all of them have: a scrape is stored bucket by bucket."""
    if set(buckets) != set(wanted):
        missing, foreign = sorted(set(wanted) - set(buckets)), sorted(set(buckets) - set(wanted))
        raise EvidenceMalformed(
            f"{key.name} of {key.process} lacks the buckets {missing} and has {foreign} beyond them; the buckets of "
            "the service are set as gates.latency_edges_ms"
        )
    times = sorted(set.intersection(*({at_s for at_s, _ in sample.points} for sample in buckets.values())))
    if not times:
        raise EvidenceMalformed(f"{key.name} of {key.process} has buckets that were never scraped together")
    by_edge = [dict(buckets[edge].points) for edge in wanted]
    points = tuple((at_s, tuple(int(values[at_s]) for values in by_edge)) for at_s in times)
    for _, ordered in points:
        if any(low > high for low, high in pairwise(ordered)):
            raise EvidenceMalformed(f"{key.name} of {key.process} falls from bucket to bucket: {ordered}")
    return Series(key, points, slo_index)


def _doubled(key: Key, labels: Mapping[str, str], other: Mapping[str, str]) -> str:
    differing = {
        name: (other.get(name), labels.get(name))
        for name in sorted({*labels, *other})
        if labels.get(name) != other.get(name)
    }
    return (
        f"{key.name} of {key.process} exists twice, differing in {differing or 'nothing'}: it is scraped by two jobs; "
        "remove one, or select one with a label such as job"
    )
