"""Each example goes from its training script to answers over every protocol, equal to the original model's own.

The scripts are a data scientist's: they import nothing of this project. The image's command starts the server.
"""

import ast
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from tritonclient import grpc as v2

from custom_runtime.active import load_contract
from custom_runtime.schema import Contract
from local_seldon.ports import free_ports
from tests.support.programs import GUARD_S, ROOT
from tests.support.serving import Server, serving, wait_until_ready

NAMES = ("credit", "penguins", "houses")
PACKAGES = {path.name for path in ROOT.iterdir() if (path / "__init__.py").is_file()}
TOLERANCE = 1e-5  # of a probability; of a value, the part of it
SLICE_ROWS = 500
SAMPLE = 25
PREPARE = """
import sys
from pathlib import Path
from commands.serve import prepare_missing
prepare_missing(*map(Path, sys.argv[1:]))
"""


@dataclass(frozen=True)
class Example:
    """One example that was trained and prepared in `root`."""

    name: str
    root: Path
    contract: Contract

    @property
    def environment(self) -> dict[str, str]:
        """As `make serve EXAMPLE=` sets it, with absolute paths."""
        return {
            "SERVING_CONTRACT": str(ROOT / "examples" / self.name / "contract.py"),
            "SERVING_BUNDLE": str(self.root / "var" / self.name / "bundle"),
            "SERVING_FEATURE_STORE": f"sqlite:///{self.root / 'var' / self.name / 'features.db'}",
            "SERVING_DRAIN_DELAY_S": "0",
            "MLFLOW_TRACKING_URI": f"sqlite:///{self.root / 'var' / 'mlflow.db'}",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }

    @property
    def table(self) -> pd.DataFrame:
        return pd.read_csv(self.root / "var" / self.name / f"{self.name}.csv")

    @property
    def keys(self) -> list[Any]:
        return self.table[str(self.contract.key)].tolist()

    def prepare(self) -> None:
        folder = ROOT / "examples" / self.name
        data = self.root / "var" / self.name / f"{self.name}.csv"
        done = subprocess.run(
            [sys.executable, "-c", PREPARE, str(folder / "train.py"), str(data)],
            cwd=self.root, env=os.environ | self.environment, capture_output=True, text=True, timeout=600,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"models:/{self.name}/1 is the champion: there was none" in done.stdout
        assert f"on {len(self.table):,} rows" in done.stdout  # the graph was compared on every row of the table


@dataclass(frozen=True)
class Original:
    """The registered model itself, as MLflow loads it."""

    model: Any
    columns: list[str]
    contract: Contract

    def answers(self, table: pd.DataFrame) -> NDArray[np.float64]:
        """Return what the contract's main output has to be for rows of the table: [n, columns]."""
        rows = table[self.columns]
        if self.contract.task.kind == "regression":
            return np.asarray(self.model.predict(rows), dtype=np.float64)[:, None]
        order = [list(self.model.classes_).index(name) for name in self.contract.task.classes]
        answers = np.asarray(self.model.predict_proba(rows), dtype=np.float64)[:, order]
        return answers[:, 1:] if self.contract.task.kind == "binary" else answers


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One directory, and one registry, for all examples: its tables take seconds to make."""
    root = tmp_path_factory.mktemp("examples")
    (root / "var").mkdir()
    return root


@pytest.fixture(scope="module", params=NAMES)
def example(request: pytest.FixtureRequest, root: Path) -> Example:
    name = str(request.param)
    prepared = Example(name, root, load_contract(str(ROOT / "examples" / name / "contract.py")))
    prepared.prepare()
    return prepared


@pytest.fixture(scope="module")
def server(example: Example) -> Iterator[Server]:
    with serving(example.environment, example.root / f"{example.name}.log", model=example.name) as running:
        yield running


@pytest.fixture(scope="module")
def original(example: Example) -> Original:
    import mlflow

    mlflow.set_tracking_uri(example.environment["MLFLOW_TRACKING_URI"])
    mlflow.set_registry_uri(example.environment["MLFLOW_TRACKING_URI"])
    uri = f"models:/{example.name}@champion"
    columns = mlflow.models.get_model_info(uri).signature.inputs.input_names()
    return Original(mlflow.sklearn.load_model(uri), columns, example.contract)


def main_output(contract: Contract) -> str:
    role = {"binary": "probability", "multiclass": "probabilities", "regression": "value"}[contract.task.kind]
    return next(output.name for output in contract.outputs if output.role == role)


def assert_equal(answers: NDArray[np.float64], expected: NDArray[np.float64], contract: Contract) -> None:
    tolerance = {"rtol": TOLERANCE, "atol": 0} if contract.task.kind == "regression" else {"rtol": 0, "atol": TOLERANCE}
    np.testing.assert_allclose(answers, expected, **tolerance)  # type: ignore[call-overload]


def over_predict(server: Server, contract: Contract, bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    with httpx.Client(base_url=server.rest, timeout=GUARD_S) as client:
        replies = [client.post("/predict", json=body) for body in bodies]
    assert {reply.status_code for reply in replies} == {200}, replies[0].text
    return [reply.json() for reply in replies]


def values_of(answers: list[dict[str, Any]], contract: Contract) -> NDArray[np.float64]:
    found = [answer[main_output(contract)] for answer in answers]
    if contract.task.kind == "multiclass":
        assert {tuple(each) for each in found} == {contract.task.classes}
        found = [list(each.values()) for each in found]
    return np.array(found, dtype=np.float64).reshape(len(found), -1)


def over_v2_rest(server: Server, contract: Contract, keys: list[Any]) -> NDArray[np.float64]:
    assert contract.key_field is not None
    key = {"name": contract.key, "datatype": contract.key_field.datatype, "shape": [len(keys), 1], "data": keys}
    reply = httpx.post(f"{server.rest}/v2/models/{contract.name}/infer", json={"inputs": [key]}, timeout=GUARD_S)
    assert reply.status_code == 200, reply.text
    outputs = {output["name"]: output for output in reply.json()["outputs"]}
    assert list(outputs) == [output.name for output in contract.outputs]
    assert set(outputs["features"]["data"]) == {"store"}
    main = outputs[main_output(contract)]
    return np.array(main["data"], dtype=np.float64).reshape(main["shape"])


def over_grpc(server: Server, contract: Contract, keys: list[Any]) -> tuple[NDArray[np.float64], v2.InferResult]:
    assert contract.key_field is not None
    key = v2.InferInput(str(contract.key), [len(keys), 1], contract.key_field.datatype)
    dtype = object if contract.key_field.is_text else np.int64
    key.set_data_from_numpy(np.array(keys, dtype=dtype).reshape(-1, 1))
    with v2.InferenceServerClient(server.grpc) as client:
        answer = client.infer(contract.name, [key])
    assert set(answer.as_numpy("features").ravel()) == {b"store"}
    return answer.as_numpy(main_output(contract)), answer


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_answer_is_the_original_models_own_over_every_protocol(
    example: Example, server: Server, original: Original
) -> None:
    contract, table, keys = example.contract, example.table, example.keys
    expected = original.answers(table)
    for start in range(0, len(keys), SLICE_ROWS):
        rows = slice(start, start + SLICE_ROWS)
        assert_equal(over_v2_rest(server, contract, keys[rows]), expected[rows], contract)
        answers, reply = over_grpc(server, contract, keys[rows])
        assert_equal(answers, expected[rows], contract)
        if contract.task.kind == "multiclass":
            likeliest = [contract.task.classes[place].encode() for place in expected[rows].argmax(axis=1)]
            assert reply.as_numpy("species").ravel().tolist() == likeliest
    chosen = np.linspace(0, len(keys) - 1, SAMPLE, dtype=int)
    predicted = over_predict(server, contract, [{str(contract.key): keys[row]} for row in chosen])
    assert_equal(values_of(predicted, contract), expected[chosen], contract)
    assert {(answer["features"], answer["model_version"]) for answer in predicted} == {("store", "1")}
    assert [answer[str(contract.key)] for answer in predicted] == [keys[row] for row in chosen]

    # A value in the request stands in for the stored one: the last number, and null where the contract takes it.
    changed = table.iloc[chosen].copy()
    number = [feature for feature in contract.features if not feature.is_category][-1]
    changed[number.name] = changed[number.name].median()
    nullable = [feature.name for feature in contract.features if feature.nullable and feature is not number][:1]
    changed[nullable] = np.nan
    given = {number.name: changed[number.name].iloc[0].item()} | dict.fromkeys(nullable)
    if number.kind == "integer":
        given[number.name] = int(given[number.name])
    predicted = over_predict(server, contract, [{str(contract.key): keys[row]} | given for row in chosen])
    assert_equal(values_of(predicted, contract), original.answers(changed), contract)


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_readmes_requests_are_answered(example: Example, server: Server) -> None:
    readme = (ROOT / "examples" / example.name / "README.md").read_text()
    bodies = [json.loads(line.split("-d '")[1].rstrip("'")) for line in readme.splitlines() if line.startswith("curl")]
    assert len(bodies) == 2
    answers = over_predict(server, example.contract, bodies)
    shown = readme.split("# {")[1].split("\n")[0]
    assert all(f'"{name}":' in shown for name in answers[0])
    assert [answer["features"] for answer in answers] == ["store", "store"]


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_make_serve_serves_an_example(example: Example) -> None:
    """What is prepared is not repeated: it only serves."""
    if example.name != "penguins":
        pytest.skip("one is enough")
    for name in ("Makefile", "examples", "custom_runtime", "handoff", "commands", "model-settings"):
        (example.root / name).symlink_to(ROOT / name)
    venv = Path(sys.prefix)
    ports = free_ports(3)
    names = ("MLSERVER_HTTP_PORT", "MLSERVER_GRPC_PORT", "MLSERVER_METRICS_PORT")
    settings = dict(zip(names, map(str, ports), strict=True)) | {
        "SERVING_DRAIN_DELAY_S": "0",
        "MLSERVER_HOST": "127.0.0.1",
    }
    log = example.root / "make.log"
    stamps = [option for stamp in (".dev", ".quickstart") for option in ("-o", str(venv / stamp))]  # install nothing
    with log.open("wb") as stream:
        process = subprocess.Popen(
            ["make", *stamps, f"VENV={venv}", "serve", f"EXAMPLE={example.name}"],
            cwd=example.root, env={**os.environ, **settings}, stdout=stream, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
    running = Server(process, ports[0], ports[1], ports[2], "/metrics", log, 0.0)
    try:
        wait_until_ready(running, example.name)
        (answer,) = over_predict(running, example.contract, [{"penguin_id": 42}])
        assert answer["species"] == "Adelie"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(GUARD_S)
    assert "is the champion" not in log.read_text()
    assert "imported" not in log.read_text()


@pytest.mark.parametrize("name", NAMES)
def test_a_training_script_imports_nothing_of_this_project(name: str) -> None:
    tree = ast.parse((ROOT / "examples" / name / "train.py").read_text())
    imported = {each.name for node in ast.walk(tree) if isinstance(node, ast.Import) for each in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not {module.partition(".")[0] for module in imported} & PACKAGES


@pytest.mark.parametrize("name", NAMES)
def test_a_readme_is_about_twenty_lines(name: str) -> None:
    assert 15 <= len((ROOT / "examples" / name / "README.md").read_text().splitlines()) <= 26
