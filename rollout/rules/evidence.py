"""The rules on the evidence: what the gates say, whether requests went where they should, and when a step is over."""

from __future__ import annotations

import math

from rollout.decision import Action, Decision, advance, decided, hold, pause, roll_back, wait
from rollout.plan import OnDoubt
from rollout.seen import Seen
from rollout.state import Phase, RolloutState
from rollout.verdict import Verdict, wanting

SHARE_MIN_REQUESTS = 100
SHARE_SIGMAS = 4.0  # a share that is this far off by chance alone: once in 16,000 looks


def failed(state: RolloutState, seen: Seen) -> Decision | None:
    """Roll back when a gate fails."""
    if not state.analyse or seen.verdict is not Verdict.FAIL:
        return None
    said = [result for result in seen.results if result.verdict is Verdict.FAIL and not result.dry_run]
    return roll_back(state, "GateFailed", "; ".join(f"{result.name}: {result.reason}" for result in said))


def blind(state: RolloutState, seen: Seen) -> Decision | None:
    """Wait while there is no evidence, and hold when that takes too long."""
    if not state.analyse or seen.verdict is not Verdict.ERROR:
        return None
    said = "; ".join(result.reason for result in seen.results if result.verdict is Verdict.ERROR)
    if state.timers.outage_s >= state.plan.metric_grace_s:
        return hold(state, "EvidenceLost", f"no evidence for {state.timers.outage_s:.0f} s, so nothing moves: {said}")
    return wait(state, "EvidenceOutage", f"no evidence for {state.timers.outage_s:.0f} s: {said}")


def misrouted(state: RolloutState, seen: Seen) -> Decision | None:
    """Hold when the canary's share of the requests cannot be its weight: what is measured is not the rollout then."""
    total = state.canary_requests + state.stable_requests
    share = state.canary_percent / 100
    if not state.analyse or total < SHARE_MIN_REQUESTS or share in (0, 1):
        return None
    allowed = state.plan.share_tolerance_percent / 100 + SHARE_SIGMAS * math.sqrt(share * (1 - share) / total)
    observed = state.canary_requests / total
    if abs(observed - share) <= allowed:
        return None
    return hold(
        state,
        "ShareMismatch",
        f"{state.canary} got {observed:.1%} of {total} requests, its weight is {share:.0%} (allowed: +-{allowed:.1%}); "
        "do callers reach a predictor past the mesh, or does the evidence count other requests?",
    )


def passed(state: RolloutState, seen: Seen) -> Decision:
    """Leave the step when its time, its requests, all gates and, where wanted, a person agree; else say what lacks."""
    step = state.plan.steps[state.step]
    if state.timers.step_s < step.min_duration_s:
        left_s = step.min_duration_s - state.timers.step_s
        return wait(state, "Analysing", f"{left_s:.0f} s more at {step.weight_percent} %; {wanting(seen.results)}")
    if state.analyse and state.canary_requests < step.min_requests:
        missing = step.min_requests - state.canary_requests
        return _late(state) or wait(state, "Analysing", f"needs {missing} more requests to {state.canary}")
    if state.analyse and seen.verdict is not Verdict.PASS:
        return _late(state) or wait(state, "Analysing", wanting(seen.results))
    if step.manual and not state.gate_open:
        return pause(state, "ManualGate", f"{step.weight_percent} % passed; open with `promote`")
    if state.step < state.plan.last:
        return advance(state, state.step + 1)
    finished = state.but(phase=Phase.FINISHING)
    return decided(Action.FINISH, finished, "Baked", f"{state.canary} held at 100 %; {state.stable} is deleted now")


def _late(state: RolloutState) -> Decision | None:
    step = state.plan.steps[state.step]
    if state.timers.step_s < step.max_duration_s:
        return None
    seen = f"{state.timers.step_s:.0f} s and {state.canary_requests} requests at {step.weight_percent} %"
    message = f"no verdict after {seen}"
    if state.plan.on_inconclusive is OnDoubt.ROLLBACK:
        return roll_back(state, "Inconclusive", message)
    return hold(state, "Inconclusive", f"{message}; `resume` tries as long again, `abort` returns to {state.stable}")
