"""Builds the JSON Patches of a rollout. Each contains weights and state together, and tests what it is based on.

force: only for a rollback. Such a patch tests only that the predictors are at the same positions. So other clients that
write often cannot keep requests on a bad canary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rollout.engine.capacity import given_back, unscaled
from rollout.engine.state import COMMAND, PREVIOUS, STATE, Phase, RolloutState, encode, plain_json
from rollout.manifest.parsing import to_dict
from rollout.manifest.predictor import Predictor
from rollout.targets.target import Operation, Snapshot


def begin(
    snapshot: Snapshot, state: RolloutState, canary: Predictor, scaling: Sequence[Operation] = ()
) -> list[Operation]:
    """Add the canary at 0 % or as a shadow, after the others: their order determines ports and, in Emissary, weights.

    scaling: the operations that keep stable's pods during the rollout.
    """
    return [
        {"op": "test", "path": "/metadata/resourceVersion", "value": snapshot.deployment.metadata.resource_version},
        *_guards(snapshot),
        *scaling,
        {"op": "add", "path": "/spec/predictors/-", "value": to_dict(canary) | _routed(state)},
        *_traffic(snapshot, {state.stable: 100}),
        *_state(snapshot, state),
        *_annotation(snapshot, PREVIOUS, None),
    ]


def scale(snapshot: Snapshot, state: RolloutState, scaling: Sequence[Operation]) -> list[Operation]:
    """Change the number of pods."""
    return [*_guards(snapshot), *scaling, *_state(snapshot, state)]


def weigh(snapshot: Snapshot, state: RolloutState, *, force: bool = False) -> list[Operation]:
    """Set every weight to the value in the state. When the rollout is over, restore the scaling."""
    return [
        *_guards(snapshot, force=force),
        *_traffic(snapshot, state.weights, state),
        *(given_back(snapshot, state.scaling) if state.phase.over else ()),
        *_state(snapshot, state, force=force),
    ]


def remove(
    snapshot: Snapshot, state: RolloutState, name: str, *, keep: bool = False, force: bool = False
) -> list[Operation]:
    """Remove a predictor and set the weights of the others from the state. keep: store the predictor, for `undo`.

    This ends a rollout, so the scaling of the others is restored, except while a rollback is verified.
    """
    predictors = snapshot.manifest["spec"]["predictors"]
    position = [predictor["name"] for predictor in predictors].index(name)
    gone = unscaled(predictors[position], state.scaling.get(name, {}))
    ends = state.phase.over or state.phase is Phase.FINISHING
    return [
        *_guards(snapshot, force=force),
        *_traffic(snapshot, {key: value for key, value in state.weights.items() if key != name}, without=name),
        *(given_back(snapshot, state.scaling, without=name) if ends else ()),
        {"op": "remove", "path": f"/spec/predictors/{position}"},
        *_state(snapshot, state, force=force),
        *(_annotation(snapshot, PREVIOUS, plain_json(gone)) if keep else ()),
    ]


def note(snapshot: Snapshot, state: RolloutState, *, force: bool = False) -> list[Operation]:
    """Write only the state."""
    return _state(snapshot, state, force=force)


def claim(snapshot: Snapshot, state: RolloutState) -> list[Operation]:
    """Write only the state, and keep a command that was not executed yet."""
    return _annotation(snapshot, STATE, encode(state))


def command(snapshot: Snapshot, word: str) -> list[Operation]:
    """Store a command for the promoter that drives this rollout."""
    return _annotation(snapshot, COMMAND, word)


def _guards(snapshot: Snapshot, *, force: bool = False) -> list[Operation]:
    # The generation grows with each change of the spec only. A test of the predictors themselves fails: an API server
    # compares strings byte by byte, as Go escapes them, so `&` in a URL never matches.
    manifest = snapshot.manifest
    predictors = manifest["spec"]["predictors"]
    if force:
        return [
            {"op": "test", "path": f"/spec/predictors/{position}/name", "value": predictor["name"]}
            for position, predictor in enumerate(predictors)
        ]
    if generation := manifest["metadata"].get("generation"):
        return [{"op": "test", "path": "/metadata/generation", "value": generation}]
    return [{"op": "test", "path": "/spec/predictors", "value": predictors}]


def _traffic(
    snapshot: Snapshot, weights: Mapping[str, int], state: RolloutState | None = None, *, without: str = ""
) -> list[Operation]:
    """Return the operations that set every weight; with a state also whether its canary is a shadow.

    without: a predictor that the same patch removes.
    """
    # `add` also replaces; `replace` fails without an existing traffic value, and the operator omits 0.
    operations: list[Operation] = []
    for position, predictor in enumerate(snapshot.manifest["spec"]["predictors"]):
        path, shadow = f"/spec/predictors/{position}", bool(predictor.get("shadow"))
        if predictor["name"] == without:
            continue
        if state is not None and predictor["name"] == state.canary:
            routed = _routed(state, weights)
            operations.append({"op": "add", "path": f"{path}/traffic", "value": routed["traffic"]})
            if routed.get("shadow", False) and not shadow:
                operations.append({"op": "add", "path": f"{path}/shadow", "value": True})
            elif shadow and "shadow" not in routed:
                operations.append({"op": "remove", "path": f"{path}/shadow"})
        elif not shadow:
            operations.append({"op": "add", "path": f"{path}/traffic", "value": weights.get(predictor["name"], 0)})
    return operations


def _routed(state: RolloutState, weights: Mapping[str, int] | None = None) -> dict[str, Any]:
    """Return the canary's fields for the mesh: its weight, or the share that is copied to it as a shadow."""
    if state.mirror_percent:
        return {"traffic": state.mirror_percent, "shadow": True}
    return {"traffic": (state.weights if weights is None else weights).get(state.canary, 0)}


def _state(snapshot: Snapshot, state: RolloutState, *, force: bool = False) -> list[Operation]:
    operations = _annotation(snapshot, STATE, encode(state), force=force)
    if _existing(snapshot).get(COMMAND) is not None and not force:
        operations += _annotation(snapshot, COMMAND, None)
    return operations


def _annotation(snapshot: Snapshot, key: str, value: str | None, *, force: bool = False) -> list[Operation]:
    existing, path = _existing(snapshot), f"/metadata/annotations/{key.replace('/', '~1')}"
    operations: list[Operation] = []
    if key in existing and not force:
        operations.append({"op": "test", "path": path, "value": existing[key]})
    elif value is None:
        return []
    if not existing and value is not None:
        operations.append({"op": "add", "path": "/metadata/annotations", "value": {}})
    operations.append({"op": "remove", "path": path} if value is None else {"op": "add", "path": path, "value": value})
    return operations


def _existing(snapshot: Snapshot) -> dict[str, Any]:
    return snapshot.manifest["metadata"].get("annotations") or {}
