"""The state machine alone: whatever is observation, what may follow."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.analysis.verdict import GateResult, OnDoubt, Verdict
from rollout.engine.decision import Action
from rollout.engine.observation import Observation
from rollout.engine.rules import decide
from rollout.engine.state import Command, Phase, RolloutState, decode, encode
from rollout.plan.plan import Plan, Step

PLAN = Plan(steps=(Step(10, 10, 100, 50), Step(50, 10, 100, 50, manual=True), Step(100, 20, 100, 0)))


def result(verdict: Any, *, dry_run: Any = False) -> Any:
    return GateResult("errors", verdict, f"said {verdict.value}", dry_run=dry_run)


def state(step: Any = 0, *, phase: Any = None, **changes: Any) -> Any:
    base = RolloutState("id", PLAN, "v7", "v8", step=step, **changes)
    return base.but(phase=phase or base.active_phase)


PASSED = (result(Verdict.PASS),)
verdicts = st.sampled_from(list(Verdict))
observation = st.builds(
    Observation,
    dt_s=st.floats(0, 60),
    ready=st.booleans(),
    follows=st.booleans(),
    foreign=st.sampled_from(["", "", "", "weights changed"]),
    restarts=st.booleans(),
    results=st.lists(st.builds(result, verdicts), min_size=0, max_size=3).map(tuple),
    canary_requests=st.integers(0, 100),
    stable_requests=st.integers(0, 1000),
    command=st.sampled_from([None, None, None, None, *Command]),
)
plans = st.builds(
    Plan,
    steps=st.sampled_from([PLAN.steps, (Step(100, 0, 50, 0),), (Step(1, 0, 10, 0), Step(99, 5, 10, 10), Step(100))]),
    on_inconclusive=st.sampled_from(list(OnDoubt)),
    watch_held_s=st.sampled_from([0.0, 30.0, 600.0]),
)


@settings(deadline=None)
@given(plans, st.lists(observation, max_size=25))
def test_weights_always_sum_to_100_and_every_state_survives_its_annotation(plan: Any, looks: Any) -> None:
    current = RolloutState("id", plan, "v7", "v8")
    for observe in looks:
        decision = decide(current, observe)
        assert sum(decision.state.weights.values()) == 100
        assert all(0 <= weight <= 100 for weight in decision.state.weights.values())
        written = decode(encode(decision.state))
        assert encode(written) == encode(decision.state)
        if decision.action in (Action.ROLL_BACK, Action.COMPLETE):
            return
        current = written


@settings(deadline=None)
@given(plans, st.lists(observation, max_size=25))
def test_only_a_pass_or_a_person_raises_a_weight(plan: Any, looks: Any) -> None:
    current = RolloutState("id", plan, "v7", "v8")
    for observe in looks:
        decision = decide(current, observe)
        if decision.state.canary_percent > current.canary_percent and current.step >= 0:
            assert observe.verdict is Verdict.PASS or observe.command is Command.PROMOTE_FULL or not current.analyse
        if (
            decision.action in (Action.FINISH, Action.COMPLETE)
            and current.analyse
            and current.phase is not Phase.FINISHING
        ):
            assert observe.verdict is Verdict.PASS
            assert observe.ready
            assert observe.follows
        if decision.action in (Action.ROLL_BACK, Action.COMPLETE):
            return
        current = decision.state


@settings(deadline=None)
@given(plans, st.lists(observation, max_size=25))
def test_no_rollback_without_a_failure_a_deadline_or_a_word(plan: Any, looks: Any) -> None:
    current = RolloutState("id", plan, "v7", "v8")
    for observe in looks:
        decision = decide(current, observe)
        if decision.action is Action.ROLL_BACK:
            reasons = {"Aborted", "GateFailed", "CanaryNeverReady", "CanaryUnready"}
            assert decision.reason in reasons | (
                {"Inconclusive"} if plan.on_inconclusive is OnDoubt.ROLLBACK else set()
            )
            if decision.reason == "GateFailed":
                assert observe.verdict is Verdict.FAIL
            return
        if decision.action is Action.COMPLETE:
            return
        current = decision.state


@settings(deadline=None)
@given(st.lists(st.floats(0.1, 30), min_size=1, max_size=25))
def test_a_metric_outage_holds_after_its_grace_and_never_rolls_back(gaps: Any) -> None:
    current, outage_s = state(), 0.0
    for dt_s in gaps:
        decision = decide(current, Observation(dt_s=dt_s, results=(result(Verdict.ERROR),)))
        outage_s += dt_s
        assert decision.action in (Action.WAIT, Action.LEAVE)
        wanted = Phase.HELD if outage_s >= PLAN.metric_grace_s else Phase.PROGRESSING
        assert decision.state.phase is wanted
        assert decision.state.canary_percent == 10
        current = decision.state
    recovered = decide(current, Observation(dt_s=1, results=(result(Verdict.INCONCLUSIVE),)))
    assert recovered.state.phase is Phase.PROGRESSING
    assert recovered.state.timers.outage_s == 0


def test_a_dry_run_gate_decides_nothing() -> None:
    ready = state(canary_requests=50, timers=state().timers.__class__(step_s=10))
    decision = decide(ready, Observation(dt_s=1, results=(*PASSED, result(Verdict.FAIL, dry_run=True))))
    assert decision.action is Action.ADVANCE


def test_without_any_gate_nothing_is_promoted() -> None:
    ready = state(canary_requests=50, timers=state().timers.__class__(step_s=10))
    assert decide(ready, Observation(dt_s=1)).action is Action.WAIT


def test_time_in_a_step_counts_only_while_the_mesh_has_its_weights() -> None:
    decision = decide(state(), Observation(dt_s=30, follows=False, canary_requests=500, results=PASSED))
    assert decision.state.timers.step_s == 0
    assert decision.state.canary_requests == 0
    assert decision.reason == "WaitingForMesh"


def test_each_step_begins_its_time_and_its_requests_anew() -> None:
    ready = state(canary_requests=50, timers=state().timers.__class__(step_s=10))
    decision = decide(ready, Observation(dt_s=1, results=PASSED))
    assert (decision.state.step, decision.state.canary_requests, decision.state.timers.step_s) == (1, 0, 0)


def test_the_message_says_how_many_requests_are_missing() -> None:
    open_gate = GateResult("latency", Verdict.INCONCLUSIVE, "too few", needs_requests=240)
    ready = state(canary_requests=50, timers=state().timers.__class__(step_s=10))
    assert "needs about 240 more requests" in decide(ready, Observation(dt_s=1, results=(open_gate,))).message


def test_a_failed_gate_and_a_person_win_over_a_foreign_change() -> None:
    looked = Observation(dt_s=1, foreign="weights changed", results=(result(Verdict.FAIL),))
    assert decide(state(), looked).reason == "GateFailed"
    assert decide(state(), Observation(dt_s=1, foreign="weights changed", results=PASSED)).reason == "ForeignChange"
    told = Observation(dt_s=1, foreign="weights changed", command=Command.ABORT)
    assert decide(state(), told).reason == "Aborted"
