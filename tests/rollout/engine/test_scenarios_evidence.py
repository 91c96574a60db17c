"""Scenarios 11 to 18, 20, 21 as the promoter lives them; what the sources and the gates do is tested beside them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from random import Random
from typing import Any

import pytest

from rollout.analysis.drift import DriftGate
from rollout.analysis.verdict import OnDoubt
from rollout.engine.state import Command, Phase
from rollout.errors import EvidenceMalformed, EvidenceUnavailable
from tests.support.rollout_world import Behaviour, World


def outage(world: Any, error: Any, seconds: Any) -> Any:
    def begin() -> None:
        world.traffic.fails = error
        world.clock.after(seconds, lambda: setattr(world.traffic, "fails", None))

    return begin


def test_11_a_metric_outage_of_30_seconds_waits_within_its_grace(world: World) -> None:
    world.start()
    world.when(30, outage(world, EvidenceUnavailable("connection refused"), 30))
    outcome = world.promoter().drive()
    assert outcome.state.phase is Phase.SUCCEEDED
    assert "EvidenceOutage" in world.diary.events
    assert "EvidenceLost" not in world.diary.events


def test_11_a_metric_outage_of_10_minutes_is_held_and_never_rolled_back(world: World) -> None:
    world.start()
    world.when(30, outage(world, EvidenceUnavailable("connection refused"), 600))
    outcome = world.promoter().drive()
    assert outcome.state.phase is Phase.HELD
    assert outcome.state.reason == "EvidenceLost"
    assert "connection refused" in outcome.state.message
    assert world.target.mesh_weights == {"v7": 70, "v8": 30}
    world.clock.sleep(600)
    assert world.promoter().drive().state.phase is Phase.SUCCEEDED


def test_11_while_it_is_watched_a_held_rollout_goes_on_by_itself(make_world: type[World]) -> None:
    world = make_world(plan=replace(make_world().plan, watch_held_s=3600))
    world.start()
    world.when(30, outage(world, EvidenceUnavailable("429"), 600))
    outcome = world.promoter().drive()
    assert outcome.state.phase is Phase.SUCCEEDED
    assert "EvidenceLost" in world.diary.events


def test_11_the_clock_of_a_step_stands_still_during_an_outage(world: World) -> None:
    world.start()
    world.when(30, outage(world, EvidenceUnavailable("timeout"), 60))
    world.promoter().drive()
    at_30 = [record for record in world.diary.records if record.weights_percent["v8"] == 30]
    assert at_30[-1].at_s - at_30[0].at_s >= world.plan.steps[1].min_duration_s + 60 - 10


@pytest.mark.parametrize("said", ["the answer is an empty vector", "NaN", "+Inf", "two series for v8"])
def test_12_an_answer_that_cannot_be_trusted_never_promotes_and_never_rolls_back(world: World, said: str) -> None:
    world.start()
    world.when(10, outage(world, EvidenceMalformed(said), 10_000))
    outcome = world.promoter().drive()
    assert outcome.state.phase is Phase.HELD
    assert said in outcome.state.message
    assert world.target.mesh_weights == {"v7": 90, "v8": 10}


def test_13_without_any_traffic_nothing_is_promoted(world: World) -> None:
    world.traffic.per_s = 0
    outcome = world.run()
    assert outcome.state.phase is Phase.HELD
    assert outcome.state.reason == "Inconclusive"
    assert world.target.mesh_weights == {"v7": 90, "v8": 10}


def test_13_a_tenth_of_a_request_a_second_is_too_little_and_the_message_says_how_many_are_missing(world: World) -> None:
    world.traffic.per_s = 2
    world.traffic.share = lambda weights: {"v7": 0.9, "v8": 0.1} if weights.get("v8") == 10 else {"v7": 1.0}
    outcome = world.run()
    assert outcome.state.phase is Phase.HELD
    assert any("more requests to v8" in record.message for record in world.diary.records)


def test_13_inconclusive_rolls_back_where_configured(make_world: type[World]) -> None:
    world = make_world(plan=replace(make_world().plan, on_inconclusive=OnDoubt.ROLLBACK))
    world.traffic.per_s = 0
    outcome = world.run()
    assert outcome.state.phase is Phase.ROLLED_BACK
    assert world.target.mesh_weights == {"v7": 100}


def test_13_traffic_that_reaches_stable_only_is_a_broken_split(world: World) -> None:
    world.traffic.share = lambda weights: {"v7": 1.0}
    outcome = world.run()
    assert outcome.state.phase is Phase.HELD
    assert outcome.state.reason == "ShareMismatch"
    assert "v8 got 0.0%" in outcome.state.message


def test_13_resuming_an_inconclusive_step_gives_it_its_time_again(world: World) -> None:
    world.traffic.per_s = 0
    assert world.run().state.reason == "Inconclusive"
    world.traffic.per_s = 100
    assert world.promoter().drive().state.phase is Phase.SUCCEEDED


def test_14_a_promoter_that_was_replaced_continues_the_same_tests(world: World, behaviour: type[Behaviour]) -> None:
    """Evidence of harm is in the annotation: restarting every few looks must not make a bad canary safe."""
    world.traffic.behaviour["v8"] = behaviour(errors=0.05)
    world.start()
    rounds = 0
    while not (outcome := one_look_more(world)).state.phase.over:
        rounds += 1
        assert rounds < 200
    assert outcome.state.phase is Phase.ROLLED_BACK
    assert rounds > 3


def one_look_more(world: Any) -> Any:
    before = len(world.diary.records)
    return world.promoter(stop=lambda: len(world.diary.records) - before > 2).drive()


@pytest.mark.parametrize("fault", [{"errors": 0.02}, {"slow": 0.03}], ids=["errors", "latency"])
def test_16_a_small_regression_is_caught_and_never_promoted(
    world: World, behaviour: type[Behaviour], fault: Any
) -> None:
    world.traffic.behaviour["v8"] = behaviour(**fault)
    outcome = world.run()
    assert outcome.state.phase is Phase.ROLLED_BACK
    assert world.diary.records[-1].at_s - world.diary.records[0].at_s < 600


def test_17_one_spike_holds_the_step_up_and_is_forgiven(world: World, behaviour: type[Behaviour]) -> None:
    def spike() -> None:
        world.traffic.behaviour["v8"] = behaviour(errors=0.9)
        world.clock.after(4, partial(world.traffic.behaviour.pop, "v8"))

    world.start()
    world.when(50, spike)
    outcome = world.promoter().drive()
    assert outcome.state.phase in (Phase.SUCCEEDED, Phase.HELD)
    assert "GateFailed" not in world.diary.events


def test_17_a_sustained_fault_fails(world: World, behaviour: type[Behaviour]) -> None:
    world.start()
    world.when(50, lambda: world.traffic.behaviour.update(v8=behaviour(errors=0.1)))
    outcome = world.promoter().drive()
    assert outcome.state.phase is Phase.ROLLED_BACK
    assert max(record.weights_percent["v8"] for record in world.diary.records) == 50


def test_18_when_both_versions_degrade_the_absolute_objective_speaks(world: World, behaviour: type[Behaviour]) -> None:
    world.start()
    world.when(30, lambda: world.traffic.behaviour.update(v7=behaviour(errors=0.05), v8=behaviour(errors=0.05)))
    outcome = world.promoter().drive()
    assert outcome.state.phase is Phase.ROLLED_BACK
    assert outcome.state.message.startswith("slo_errors:")


def test_20_latency_beyond_the_top_bucket_counts_as_slow(world: World, behaviour: type[Behaviour]) -> None:
    world.traffic.slow_bucket = -1
    world.traffic.behaviour["v8"] = behaviour(slow=0.05)
    outcome = world.run()
    assert outcome.state.phase is Phase.ROLLED_BACK
    assert "50 ms" in outcome.state.message


def test_21_a_drift_that_is_tiny_but_significant_passes(world: World, behaviour: type[Behaviour]) -> None:
    world.traffic.per_s = 400
    world.traffic.behaviour["v8"] = behaviour(score=lambda random: random.betavariate(2.05, 5))
    assert world.run().state.phase is Phase.SUCCEEDED


def heaps(random: Random) -> float:
    return 0.05 if random.random() < 0.65 else 0.72


def test_21_scores_in_two_heaps_with_the_same_mean_fail_where_drift_rolls_back(
    make_world: type[World], behaviour: type[Behaviour]
) -> None:
    plan = make_world().plan
    world = make_world(plan=replace(plan, gates=replace(plan.gates, drift=DriftGate(on_fail=OnDoubt.ROLLBACK))))
    world.traffic.behaviour["v8"] = behaviour(score=heaps)
    outcome = world.run()
    assert outcome.state.phase is Phase.ROLLED_BACK
    assert outcome.state.message.startswith("drift:")


def test_21_drift_asks_a_person_by_default_and_one_answer_holds_for_all_steps(
    world: World, behaviour: type[Behaviour]
) -> None:
    world.traffic.behaviour["v8"] = behaviour(score=heaps)
    asked = world.run()
    assert (asked.state.phase, asked.state.reason, asked.state.canary_percent) == (Phase.HELD, "PersonAsked", 10)
    assert "drift: scores moved" in asked.state.message
    done = world.promoter().drive(Command.PROMOTE)
    assert done.state.phase is Phase.SUCCEEDED
    assert done.state.accepted == ("drift",)


def test_a_dry_run_gate_only_looks_on(make_world: type[World], behaviour: type[Behaviour]) -> None:
    plan = make_world().plan
    gates = replace(plan.gates, drift=DriftGate(dry_run=True))
    world = make_world(plan=replace(plan, gates=gates))
    world.traffic.behaviour["v8"] = behaviour(score=lambda random: 0.9)
    assert world.run().state.phase is Phase.SUCCEEDED
    drift = [result for record in world.diary.records for result in record.verdicts if result.name == "drift"]
    assert any(result.verdict == "fail" and result.dry_run for result in drift)
