"""Nodes of an inference graph without MLServer: joining, routing, their parameters, and what they refuse."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from custom_runtime.errors import BadRequest, InvalidInput, Overloaded, StartupError
from custom_runtime.graph.joining import JoinParameters, Stack, combine, read_stack
from custom_runtime.graph.parameters import PARAMETERS, NodeParameters, read_parameters
from custom_runtime.graph.routing import Counts, Rewards, RouteParameters, choose
from custom_runtime.graph.tensors import BranchScores, read_branch, read_matrix, tensors_of
from custom_runtime.model.bundle import Parity, write_bundle
from custom_runtime.model.encoding import POSITIONS, WIDTH, decode_row
from tests.support.programs import GUARD_S, ROOT

CHILDREN = '["a", "b"]'


def response(name: str, values: list[Any], shape: list[int] | None = None, **more: Any) -> dict[str, Any]:
    tensor = {"name": "predict", "datatype": "FP32", "shape": shape or [len(values), 1], "data": values}
    return {"model_name": name, "outputs": [tensor], **more}


def scores(name: str, *values: float) -> BranchScores:
    return BranchScores(name, np.array(values)[:, None])


def joining(**parameters: Any) -> JoinParameters:
    return JoinParameters.model_validate(parameters)


def routing(**parameters: Any) -> RouteParameters:
    return RouteParameters.model_validate({"children": CHILDREN, **parameters})


# Joining.


def test_the_mean_and_the_weighted_mean_of_the_branches() -> None:
    branches = [scores("a", 0.2, 0.4), scores("b", 0.6, 0.8)]
    assert combine(branches, joining())[0].ravel() == pytest.approx([0.4, 0.6])
    weighted = joining(join="weighted", weights='{"a": 3, "b": 1}')
    assert combine(branches, weighted)[0].ravel() == pytest.approx([0.3, 0.5])


def test_of_two_columns_the_probability_of_the_second_class_counts() -> None:
    both = BranchScores("a", np.array([[0.9, 0.1], [0.3, 0.7]]))
    assert combine([both, scores("b", 0.3, 0.7)], joining())[0].ravel() == pytest.approx([0.2, 0.7])


def test_three_classes_are_joined_class_by_class() -> None:
    a, b = np.array([[0.2, 0.3, 0.5]]), np.array([[0.4, 0.5, 0.1]])
    assert combine([BranchScores("a", a), BranchScores("b", b)], joining())[0].tolist() == [
        pytest.approx([0.3, 0.4, 0.3])
    ]


def test_a_stacked_model_is_a_logistic_regression_on_log_odds() -> None:
    stack = Stack(coefficients={"a": 2.0, "b": -1.0}, intercept=0.5)
    found, _ = combine([scores("a", 0.8), scores("b", 0.3)], joining(join="stacked", model="m.json"), stack)
    margin = 0.5 + 2 * np.log(0.8 / 0.2) - np.log(0.3 / 0.7)
    assert found.item() == pytest.approx(1 / (1 + np.exp(-margin)), abs=1e-12)
    exact, _ = combine([scores("a", 1.0), scores("b", 0.0)], joining(join="stacked", model="m.json"), stack)
    assert 0 < exact.item() <= 1  # no infinite log-odds


def test_an_unavailable_branch_fails_the_join_unless_the_others_may_stand_for_it() -> None:
    branches = [scores("a", 0.2), BranchScores("b", None, "no answer within 100 ms")]
    with pytest.raises(Overloaded, match=r"1 of 2 branches answered, 2 are needed \(b: no answer within 100 ms\)"):
        combine(branches, joining())
    found, missing = combine(branches, joining(when_missing="others"))
    assert (found.tolist(), missing) == ([[0.2]], ["b"])
    with pytest.raises(Overloaded, match="1 of 2 branches answered, 2 are needed"):
        combine(branches, joining(when_missing="others", least_branches=2))
    with pytest.raises(Overloaded, match=r"the branches that answered \(a\) have no weight"):
        combine(branches, joining(join="weighted", weights='{"a": 0, "b": 1}', when_missing="others"))


@pytest.mark.parametrize(
    ("branches", "parameters", "message"),
    [
        ([scores("a", 0.1), scores("b", 0.1, 0.2)], {}, r"different shapes: a \[1, 1\], b \[2, 1\]"),
        ([scores("a", 0.1), scores("a", 0.2)], {}, "two branches have the same name: a, a"),
        (
            [scores("c", 0.1)],
            {"join": "weighted", "weights": '{"a": 1}'},
            "branch 'c' has no weight; the weights name: a",
        ),
    ],
)
def test_branches_that_do_not_fit_together_are_refused(
    branches: list[BranchScores], parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        combine(branches, joining(**parameters))


def test_a_stacked_model_needs_its_own_branches_and_probabilities() -> None:
    stack, parameters = Stack(coefficients={"a": 1.0, "b": 1.0}, intercept=0), joining(join="stacked", model="m.json")
    with pytest.raises(InvalidInput, match="the branches are a, c; the stacked model knows a, b"):
        combine([scores("a", 0.1), scores("c", 0.1)], parameters, stack)
    with pytest.raises(InvalidInput, match="branch 'b' answered no probabilities"):
        combine([scores("a", 0.1), scores("b", 1.5)], parameters, stack)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("text", "allowed: a V2 inference response"),
        ({"outputs": []}, "allowed: one numeric output"),
        (response("a", ["x"]), "cannot be read as numbers"),
        (response("a", [0.1, 0.2], [3, 1]), r"shape \[3, 1\] with 2 values"),
        (response("a", [float("nan")]), "a value is not finite"),
    ],
)
def test_a_response_without_scores_is_refused(given: Any, message: str) -> None:
    with pytest.raises((BadRequest, InvalidInput), match=message):
        read_branch(given, 0)


# Routing.


def test_shares_choose_in_their_proportion() -> None:
    parameters, generator = routing(route="share", shares="[3, 1]"), random.Random(1)
    chosen = [choose({}, parameters, {}, generator) for _ in range(10_000)]
    assert sum(chosen) / len(chosen) == pytest.approx(0.25, abs=0.02)  # 4.6 standard deviations


def test_a_features_value_chooses_from_the_matrix_or_from_the_callers_input() -> None:
    parameters, generator = routing(route="feature", feature="tenure_months", limits="[12]"), random.Random(1)
    given = {"inputs": [{"name": "tenure_months", "datatype": "FP32", "shape": [1, 1], "data": [11.5]}]}
    assert choose(given, parameters, {}, generator) == 0
    given["inputs"][0]["data"] = [12.0]
    assert choose(given, parameters, {}, generator) == 1
    row = [0.0] * WIDTH
    row[POSITIONS["tenure_months"]] = 40.0
    matrix = {"outputs": [{"name": "features", "datatype": "FP32", "shape": [1, WIDTH], "data": row}]}
    assert choose(matrix, parameters, {}, generator) == 1
    matrix["outputs"][0] |= {"shape": [2, WIDTH], "data": [*row, *([0.0] * WIDTH)]}
    with pytest.raises(InvalidInput, match="the rows belong to 2 children by 'tenure_months'; send one row a request"):
        choose(matrix, parameters, {}, generator)
    with pytest.raises(InvalidInput, match="Put the router below the node that fetches the features"):
        choose({"inputs": [{"name": "key", "shape": [1], "data": [1]}]}, parameters, {}, generator)


def test_thompson_sampling_goes_where_the_labels_were_good_and_still_tries_the_rest() -> None:
    parameters, generator = routing(route="thompson", rewards="r.json"), random.Random(1)
    clear = {"a": Counts(good=80, bad=20), "b": Counts(good=20, bad=80)}
    assert sum(choose({}, parameters, clear, generator) for _ in range(2_000)) == 0
    few = {"a": Counts(good=4, bad=2), "b": Counts(good=2, bad=4)}
    assert 100 < sum(choose({}, parameters, few, generator) for _ in range(2_000)) < 900


def test_rewards_are_read_again_when_the_file_changes_and_a_broken_file_keeps_the_last(tmp_path: Path) -> None:
    file = tmp_path / "rewards.json"

    def write(text: str, at_ns: int) -> None:
        file.write_text(text)
        os.utime(file, ns=(at_ns, at_ns))

    write('{"a": {"good": 3, "bad": 1}}', 1_000_000_000)
    rewards = Rewards(file, ["a", "b"])
    assert rewards.refresh() == {"a": Counts(good=3, bad=1), "b": Counts()}
    write('{"b": {"good": 5}}', 2_000_000_000)
    last = {"a": Counts(), "b": Counts(good=5)}
    assert rewards.refresh() == last
    write('{"a": {"good": ', 3_000_000_000)
    assert rewards.refresh() == last
    file.unlink()
    assert rewards.refresh() == last
    with pytest.raises(StartupError, match=r"rewards .*rewards\.json cannot be read"):
        Rewards(file, ["a", "b"])
    write('{"c": {"good": 1, "bad": 1}}', 4_000_000_000)
    with pytest.raises(StartupError, match="no child is named c; allowed: a, b"):
        Rewards(file, ["a", "b"])


# Parameters.


def settings(extra: dict[str, Any] | None = None) -> Any:
    return SimpleNamespace(name="n", parameters=SimpleNamespace(extra=extra))


def test_parameters_come_from_the_graph_and_an_unknown_or_wrong_one_stops_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graph = [
        {"name": "join", "type": "STRING", "value": "weighted"},
        {"name": "weights", "type": "STRING", "value": '{"a": 0.5}'},
        {"name": "least_branches", "type": "INT", "value": "2"},
    ]
    monkeypatch.setenv(PARAMETERS, json.dumps(graph))
    found = read_parameters(JoinParameters, settings())
    assert (found.join, found.weights, found.least_branches) == ("weighted", {"a": 0.5}, 2)
    for extra, message in (
        ({"jion": "mean"}, "jion is 'mean': Extra inputs are not permitted"),
        ({"when_missing": "maybe"}, "when_missing is 'maybe'"),
        ({"join": "mean", "weights": None}, None),
    ):
        monkeypatch.setenv(PARAMETERS, "[]")
        if message is None:
            assert read_parameters(JoinParameters, settings(extra)).join == "mean"
        else:
            with pytest.raises(StartupError, match=message):
                read_parameters(JoinParameters, settings(extra))
    monkeypatch.setenv(PARAMETERS, '{"join": "mean"}')
    with pytest.raises(StartupError, match="allowed: a JSON array of objects with name, value and type"):
        read_parameters(JoinParameters, settings())


@pytest.mark.parametrize(
    ("kind", "parameters", "message"),
    [
        (JoinParameters, {"join": "weighted"}, "`weights` belongs to join: weighted"),
        (JoinParameters, {"join": "weighted", "weights": '{"a": -1}'}, "weights must not be negative"),
        (JoinParameters, {"join": "stacked"}, "`model` belongs to join: stacked"),
        (
            JoinParameters,
            {"join": "stacked", "model": "m", "when_missing": "others"},
            "a stacked model needs every branch",
        ),
        (RouteParameters, {"route": "share", "children": CHILDREN}, "route: share needs shares; given: none"),
        (RouteParameters, {"route": "share", "children": CHILDREN, "shares": "[1]"}, "shares must be 2 numbers"),
        (
            RouteParameters,
            {"route": "share", "children": '["a", "a"]', "shares": "[1, 1]"},
            "two children have the same",
        ),
        (
            RouteParameters,
            {"route": "feature", "children": CHILDREN, "feature": "x", "limits": "[1]"},
            "no feature 'x'",
        ),
        (
            RouteParameters,
            {"route": "feature", "children": CHILDREN, "feature": "tenure_months", "limits": "[1, 2]"},
            "limits must be 1 rising numbers",
        ),
    ],
)
def test_parameters_that_contradict_each_other_stop_the_start(
    kind: type[Any], parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(StartupError, match=message):
        read_parameters(kind, settings(parameters))


def test_a_missing_stacked_model_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"stacked model .*nothing\.json cannot be read"):
        read_stack(tmp_path / "nothing.json")


def test_tensors_are_found_in_requests_and_responses() -> None:
    assert list(tensors_of({"inputs": [{"name": "a"}]})) == ["a"]
    assert list(tensors_of({"outputs": [{"name": "b"}]})) == ["b"]
    cases: tuple[Any, ...] = ({}, [], {"inputs": [1]}, {"inputs": {"name": "a"}})
    for wrong in cases:
        with pytest.raises(BadRequest, match="neither inputs nor outputs"):
            tensors_of(wrong)
    assert read_matrix({"shape": [2], "data": [1, 2]}, "x").tolist() == [[1.0], [2.0]]


def test_a_node_without_parameters_refuses_them() -> None:
    with pytest.raises(StartupError, match="speed is 1: Extra inputs are not permitted"):
        read_parameters(NodeParameters, settings({"speed": 1}))


# The node that fetches features. MLServer is imported in a process of its own.

FETCHING = """
import sys
from mlserver.settings import ModelParameters, ModelSettings
from custom_runtime.errors import StartupError
from custom_runtime.graph.features import FeatureNode
settings = ModelSettings(name="features", implementation=FeatureNode, parameters=ModelParameters(uri=sys.argv[1]))
try:
    print("bundle of version", FeatureNode(settings).bundle.version)
except StartupError as error:
    print("refused:", error)
"""


def test_a_model_folder_without_a_bundle_is_refused_and_no_other_bundle_taken(tmp_path: Path) -> None:
    bundle, empty = tmp_path / "bundle", tmp_path / "model"
    empty.mkdir()
    write_bundle(
        bundle,
        {"onnx": b"not loaded by this node"},
        name="churn", version="7", run_id="", source="test", flavor="test",
        defaults=decode_row(np.zeros(WIDTH, dtype=np.float32)),
        parity=Parity(rows=1, max_abs_difference=0.0, tolerance=1e-5),
    )  # fmt: skip

    def started(folder: Path) -> str:
        done = subprocess.run(
            [sys.executable, "-c", FETCHING, str(folder)],
            env=os.environ | {"SERVING_BUNDLE": str(bundle)},
            capture_output=True, text=True, timeout=GUARD_S, check=True,
        )  # fmt: skip
        return done.stdout

    assert "bundle of version 7" in started(bundle)
    assert f"refused: no bundle at {empty}" in started(empty)


# MLServer is imported in a process of its own. Two requests at once: the second waits for the thread beyond its limit.
BRANCHING = """
import asyncio
from mlserver.settings import ModelParameters, ModelSettings
from mlserver.types import InferenceRequest
from custom_runtime.graph.branch import Branch
extra = {"implementation": "slow_runtime.SlowRuntime", "timeout_ms": 100.0}
branch = Branch(ModelSettings(name="a", implementation=Branch, parameters=ModelParameters(extra=extra)))
async def main():
    given = [InferenceRequest(id=one, inputs=[]) for one in ("hang", "second", "nonsense")]
    answers = await asyncio.gather(*(branch.predict(one) for one in given))
    print([answer.parameters.unavailable for answer in answers])
    await asyncio.sleep(2.2)  # until the first has ended
    print((await branch.predict(given[2])).parameters.unavailable)
asyncio.run(main())
"""


def test_a_request_that_waits_behind_a_late_one_and_a_response_that_is_none_cost_their_branch_only() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BRANCHING],
        env=os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests" / "support")))},
        capture_output=True, text=True, timeout=GUARD_S, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-2:] == [str(["no answer within 100 ms"] * 3), "ValidationError"]
    assert "never awaited" not in done.stderr
