"""Plans and patches are words, not Python values or annotations."""

from __future__ import annotations

import io
import re

from rich.console import Console

from rollout.engine.start import Release, start
from rollout.plan.plan import Plan, PodCapacity
from rollout.reporting.plan_words import operation_words, plan_words
from tests.support.rollout_world import World


def shown(plan: Plan) -> str:
    stream = io.StringIO()
    Console(file=stream, width=160).print(plan_words(plan))
    return stream.getvalue()


def test_a_plan_is_words_and_tables() -> None:
    text = shown(Plan())
    assert not re.search(r"\w+Gate\(", text)
    for words in ("10 %", "300 or more", "stable is deleted", "more than 1.1 times those of stable", "exceed 1 %"):
        assert words in text
    for gate in Plan().gates.gates:
        assert gate in text


def test_a_plan_says_what_pods_are_computed_from() -> None:
    assert "the canary has its share of stable's pods" in shown(Plan())
    assert "a pod serves 4,002 requests/s, of which 70 % is used" in shown(Plan(capacity=PodCapacity(4002, 70)))


def test_a_dry_run_names_the_operations_and_not_the_annotation(world: World) -> None:
    first = start(world.target.read(), Release("v9", image="churn:9"), Plan(), world.clock)
    lines = list(operation_words(first.operations))
    assert "add predictor v9 at 0 %, image churn:9" in lines
    assert any(line.startswith("write the record of the rollout") for line in lines)
    assert max(len(line) for line in lines) < 120
    assert not any("schema" in line for line in lines)
