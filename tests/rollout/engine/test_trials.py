"""Steps at 0 %, hooks and gates of one's own, as the promoter lives them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from rollout.analysis.drift import DriftGate
from rollout.analysis.verdict import GateResult, OnDoubt, Verdict
from rollout.checks.check import Check, Ended, Subject
from rollout.checks.command import CommandHook
from rollout.checks.query import Query
from rollout.engine.checking import Checker
from rollout.engine.observation import Observation
from rollout.engine.rules import decide
from rollout.engine.state import Command, Phase, RolloutState, decode, encode
from rollout.plan.plan import Plan, Step
from tests.support.rollout_world import PLAN, Behaviour, FakeClock, World


class Script:
    """What hooks and queries answer, by name; the last answer of a step is repeated. asked: in which step they were."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[Verdict, ...]] = {}
        self.asked: list[tuple[str, Subject]] = []

    def ask(self, check: Check, subject: Subject, ended: Ended) -> tuple[GateResult, ...]:
        answers = self.answers.get(check.name, (Verdict.PASS,))
        number = sum(one == check.name and where.step == subject.step for one, where in self.asked)
        self.asked.append((check.name, subject))
        verdict = answers[min(number, len(answers) - 1)]
        return check.result(verdict, f"{check.name} said {verdict}")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    found = Script()

    def ask(check: Check, subject: Subject, ended: Ended) -> tuple[GateResult, ...]:
        return found.ask(check, subject, ended)

    for kind in (CommandHook, Query):
        monkeypatch.setattr(kind, "ask", ask)
    return found


def hook(name: str, *, on_fail: OnDoubt = OnDoubt.ROLLBACK) -> CommandHook:
    return CommandHook(name=name, command=("true",), every_s=5.0, on_fail=on_fail)


def query(name: str) -> Query:
    return Query(name=name, query="up", at_most=1.0, prometheus="http://prometheus", every_s=5.0)


SHADOW = Step(0, name="shadow", mirror_percent=100, min_duration_s=20, max_duration_s=300, min_requests=100)


def trial(*checks: CommandHook) -> Step:
    return Step(0, min_duration_s=0, max_duration_s=100, min_requests=0, name="smoke", checks=checks)


def world_with(*first: Step, starts_in_s: float = 12.0, **changes: Any) -> World:
    return World(plan=replace(PLAN, steps=(*first, *PLAN.steps), **changes), starts_in_s=starts_in_s)


def every_second(world: World, look: Callable[[], object]) -> None:
    """Call a function once a second, as long as the world's clock moves."""

    def again() -> None:
        look()
        world.clock.after(1.0, again)

    again()


def test_a_shadow_is_judged_by_copies_before_the_first_caller_is_sent_to_it() -> None:
    world = world_with(SHADOW)
    shares: list[tuple[int, int]] = []
    every_second(
        world, lambda: shares.append((world.target.mesh_mirrors.get("v8", 0), world.target.mesh_weights.get("v8", 0)))
    )
    outcome = world.run()
    assert outcome.state.phase is Phase.SUCCEEDED
    assert world.diary.events[:3] == ["WaitingForCanary", "TrialBegins", "Analysing"]
    assert (100, 0) in shares
    assert all(mirror == 0 or weight == 0 for mirror, weight in shares)
    manifest = world.target.read().manifest
    assert "shadow" not in manifest["spec"]["predictors"][0]


@pytest.mark.parametrize("how", ["errors", "slow", "drift"])
def test_a_bad_shadow_is_rolled_back_without_a_single_request_of_a_caller(how: str) -> None:
    gates = replace(PLAN.gates, drift=DriftGate(on_fail=OnDoubt.ROLLBACK))
    world = world_with(SHADOW, gates=gates)
    bad = {"errors": Behaviour(errors=0.2), "slow": Behaviour(slow=0.5), "drift": Behaviour(score=lambda random: 0.9)}
    world.traffic.behaviour["v8"] = bad[how]
    reached: list[int] = []
    every_second(world, lambda: reached.append(world.target.mesh_weights.get("v8", 0)))
    outcome = world.run()
    assert outcome.state.phase is Phase.ROLLED_BACK
    assert set(reached) == {0}
    assert world.predictors == ["v7"]


def test_a_shadow_that_crashes_is_rolled_back() -> None:
    world = world_with(SHADOW)
    world.start()
    world.clock.after(20, lambda: world.crash("v8"))
    outcome = world.promoter().drive()
    assert (outcome.state.phase, outcome.state.canary_percent) == (Phase.ROLLED_BACK, 0)
    assert world.predictors == ["v7"]


def test_the_new_pods_of_a_shadow_that_becomes_a_canary_are_waited_for() -> None:
    world = world_with(SHADOW, starts_in_s=70.0)  # longer than unready_deadline_s, shorter than ready_deadline_s
    outcome = world.run()
    assert outcome.state.phase is Phase.SUCCEEDED
    assert "CanaryUnready" not in world.diary.events


def test_a_smoke_step_asks_the_canary_alone_and_then_goes_on(script: Script) -> None:
    world = world_with(trial(hook("smoke")))
    outcome = world.run()
    assert outcome.state.phase is Phase.SUCCEEDED
    ((_, asked),) = script.asked
    assert (asked.canary, asked.weight_percent, asked.canary_url) == ("v8", 0, "http://churn-v8.models:9000")


def test_a_failed_check_rolls_back(script: Script) -> None:
    script.answers["smoke"] = (Verdict.FAIL,)
    failed = world_with(trial(hook("smoke"))).run()
    assert (failed.state.phase, failed.state.message.partition(".")[0]) == (Phase.ROLLED_BACK, "smoke: smoke said fail")


def test_a_failed_check_that_may_only_ask_waits_for_a_person(script: Script) -> None:
    script.answers["smoke"] = (Verdict.FAIL,)
    world = world_with(trial(hook("smoke", on_fail=OnDoubt.HOLD)))
    asked = world.run()
    assert (asked.state.phase, asked.state.reason) == (Phase.HELD, "PersonAsked")
    assert world.target.read().mesh_weights == {"v7": 100, "v8": 0}
    assert world.promoter().drive(Command.PROMOTE).state.phase is Phase.SUCCEEDED


def test_a_check_that_asks_for_patience_is_asked_again(script: Script) -> None:
    script.answers["freeze"] = (Verdict.INCONCLUSIVE, Verdict.INCONCLUSIVE, Verdict.PASS)
    assert world_with(trial(hook("freeze"))).run().state.phase is Phase.SUCCEEDED
    assert len(script.asked) == 3


def test_a_check_without_a_verdict_holds_when_its_step_is_too_long(script: Script) -> None:
    script.answers["freeze"] = (Verdict.INCONCLUSIVE,)
    held = world_with(trial(hook("freeze"))).run()
    assert (held.state.phase, held.state.reason) == (Phase.HELD, "Inconclusive")


def test_closing_checks_begin_when_all_else_has_passed_once_in_each_step(script: Script) -> None:
    steps = tuple(replace(step, closing=(hook("load test"),)) for step in PLAN.steps)
    assert World(plan=replace(PLAN, steps=steps)).run().state.phase is Phase.SUCCEEDED
    assert [where.step for _, where in script.asked] == ["10 %", "30 %", "50 %", "100 %"]


def test_a_closing_check_that_fails_at_the_last_step_keeps_stable(script: Script) -> None:
    script.answers["after"] = (Verdict.FAIL,)
    world = World(plan=replace(PLAN, steps=(*PLAN.steps[:-1], replace(PLAN.steps[-1], closing=(hook("after"),)))))
    assert world.run().state.phase is Phase.ROLLED_BACK
    assert world.predictors == ["v7"]


@pytest.mark.parametrize(
    ("answers", "ended"),
    [
        ((Verdict.PASS, Verdict.FAIL, Verdict.PASS, Verdict.FAIL, Verdict.FAIL, Verdict.PASS), Phase.SUCCEEDED),
        ((Verdict.PASS, Verdict.PASS, Verdict.FAIL), Phase.ROLLED_BACK),
    ],
)
def test_a_gate_of_ones_own_fails_after_three_failures_in_a_row_only(
    script: Script, answers: tuple[Verdict, ...], ended: Phase
) -> None:
    script.answers["store errors"] = answers
    first = replace(PLAN.steps[0], checks=(query("store errors"),))
    assert World(plan=replace(PLAN, steps=(first, *PLAN.steps[1:]))).run().state.phase is ended


def test_full_promotion_asks_nothing(script: Script) -> None:
    script.answers["smoke"] = (Verdict.INCONCLUSIVE,)
    world = world_with(trial(hook("smoke")))
    world.start()
    assert world.promoter().drive(Command.PROMOTE_FULL).state.phase is Phase.SUCCEEDED
    assert script.asked == []


def test_a_check_without_an_answer_does_not_delay_the_loop_and_becomes_an_error() -> None:
    clock = FakeClock()
    checker = Checker(clock, start=lambda ask: None)
    state = RolloutState("id", Plan(steps=(trial(hook("smoke")), Step(100))), "v7", "v8", step=0)
    snapshot = World().target.read()
    assert checker.look(state, snapshot, follows=False) == ()
    (result,) = checker.look(state, snapshot, follows=True)
    assert result.verdict is Verdict.NO_DATA
    clock.sleep(36)
    (result,) = checker.look(state, snapshot, follows=True)
    assert result.verdict is Verdict.ERROR


def test_a_question_to_a_person_is_not_answered_by_opening_the_manual_gate_before() -> None:
    plan = Plan(steps=(Step(10, 0, 100, 0, manual=True), Step(100)))
    state = RolloutState("id", plan, "v7", "v8", step=0)
    asks = GateResult("drift", Verdict.FAIL, "scores moved").by(OnDoubt.HOLD)
    told = decide(state, Observation(dt_s=1, results=(asks,), command=Command.PROMOTE))
    assert (told.state.accepted, told.state.gate_open) == (("drift",), False)
    after = decide(told.state, Observation(dt_s=1, results=(asks.accepted(),)))
    assert after.reason == "ManualGate"


def test_the_results_of_checks_are_part_of_the_record() -> None:
    state = RolloutState("id", Plan(), "v7", "v8", checks=(GateResult("smoke", Verdict.PASS, "fine"),))
    assert decode(encode(state)).checks == state.checks
