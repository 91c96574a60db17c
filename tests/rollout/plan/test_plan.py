"""What a plan allows, and how it is read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rollout.analysis.gate_config import GateConfig
from rollout.errors import PlanError
from rollout.plan.config import read_config
from rollout.plan.plan import PLAN_JSON, Plan, PodCapacity, Step

GATES = tuple(GateConfig().gates)
ALL_OFF = "gates: {" + ", ".join(f"{gate}: null" for gate in GATES) + "}"
ALL_DRY = "gates: {" + ", ".join(f"{gate}: {{dry_run: true}}" for gate in GATES) + "}"


@pytest.mark.parametrize("weights", [(), (10, 50), (50, 10, 100), (10, 10, 100)])
def test_steps_grow_and_end_with_100(weights: Any) -> None:
    with pytest.raises(PlanError, match="growing weights that end with 100"):
        Plan(steps=tuple(Step(weight) for weight in weights))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"weight_percent": 0}, "allowed: 1..100"),
        ({"weight_percent": 101}, "allowed: 1..100"),
        ({"weight_percent": 10, "min_duration_s": 10, "max_duration_s": 5}, "allowed: 0 <= min <= max"),
        ({"weight_percent": 10, "min_requests": -1}, "allowed: 0 and more"),
    ],
)
def test_a_step_that_makes_no_sense_is_refused(values: Any, said: str) -> None:
    with pytest.raises(PlanError, match=said):
        Step(**values)


def test_a_plan_survives_its_json_and_any_change_changes_its_hash() -> None:
    plan = Plan()
    assert PLAN_JSON.validate_json(PLAN_JSON.dump_json(plan)) == plan
    assert PLAN_JSON.validate_json(PLAN_JSON.dump_json(plan)).hash == plan.hash
    assert Plan(interval_s=11).hash != plan.hash


def test_the_file_in_the_repository_says_the_defaults() -> None:
    config = read_config(Path("seldon/rollout.yaml"), {})
    assert config.plan == Plan()
    assert config.evidence.startswith("prometheus=http")


def test_flags_win_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "rollout.yaml"
    file.write_text("steps: [20, 100]\nbake_s: 30\nstep_defaults: {min_duration_s: 5, min_requests: 7}\n")
    flags = {"interval_s": 1.0, "step_defaults": {"min_requests": 9}}
    plan = read_config(file, flags, manual=[20]).plan
    assert [step.weight_percent for step in plan.steps] == [20, 100]
    assert plan.steps[0] == Step(20, min_duration_s=5, min_requests=9, manual=True)
    assert plan.steps[1].min_duration_s == 30
    assert plan.interval_s == 1.0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("step: [10, 100]", "/step"),
        ("steps: [10, {weight: 100}]", "weight"),
        ("steps: [10, 100]\ngates: {erorrs: {}}", "/gates/erorrs"),
        ("interval_s: 0", "interval_s"),
        ("- 10", "expected settings"),
        ("steps: [10", "cannot be read"),
        ('gates: {errors: {dry_run: "false"}}', "/gates/errors/dry_run: .*boolean"),
        ("gates: {errors: {dry_run: 0}}", "/gates/errors/dry_run: .*boolean"),
        ('gates: {errors: {floor: "a"}}', "/gates/errors/floor: .*number"),
        ("gates: {errors: {floor: true}}", "/gates/errors/floor: .*number"),
        ("gates: {errors: {floor: .inf}}", "/gates/errors/floor: .*finite"),
        ("gates: {errors: {floor: .nan}}", "/gates/errors/floor: .*finite"),
        ("gates: {alpha: true}", "/gates/alpha: .*number"),
        ("gates: {errors: {margin: 1.1, margin: 5}}", "'margin' is given twice"),
        ("interval_s: 10\ninterval_s: 20", "'interval_s' is given twice"),
        ("interval_s: .inf", "/interval_s: .*finite"),
        ('interval_s: "10"', "/interval_s: .*number"),
        ("keep_failed_canary: 1", "/keep_failed_canary: .*boolean"),
        ("steps: [true, 100]", "/steps/0"),
        ("on_inconclusive: promote", "'hold' or 'rollback'"),
        ("gates: 5", "/gates"),
        ("step_defaults: 5", "/step_defaults"),
        ("capacity: {pod_rps: 0}", "/capacity/pod_rps"),
        ("capacity: {}", "/capacity/pod_rps"),
        ("capacity: {pod_rps: 100, target_utilisation_percent: 101}", "/capacity/target_utilisation_percent"),
        ("gates: {errors: {marginn: 2}}", "/gates/errors/marginn"),
        ("gates: {errors: 3}", "/gates/errors"),
        ("gates: {errors: {event: slow}}", "/gates/errors/event"),
        ("gates: {caller_errors: {seen_by: pods}}", "/gates/caller_errors/seen_by"),
        ("gates: {errors: {share: 0.9}}", "sum to 1.65: at most 1"),
        ("gates: {errors: {margin: 3.0}}", "margin < pass_ratio"),
        ("gates: {slo_errors: {limit: 1.5}}", "a share between 0 and 1"),
        ("gates: {drift: {min_rows: 3}}", "min_rows >= 50"),
        ("gates: {restarts: {limit: 0}}", "at least 1"),
        ("gates: {warm_up: [cold]}", "/gates/warm_up/0"),
        (ALL_OFF, "nothing judges this rollout: every gate is off"),
        (ALL_DRY, "nothing judges this rollout: every gate that is on only shows"),
    ],
)
def test_a_file_that_is_wrong_says_where(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "rollout.yaml"
    file.write_text(text)
    with pytest.raises(PlanError, match=said):
        read_config(file, {})


def test_a_pods_measured_capacity_is_part_of_the_plan(tmp_path: Path) -> None:
    file = tmp_path / "rollout.yaml"
    file.write_text("capacity: {pod_rps: 4002}")
    plan = read_config(file, {}).plan
    assert plan.capacity == PodCapacity(4002)
    assert PLAN_JSON.validate_json(PLAN_JSON.dump_json(plan)) == plan
    with pytest.raises(PlanError, match="allowed: more than 0"):
        PodCapacity(0)
    with pytest.raises(PlanError, match=r"allowed: 1\.\.100"):
        PodCapacity(1, 0)


def test_a_manual_gate_needs_its_step() -> None:
    with pytest.raises(PlanError, match=r"--manual is 25, and no step has this weight; allowed: 10, 30, 50, 100"):
        read_config(None, {}, manual=[25])


@pytest.mark.parametrize(("text", "analysed"), [(ALL_OFF, False), (ALL_DRY, True)])
def test_a_rollout_that_nothing_judges_has_to_be_asked_for(tmp_path: Path, text: str, analysed: bool) -> None:
    file = tmp_path / "rollout.yaml"
    file.write_text(f"{text}\njudged: false\n")
    assert read_config(file, {}).plan.analyse is analysed


def test_one_setting_of_a_gate_leaves_its_others_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "rollout.yaml"
    file.write_text("gates: {errors: {margin: 1.5}, drift: null}\n")
    gates, default = read_config(file, {}).plan.gates, Plan().gates
    assert gates.drift is None
    assert gates.errors is not None
    assert default.errors is not None
    assert (gates.errors.margin, gates.errors.floor) == (1.5, default.errors.floor)
    assert gates.latency == default.latency


@pytest.mark.parametrize(
    ("text", "warm_up_s"),
    [
        ("steps: [10, 100]", 60.0),
        ("step_defaults: {min_duration_s: 5}", 5.0),
        ("steps: [{weight_percent: 10, min_duration_s: 20}, 100]", 20.0),
        ("step_defaults: {min_duration_s: 600}", 60.0),
        ("step_defaults: {min_duration_s: 5}\ngates: {warm_up_s: 30}", 30.0),
    ],
)
def test_a_warm_up_that_is_not_given_fits_into_the_first_step(tmp_path: Path, text: str, warm_up_s: float) -> None:
    file = tmp_path / "rollout.yaml"
    file.write_text(text)
    assert read_config(file, {}).plan.gates.warm_up_s == warm_up_s
