import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import onnx
import onnxruntime
import pytest
import skops.io
import xgboost
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from xgboost import XGBClassifier

from custom_runtime.active import CONTRACT
from custom_runtime.errors import BundleError
from custom_runtime.model.bundle import read_bundle
from custom_runtime.model.scoring import open_scorer, scorer_kind
from handoff import importing
from handoff.conversion.convert import Converted
from handoff.conversion.parity import compare
from handoff.dataset import Dataset
from handoff.errors import ImportRefused
from handoff.importing import FEWEST_ROWS, check_model
from handoff.training import FLAVORS, TrainedModel
from tests.handoff.conftest import Registered
from tests.support.model_kinds import RAW, ordinal

FEATURES = CONTRACT.features


def perturbed(graph: bytes, by: float) -> bytes:
    """Shift the margin of every row by a little, as a converter that gets base_score wrong would."""
    model = onnx.load_from_string(graph)
    node = next(node for node in model.graph.node if node.op_type == "TreeEnsembleRegressor")
    weights = next(attribute for attribute in node.attribute if attribute.name == "target_weights")
    first_tree = next(attribute for attribute in node.attribute if attribute.name == "target_treeids").ints
    for place, tree in enumerate(first_tree):
        if tree == 0:
            weights.floats[place] += by
    return model.SerializeToString()


def probabilities(model: Any, rows: NDArray[np.float32]) -> NDArray[np.float64]:
    return model.predict_proba(rows)[:, 1:].astype(np.float64)


def example_table(directory: Path) -> Path:
    """Write three rows of the contract's examples."""
    path = directory / "reference.csv"
    names = [feature.name for feature in FEATURES]
    rows = [[str(feature.example) for feature in FEATURES]] * 3
    path.write_text("\n".join(",".join(row) for row in [names, *rows]))
    return path


@pytest.mark.parametrize("flavor", FLAVORS)
def test_the_bundle_scores_every_customer_as_the_registered_model_does(
    registered: Registered, trained: dict[str, TrainedModel], dataset: Dataset, tmp_path: Path, flavor: Any
) -> None:
    uri = registered.versions[flavor].uri
    checked = check_model(registered.registry, uri)
    assert checked.parity.rows == 7043
    assert checked.parity.max_abs_difference <= 1e-5
    checked.write(tmp_path)
    bundle = read_bundle(tmp_path)
    assert (bundle.version, bundle.source, bundle.flavor) == (registered.versions[flavor].version, uri, flavor)
    session = onnxruntime.InferenceSession(bundle.path("onnx"))
    assert [value.name for value in session.get_inputs()] == ["features"]
    assert [(value.name, value.type) for value in session.get_outputs()] == [("churn_probability", "tensor(float)")]
    scores = session.run(None, {"features": dataset.rows})[0]
    assert scores.shape == (7043, 1)
    expected = trained[flavor].model.predict_proba(dataset.rows)[:, 1]
    assert np.abs(scores[:, 0] - expected).max() <= 1e-5


def test_an_xgboost_bundle_holds_the_native_model_and_a_sklearn_bundle_does_not(
    registered: Registered, trained: dict[str, TrainedModel], dataset: Dataset, tmp_path: Path
) -> None:
    bundle = check_model(registered.registry, "models:/churn@champion").write(tmp_path)
    scores = xgboost.Booster(model_file=bundle.path("xgboost")).inplace_predict(dataset.rows)
    np.testing.assert_allclose(scores, trained["xgboost"].model.predict_proba(dataset.rows)[:, 1], atol=1e-7)
    files = check_model(registered.registry, "models:/churn@challenger").write(tmp_path).files
    assert "onnx" in files
    assert "xgboost" not in files


def test_trees_are_served_as_bit_vectors_where_a_usual_batch_is_scored_faster_so(
    registered: Registered, dataset: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def costs(forest_us: float) -> Callable[..., dict[str, dict[int, float]]]:
        known = {"served": {1: 20.0, 16: forest_us}, "onnx": {1: 10.0, 16: 90.0}}
        return lambda models, *_: {name: known.get(name, {1: 5.0, 16: 50.0}) for name in models}

    monkeypatch.setattr(importing, "costs_us", costs(40.0))
    checked = check_model(registered.registry, "models:/churn@champion")
    assert checked.costs_us["served"] == {1: 20.0, 16: 40.0}
    bundle = checked.write(tmp_path)
    assert scorer_kind(bundle, "auto") == "forest"
    assert scorer_kind(bundle, "onnx") == "onnx"
    scores = open_scorer(bundle).score(dataset.rows)
    np.testing.assert_allclose(scores, open_scorer(bundle, "onnx").score(dataset.rows), atol=1e-6)

    monkeypatch.setattr(importing, "costs_us", costs(91.0))
    checked = check_model(registered.registry, "models:/churn@champion")
    assert checked.costs_us["served"] == {1: 10.0, 16: 90.0}
    slower = checked.write(tmp_path)
    assert scorer_kind(slower, "auto") == "onnx"
    with pytest.raises(BundleError, match=r"has no forest file; it has: onnx, .*xgboost"):
        open_scorer(slower, "forest")


def test_a_graph_that_scores_otherwise_is_refused_by_how_much(
    registered: Registered, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    checked = check_model(registered.registry, "models:/churn@champion")
    checked.write(tmp_path)
    before = (tmp_path / "bundle.json").read_bytes()
    graph = Converted(perturbed(checked.onnx, 0.001), has_spliced_parts=False)
    monkeypatch.setattr(importing, "convert", lambda *_, **__: graph)
    # A margin off by 0.001 moves a probability by at most a quarter of that, where it is one half.
    with pytest.raises(ImportRefused, match=r"differ by 0\.000250? on reference row \d+ .* allowed: 1e-05"):
        check_model(registered.registry, "models:/churn@champion")
    assert (tmp_path / "bundle.json").read_bytes() == before


def test_a_difference_at_the_tolerance_decides(
    registered: Registered, trained: dict[str, TrainedModel], dataset: Dataset
) -> None:
    graph = check_model(registered.registry, "models:/churn@champion").onnx
    expected = probabilities(trained["xgboost"].model, dataset.rows)
    assert compare(perturbed(graph, 2e-5), expected, dataset.rows).max_abs_difference < 1e-5
    with pytest.raises(ImportRefused):
        compare(perturbed(graph, 6e-5), expected, dataset.rows)


def test_nan_never_passes_for_agreement(
    registered: Registered, trained: dict[str, TrainedModel], dataset: Dataset
) -> None:
    graph = check_model(registered.registry, "models:/churn@champion").onnx
    with pytest.raises(ImportRefused, match="differ by inf"):
        compare(perturbed(graph, float("nan")), probabilities(trained["xgboost"].model, dataset.rows), dataset.rows)


def test_columns_in_another_order_are_found_by_name(registered: Registered, dataset: Dataset) -> None:
    """The same forest under reordered names: what stood first is last."""
    found = registered.registry.download(registered.versions["xgboost"])
    reordered = XGBClassifier(n_estimators=20, max_depth=3, n_jobs=1)
    reordered.fit(dataset.rows[:, ::-1], dataset.labels)
    changed = dataclasses.replace(found, signature=(found.signature or ())[::-1], load=lambda: reordered)
    checked = check_model(Holding(changed), "models:/churn/1")
    assert checked.parity.rows == 7043
    assert not checked.inputs.is_packed_row(FEATURES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda columns: columns[:-1],
            f"contract's: {FEATURES[-1].name} is missing; allowed, in any order: a column",
        ),
        (lambda columns: (*columns, ("extra", "float")), "contract's: extra is no feature of the contract; allowed"),
        (
            lambda _: (("home", "string"), ("income", "double")),
            "contract's: home, income are no features of the contract; is it a model of another contract",
        ),
        (lambda columns: (*columns, columns[0]), f"contract's: {FEATURES[0].name} stands there twice"),
        (
            lambda columns: (("gender", "datetime"), *columns[1:]),
            r"gender is datetime, wanted: string, or the code as float, double, integer, long",
        ),
        (
            lambda columns: (*columns[:-1], (FEATURES[-1].name, "string")),
            f"{FEATURES[-1].name} is string, wanted: float, double, integer, long",
        ),
        (lambda _: None, "was registered without a signature"),
    ],
)
def test_a_signature_that_differs_is_refused_before_the_model_is_loaded(
    registered: Registered, change: Any, message: str
) -> None:
    def load() -> Any:
        raise AssertionError("a model of another signature was loaded")

    found = registered.registry.download(registered.versions["xgboost"])
    changed = dataclasses.replace(found, signature=change(found.signature), load=load)
    with pytest.raises(ImportRefused, match=message):
        check_model(Holding(changed), "models:/churn/1")


def test_a_model_of_another_contract_is_refused(
    registered: Registered, trained: dict[str, TrainedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = copy.copy(CONTRACT)
    object.__setattr__(other, "fingerprint", "0" * 64)
    monkeypatch.setattr("handoff.registry.CONTRACT", other)
    version = registered.registry.register(trained["sklearn"], alias=None)
    with pytest.raises(ImportRefused, match=f"trained for contract {'0' * 64}, this is .* train again"):
        check_model(registered.registry, version.uri)


def test_a_run_without_reference_rows_is_compared_on_drawn_rows_or_a_file(
    registered: Registered, tmp_path: Path
) -> None:
    found = dataclasses.replace(
        registered.registry.download(registered.versions["xgboost"]),
        reference=None,
        defaults=None,
        load_example=lambda: None,
    )
    checked = check_model(Holding(found), "models:/churn/1")
    assert checked.parity.rows == FEWEST_ROWS
    assert checked.defaults == {feature.name: feature.example for feature in FEATURES}  # drawn rows have no median
    checked = check_model(Holding(found), "models:/churn/1", reference=example_table(tmp_path))
    assert checked.parity.rows == 3
    assert checked.defaults == {feature.name: feature.example for feature in FEATURES}


def test_a_model_that_is_no_classifier_is_refused(registered: Registered) -> None:
    found = registered.registry.download(registered.versions["xgboost"])
    booster = dataclasses.replace(found, load=found.model.get_booster)
    with pytest.raises(ImportRefused, match="the model is a Booster; wanted: a classifier with predict_proba"):
        check_model(Holding(booster), "models:/churn/1")


def test_a_model_that_others_logged_as_a_pickle_is_imported_too(
    registered: Registered, trained: dict[str, TrainedModel], tmp_path: Path
) -> None:
    registry = registered.registry
    mlflow.set_tracking_uri(registry.uri)
    with mlflow.start_run(experiment_id=registry._experiment("churn")):
        info = mlflow.sklearn.log_model(
            trained["sklearn"].model,
            name="model",
            serialization_format="cloudpickle",
            pip_requirements=[],
            signature=mlflow.models.ModelSignature(
                inputs=mlflow.types.Schema([mlflow.types.ColSpec("double", feature.name) for feature in FEATURES])
            ),
        )
    client = mlflow.MlflowClient(registry.uri, registry.uri)
    client.create_registered_model("foreign")
    client.create_model_version("foreign", info.model_uri)
    bundle = check_model(registry, "models:/foreign/1", reference=example_table(tmp_path)).write(tmp_path / "bundle")
    assert (bundle.source, bundle.flavor, bundle.run_id) == ("models:/foreign/1", "sklearn", info.run_id)


@pytest.mark.parametrize("serialization", ["skops", "cloudpickle"])
def test_a_pipeline_over_raw_columns_is_imported_as_mlflow_logs_it(
    registered: Registered, dataset: Dataset, tmp_path: Path, serialization: str
) -> None:
    """Plain MLflow calls of a data scientist: no reference rows, no defaults, only the input example."""
    registry = registered.registry
    name = f"raw-{serialization}"
    frame, labels = RAW.frame(dataset.rows)[::-1], np.where(dataset.labels[::-1] == 1, "Yes", "No")
    frame = frame[frame.columns[::-1]]
    model = ordinal(HistGradientBoostingClassifier(max_iter=20)).fit(frame, labels)
    mlflow.set_tracking_uri(registry.uri)
    with mlflow.start_run(experiment_id=registry._experiment("churn")):
        info = mlflow.sklearn.log_model(
            model,
            name="model",
            serialization_format=serialization,
            skops_trusted_types=trusted_types(model),
            pip_requirements=[],
            input_example=frame.head(),
        )
    client = mlflow.MlflowClient(registry.uri, registry.uri)
    client.create_registered_model(name)
    client.create_model_version(name, info.model_uri, info.run_id)
    checked = check_model(registry, f"models:/{name}/1")
    assert checked.parity.rows == importing.FEWEST_ROWS
    assert checked.costs_us.keys() - {"onnx"} == {"served", "encoded"}
    bundle = checked.write(tmp_path)
    assert {"onnx"} <= bundle.files.keys() <= {"onnx", "forest", "explanation", "profile"}
    scores = onnxruntime.InferenceSession(bundle.path("onnx")).run(None, {"features": dataset.rows[::-1].copy()})[0]
    np.testing.assert_allclose(scores[:, 0], model.predict_proba(frame)[:, 1], atol=1e-5)


def trusted_types(model: Any) -> list[str]:
    """What a team writes into log_model after skops has named it."""
    return skops.io.get_untrusted_types(data=skops.io.dumps(model))


class Holding:
    """A source of one model, for what no trainer here would register."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def resolve(self, uri: Any) -> Any:
        return self._model.version

    def download(self, version: Any) -> Any:
        return self._model


def test_parity_is_recorded_in_the_bundle(registered: Registered, tmp_path: Path) -> None:
    check_model(registered.registry, "models:/churn@champion").write(tmp_path)
    parity = json.loads((tmp_path / "bundle.json").read_bytes())["parity"]
    assert parity["rows"] == 7043
    assert 0 < parity["max_abs_difference"] <= parity["tolerance"] == 1e-5
