"""The beginning of a rollout, and its reverse: the patch that adds a predictor at 0 %."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rollout.annotation import PREVIOUS, read_state
from rollout.changes import fingerprints
from rollout.clock import Clock
from rollout.errors import Rejected, StateError
from rollout.manifest import to_dict
from rollout.patches import begin
from rollout.plan import Plan, Step
from rollout.predictor import Predictor
from rollout.release import Release, predictor_for
from rollout.state import Phase, RolloutState
from rollout.targets.target import Operation, Snapshot
from rollout.validation import findings

UNDO_INTERVAL_S = 1.0  # whoever goes back is in a hurry, and nothing is analysed


@dataclass(frozen=True, slots=True)
class Beginning:
    """The first patch of a rollout, and the state that it writes."""

    state: RolloutState
    operations: Sequence[Operation]


def start(snapshot: Snapshot, release: Release, plan: Plan, clock: Clock) -> Beginning:
    """Prepare the rollout of a release. Raises StateError, PlanError or Rejected; nothing is written."""
    return _begin(snapshot, predictor_for(_stable(snapshot), release), plan, clock)


def undo(snapshot: Snapshot, plan: Plan, clock: Clock) -> Beginning:
    """Prepare the way back after a rollout: the deleted predictor comes again, is waited for, and takes everything."""
    state = read_state(snapshot.deployment.metadata.annotations)
    kept = snapshot.deployment.metadata.annotations.get(PREVIOUS)
    if kept is None or state is None or state.phase is not Phase.SUCCEEDED:
        raise StateError(f"{snapshot.deployment.name} remembers no earlier version; roll the wanted one out with `run`")
    interval_s = min(plan.interval_s, UNDO_INTERVAL_S)
    back = replace(plan, steps=(Step(100, min_duration_s=0, min_requests=0),), interval_s=interval_s, analyse=False)
    return _begin(snapshot, Predictor.model_validate(json.loads(kept)), back, clock)


def _stable(snapshot: Snapshot) -> Predictor:
    deployment = snapshot.deployment
    if deployment.canary is not None:
        raise StateError(
            f"{deployment.name} has two predictors, {deployment.traffic()}, and no rollout under way: "
            "remove the one that is not wanted first"
        )
    return deployment.stable


def _begin(snapshot: Snapshot, canary: Predictor, plan: Plan, clock: Clock) -> Beginning:
    deployment, stable = snapshot.deployment, _stable(snapshot)
    running = read_state(deployment.metadata.annotations)
    if running is not None and not running.phase.over:
        raise StateError(
            f"a rollout of {running.canary} is under way ({running.phase}: {running.message}); "
            "`resume` or `abort` it first"
        )
    readiness = snapshot.readiness.get(stable.name)
    if readiness is None or not readiness.ready:
        raise StateError(f"{stable.name} is not ready itself, so the mesh would not follow; see its pods first")
    after = deployment.with_predictor(canary).with_traffic({stable.name: 100, canary.name: 0})
    wrong = [finding for finding in findings(to_dict(after)) if finding.severity == "error"]
    if wrong:
        raise Rejected("; ".join(f"{finding.path}: {finding.message}" for finding in wrong))
    state = RolloutState(
        id=secrets.token_hex(4),
        plan=plan,
        stable=stable.name,
        canary=canary.name,
        analyse=plan.analyse,
        expected=fingerprints(after),
        reason="Started",
        message=f"{canary.name} was added at 0 % beside {stable.name}",
        started_at_s=round(clock.wall_s(), 3),
        nonce=f"{secrets.token_hex(4)}.0",
    )
    return Beginning(state, begin(snapshot, state, canary))
