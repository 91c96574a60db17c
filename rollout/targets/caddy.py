"""Weights in Caddy's configuration: how the local mesh is read and written. Pure; the admin API is the caller's.

A split is a `reverse_proxy` handler marked `"@id": "split:<protocol>"`; each of its upstreams is marked
`"@id": "<protocol>:<predictor>:<port>"`. There is one split per protocol (REST, gRPC), and all have equal weights.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

SPLIT = "split:"


def read_weights(config: Mapping[str, Any]) -> dict[str, int]:
    """Return percent per predictor as Caddy routes now; empty while nothing is routed.

    Raises ValueError when the splits differ, which only a hand-made change of the configuration can bring about.
    """
    found: dict[str, int] | None = None
    for split in splits(config):
        weights = split["load_balancing"]["selection_policy"]["weights"]
        sums: Counter[str] = Counter()
        for name, weight in zip(_predictors(split), weights, strict=True):
            sums[name] += weight
        percents = {name: round(100 * weight / sums.total()) for name, weight in sums.items()}
        if found is not None and percents != found:
            raise ValueError(f"the splits differ: {found} and {percents} in {split['@id']}")
        found = percents
    return found or {}


def with_weights(config: Mapping[str, Any], percents: Mapping[str, int]) -> dict[str, Any]:
    """Return a copy whose splits have these weights; a predictor that is not named gets nothing.

    Raises ValueError when a predictor with weight has no upstream, or nothing is routed yet.
    """
    changed = copy.deepcopy(dict(config))
    found = list(splits(changed))
    if not found:
        raise ValueError("nothing is routed yet: no predictor has been ready")
    for split in found:
        split["load_balancing"]["selection_policy"]["weights"] = upstream_weights(_predictors(split), percents)
    return changed


def upstream_weights(predictors: Sequence[str], percents: Mapping[str, int]) -> list[int]:
    """Return the smallest whole weights, one per upstream, that split by percent and evenly within a predictor.

    The smallest, because Caddy serves a weight's requests in a row: 9 and 1 mix finer than 90 and 10. Raises ValueError
    when a predictor with weight has no upstream, or none has any weight.
    """
    replicas = Counter(predictors)
    if missing := [name for name, percent in percents.items() if percent and name not in replicas]:
        known = ", ".join(replicas) or "none"
        raise ValueError(f"{', '.join(missing)} has weight and no upstream; predictors with upstreams: {known}")
    common = math.lcm(*replicas.values())
    weights = [percents.get(name, 0) * common // replicas[name] for name in predictors]
    divisor = math.gcd(*weights)
    if not divisor:
        raise ValueError(f"no predictor has any weight: {dict(percents)}")
    return [weight // divisor for weight in weights]


def splits(config: Any) -> Iterator[dict[str, Any]]:
    """Yield every split of a configuration, wherever it is nested."""
    if isinstance(config, Mapping):
        if str(config.get("@id", "")).startswith(SPLIT):
            yield dict(config) if not isinstance(config, dict) else config
            return
        for value in config.values():
            yield from splits(value)
    elif isinstance(config, list):
        for value in config:
            yield from splits(value)


def _predictors(split: Mapping[str, Any]) -> list[str]:
    return [str(upstream["@id"]).split(":")[1] for upstream in split["upstreams"]]
