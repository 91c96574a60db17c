"""Computes how many pods a share of the requests needs, and the patches that provide them before the weight changes.

Where the plan has the measured capacity of a pod, and the evidence shows what callers ask for, a share needs

    pods = share * present requests/s / (pod_rps * target utilisation)

and stable needs as many for all requests, because they return to it in a rollback. Otherwise the reference is the
number of stable pods that served all requests when the rollout began; an autoscaler has already sized it. Stable keeps
these pods during the rollout, and the canary gets its proportion of them before its weight rises. A higher minimum
restarts no pod. The original values are restored when the rollout ends.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rollout.engine.state import RolloutState
from rollout.manifest.parsing import to_dict
from rollout.manifest.predictor import Predictor
from rollout.manifest.seldon import SeldonDeployment
from rollout.targets.target import Operation, Snapshot

STAY_SHARE = 0.75
"""The tolerated share of missing pods: an autoscaler that targets 60 % utilisation leaves this much spare capacity."""
Scaling = dict[str, int | None]
"""JSON pointer within the predictor -> the number before the rollout, None where there was none."""


def pods_needed(state: RolloutState, predictor: Predictor | None, percent: int) -> int:
    """Return how many ready pods a share of the requests needs: at least one, at most the autoscaler's maximum."""
    measured = _measured(state, predictor, percent)
    return _within_maximum(_proportional(state, percent) if measured is None else measured, predictor)


def pods_to_keep(state: RolloutState, predictor: Predictor | None, percent: int) -> int:
    """Return how many pods the present share is judged by: more traffic since it was set makes no pod unready."""
    proportional = _proportional(state, percent)
    return _within_maximum(min(proportional, _measured(state, predictor, percent) or proportional), predictor)


def stable_needed(state: RolloutState, deployment: SeldonDeployment) -> int:
    """Return how many pods stable needs to take all requests back; 0 without a measured capacity, and in an undo."""
    stable = next((one for one in deployment.predictors if one.name == state.stable), None)
    measured = _measured(state, stable, 100) if state.analyse and stable else None
    return _within_maximum(measured, stable) if measured else 0


def explain_need(state: RolloutState, predictor: Predictor | None) -> str:
    """Return what the measured need is computed from, as text; empty where it is not."""
    capacity, rps = state.plan.capacity, state.traffic.rps
    if capacity is None or rps is None:
        return ""
    used = _utilisation_percent(state, predictor)
    return f"callers ask for {rps:,.0f} requests/s, a pod serves {capacity.pod_rps:,.0f} of which {used} % are used"


def _proportional(state: RolloutState, percent: int) -> int:
    return max(1, math.ceil(state.stable_pods * percent / 100))


def _measured(state: RolloutState, predictor: Predictor | None, percent: int) -> int | None:
    """Return the pods by the measured capacity; None where it or the traffic is not known."""
    capacity, rps = state.plan.capacity, state.traffic.rps
    if capacity is None or rps is None:
        return None
    usable_rps = capacity.pod_rps * _utilisation_percent(state, predictor) / 100
    return max(1, math.ceil(rps * percent / 100 / usable_rps))


def _utilisation_percent(state: RolloutState, predictor: Predictor | None) -> int:
    """Return the share of a pod's capacity that is used: the plan's, or the target of the predictor's autoscaler."""
    capacity = state.plan.capacity
    if capacity is not None and capacity.target_utilisation_percent is not None:
        return capacity.target_utilisation_percent
    scalers = [component.hpa_spec for component in predictor.component_specs] if predictor else []
    targets = [target for one in scalers if one is not None and (target := one.target_utilisation_percent)]
    return min(targets, default=100)


def _within_maximum(pods: int, predictor: Predictor | None) -> int:
    return min([pods, *(limit for _, _, limit in _knobs(predictor) if limit)]) if predictor else pods


def pods_to_stay(needed: int) -> int:
    """Return how many of the needed pods must stay ready. One pod that is rescheduled does not cause a rollback."""
    return max(1, math.floor(STAY_SHARE * needed))


def raised(snapshot: Snapshot, name: str, pods: int) -> tuple[list[Operation], Scaling]:
    """Return the operations that set a predictor's minimum to this many pods, and the values that they replace."""
    operations: list[Operation] = []
    before: Scaling = {}
    for position, predictor in enumerate(snapshot.deployment.predictors):
        if predictor.name != name:
            continue
        for pointer, current, limit in _knobs(predictor):
            wanted = min(pods, limit) if limit else pods
            if (current or 1) < wanted:
                before[pointer] = current
                operations.append({"op": "add", "path": f"/spec/predictors/{position}{pointer}", "value": wanted})
    return operations, before


def with_pods(predictor: Predictor, pods: int) -> tuple[Predictor, Scaling]:
    """Return a new predictor with at least this many pods, and the values that were replaced."""
    before: Scaling = {}
    changes: list[tuple[list[str], int | None]] = []
    for pointer, current, limit in _knobs(predictor):
        wanted = min(pods, limit) if limit else pods
        if (current or 1) < wanted:
            before[pointer] = current
            changes.append((pointer.strip("/").split("/"), wanted))
    return (Predictor.model_validate(_set(to_dict(predictor), changes)), before) if changes else (predictor, before)


def given_back(snapshot: Snapshot, scaling: Mapping[str, Scaling], *, without: str = "") -> list[Operation]:
    """Return the operations that restore the scaling of every predictor that exists. without: one that is removed."""
    operations: list[Operation] = []
    for position, predictor in enumerate(snapshot.deployment.predictors):
        if predictor.name == without:
            continue
        present = {pointer for pointer, current, _ in _knobs(predictor) if current is not None}
        for pointer, before in scaling.get(predictor.name, {}).items():
            path = f"/spec/predictors/{position}{pointer}"
            if before is not None and pointer in present:
                operations.append({"op": "add", "path": path, "value": before})
            elif before is None and pointer in present:
                operations.append({"op": "remove", "path": path})
    return operations


def unscaled(predictor: Mapping[str, Any], scaling: Scaling) -> dict[str, Any]:
    """Return a predictor's JSON with its scaling from before the rollout."""
    changed: dict[str, Any] = _set(
        predictor, [(pointer.strip("/").split("/"), value) for pointer, value in scaling.items()]
    )
    return changed


def merged(scaling: Mapping[str, Scaling], name: str, before: Scaling) -> dict[str, Scaling]:
    """Add a predictor's earlier values. The values that were stored first are kept, and are restored at the end."""
    return {**scaling, name: {**before, **scaling.get(name, {})}} if before else dict(scaling)


def _knobs(predictor: Predictor) -> Iterator[tuple[str, int | None, int | None]]:
    """Yield (JSON pointer within the predictor, its number, the autoscaler's maximum) for each Deployment."""
    fixed = False
    for index, component in enumerate(predictor.component_specs):
        if component.hpa_spec is not None:
            yield (
                f"/componentSpecs/{index}/hpaSpec/minReplicas",
                component.hpa_spec.min_replicas,
                component.hpa_spec.max_replicas,
            )
        elif component.replicas is not None:
            yield f"/componentSpecs/{index}/replicas", component.replicas, None
        elif not fixed:
            fixed = True
            yield "/replicas", predictor.replicas, None


def _set(document: Any, changes: Sequence[tuple[list[str], int | None]]) -> Any:
    """Return a copy of nested JSON with values set, or removed where they are None."""
    if isinstance(document, list):
        return [_set(one, _below(changes, str(index))) for index, one in enumerate(document)]
    if not isinstance(document, Mapping):
        return document
    changed = {key: _set(value, _below(changes, key)) for key, value in document.items()}
    for path, value in changes:
        if len(path) == 1:
            changed.pop(path[0], None)
            if value is not None:
                changed[path[0]] = value
    return changed


def _below(changes: Sequence[tuple[list[str], int | None]], key: str) -> list[tuple[list[str], int | None]]:
    return [(path[1:], value) for path, value in changes if len(path) > 1 and path[0] == key]
