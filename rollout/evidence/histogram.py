"""The service's two histograms, read from samples of any origin and checked before they are believed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

from rollout.analysis.counts import LATENCY_EDGES_MS, SCORE_BINS, Counts
from rollout.errors import EvidenceMalformed

REQUESTS: Final = "serving_request_seconds_bucket"
SCORES: Final = "serving_score_bucket"
ROUTES: Final = ("predict", "v2_rest", "v2_grpc")
"""The routes that serve predictions; anything else would dilute the rates."""

# The labels the service gives its series. All others (job, endpoint, service, ...) come from whoever scraped it.
_OWN_LABELS: Final = ("model", "version", "route", "code")
_EDGES: Final[Mapping[str, tuple[float, ...]]] = {
    REQUESTS: (*(edge / 1000 for edge in LATENCY_EDGES_MS), math.inf),
    SCORES: (*((index + 1) / SCORE_BINS for index in range(SCORE_BINS)), math.inf),
}


class Sample(NamedTuple):
    """One value of one series, as the source gave it."""

    name: str
    labels: Mapping[str, str]
    value: float


class Key(NamedTuple):
    """What tells a histogram from all others: whose it is, in which process, and the service's own labels."""

    predictor: str
    process: str
    name: str
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Histogram:
    """One histogram of one process; `buckets` are cumulative counts and end with the one of +Inf."""

    key: Key
    buckets: tuple[int, ...]

    def counts(self, earlier: tuple[int, ...] | None = None) -> Counts:
        """Return what it has counted since `earlier` buckets, or since its process began."""
        since = [now - then for now, then in zip(self.buckets, earlier or (0,) * len(self.buckets), strict=True)]
        bins = [high - low for low, high in zip([0, *since], since, strict=False)]
        if self.key.name == SCORES:
            return Counts(scores=(*bins[: SCORE_BINS - 1], bins[SCORE_BINS - 1] + bins[SCORE_BINS]))
        code = int(self.key.labels[_OWN_LABELS.index("code")])
        return Counts.of_latency(bins, errors=since[-1] * (code >= 500), rejected=since[-1] * (400 <= code < 500))


def read(
    samples: Iterable[Sample], process: Callable[[Mapping[str, str]], str], *, predictor_label: str = "predictor"
) -> list[Histogram]:
    """Join bucket samples to histograms. `process` names the process that a series belongs to, from its labels.

    Raises EvidenceMalformed for a value that is no count, for two series of one process with the same labels of the
    service's own (it is scraped twice: adding them would count every request double), and for missing buckets.
    """
    found: dict[Key, dict[float, tuple[int, Mapping[str, str]]]] = {}
    for name, labels, value in samples:
        if name not in _EDGES or (name == REQUESTS and labels.get("route") not in ROUTES):
            continue
        own = tuple(labels.get(label, "") for label in _OWN_LABELS)
        key = Key(labels.get(predictor_label, ""), process(labels), name, own)
        if name == REQUESTS and not labels.get("code", "").isdigit():
            raise EvidenceMalformed(
                f"{name} of {key.process} has code={labels.get('code')!r}; an HTTP status is wanted"
            )
        if not (math.isfinite(value) and value >= 0):
            raise EvidenceMalformed(f"{name}{dict(labels)} is {value}; a finite count is wanted")
        buckets = found.setdefault(key, {})
        edge = _edge(name, labels)
        if edge in buckets:
            raise EvidenceMalformed(_doubled(key, labels, buckets[edge][1]))
        buckets[edge] = (int(value), labels)
    return [_checked(key, {edge: count for edge, (count, _) in buckets.items()}) for key, buckets in found.items()]


def _edge(name: str, labels: Mapping[str, str]) -> float:
    try:
        return float(labels["le"])
    except (KeyError, ValueError):
        raise EvidenceMalformed(f"{name} has a bucket with le={labels.get('le')!r}; a number is wanted") from None


def _checked(key: Key, buckets: Mapping[float, int]) -> Histogram:
    wanted = _EDGES[key.name]
    if set(buckets) != set(wanted):
        missing, foreign = sorted(set(wanted) - set(buckets)), sorted(set(buckets) - set(wanted))
        raise EvidenceMalformed(
            f"{key.name} of {key.process} lacks the buckets {missing} and has {foreign} beyond them"
        )
    ordered = tuple(buckets[edge] for edge in wanted)
    if any(low > high for low, high in pairwise(ordered)):
        raise EvidenceMalformed(f"{key.name} of {key.process} falls from bucket to bucket: {ordered}")
    return Histogram(key, ordered)


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
