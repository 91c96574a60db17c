"""The kinds of steps in rollout.yaml, and the plain steps that they become."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rollout.analysis.verdict import OnDoubt
from rollout.checks.paired import Paired
from rollout.checks.query import Query
from rollout.errors import PlanError
from rollout.plan.config import read_config
from rollout.plan.plan import PLAN_JSON, Plan, Step
from tests.support.programs import ROOT

PAGE = ROOT / "docs" / "rollout-steps.md"


def plan_of(tmp_path: Path, text: str) -> Plan:
    file = tmp_path / "rollout.yaml"
    file.write_text(text)
    return read_config(file, {}).plan


def example() -> str:
    found = re.search(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    return found[1]


def test_the_example_in_the_documentation_is_a_plan_with_every_kind_of_step(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, example())
    assert [step.title for step in plan.steps] == ["before", "smoke", "shadow", "10 %", "50 %", "100 %"]
    assert [step.load_percent for step in plan.steps] == [0, 0, 100, 10, 50, 100]
    assert [[check.name for check in step.checks] for step in plan.steps] == [
        ["change freeze"],
        ["smoke"],
        ["paired", "feature store errors"],
        *[["feature store errors"]] * 3,
    ]
    assert [[check.name for check in step.closing] for step in plan.steps] == [
        [],
        *[["load test"]] * 4,
        ["load test", "contract tests"],
    ]
    paired, query = plan.steps[2].checks
    assert isinstance(paired, Paired)
    assert (paired.records, paired.limits.min_pairs, plan.steps[2].min_duration_s) == ("file:///var/records", 1000, 300)
    assert isinstance(query, Query)
    assert query.prometheus == "http://prometheus-operated.monitoring:9090"
    assert plan.gates.drift is not None
    assert plan.gates.drift.on_fail is OnDoubt.HOLD


def test_a_plan_with_checks_survives_its_json(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, example())
    assert PLAN_JSON.validate_json(PLAN_JSON.dump_json(plan)) == plan


def test_every_kind_of_the_page_and_its_settings_are_named(tmp_path: Path) -> None:
    text = PAGE.read_text()
    settings = {name for kind in (Paired, Query) for name in kind.model_fields} - {"kind", "limits", "lag_s", "name"}
    assert {name for name in settings if f"`{name}`" not in text and f"{name}:" not in text} == set()


def test_drift_that_rolls_back_is_a_choice(tmp_path: Path) -> None:
    drift = plan_of(tmp_path, "gates: {drift: {on_fail: rollback}}").gates.drift
    assert drift is not None
    assert drift.on_fail is OnDoubt.ROLLBACK


def test_hooks_alone_judge_a_rollout_without_gates(tmp_path: Path) -> None:
    off = "{" + ", ".join(f"{name}: null" for name in Plan().gates.gates) + "}"
    hooks = "hooks: {after_each_step: [{kind: load_test}]}"
    assert plan_of(tmp_path, f"gates: {off}\n{hooks}\n").analyse
    with pytest.raises(PlanError, match="nothing judges this rollout"):
        plan_of(tmp_path, f"gates: {off}\nhooks: {{after: [{{kind: load_test, dry_run: true}}]}}\n")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("steps: [{shadow: {recrods: x}}, 100]", "recrods"),
        ("steps: [{shadow: {percent: 0}}, 100]", "percent"),
        ("steps: [{shadow: {}, weight_percent: 10}, 100]", "weight_percent"),
        ("steps: [10, {shadow: {}}, 100]", "and before them shadow and smoke steps"),
        ("steps: [{smoke: {requests: []}}, 100]", "requests"),
        ("steps: [{shadow: {}}]", "growing weights that end with 100"),
        ("hooks: {before: [{kind: telephone}]}", "'http', 'command', 'load_test'"),
        ("hooks: {before: [{kind: http, name: a, url: 'ftp://x'}]}", "url"),
        ("hooks: {before: [{kind: load_test}, {kind: load_test}]}", "several checks are named load test"),
        ("custom_gates: [{name: a, query: b}]", "needs one limit"),
        ("custom_gates: [{name: a, query: b, at_most: 1}]", "no Prometheus to ask"),
        ("gates: {drift: {on_fail: maybe}}", "on_fail"),
    ],
)
def test_what_makes_no_sense_says_where(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(PlanError, match=re.escape(said)):
        plan_of(tmp_path, text)


def test_a_mirror_is_for_steps_without_weight_only() -> None:
    with pytest.raises(PlanError, match="mirror_percent"):
        Step(10, mirror_percent=100)
    with pytest.raises(PlanError, match="with a shadow or checks"):
        Step(0)
