"""A manifest that is read is written again as it was; one of the wrong shape is refused with the path.

Streams of Kubernetes objects, read as Kubernetes reads them.
"""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rollout.errors import ManifestError
from rollout.manifest.parsing import parse, read_documents, to_dict, to_yaml

MANIFEST = """
apiVersion: machinelearning.seldon.io/v1
kind: SeldonDeployment
metadata: {name: churn}
spec:
  predictors:
    - name: v7
      traffic: 100
      graph: {name: churn}
"""

NAMES = st.text(alphabet="abcxyz", min_size=1, max_size=6)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(min_size=1), inner, max_size=3),
    max_leaves=8,
)
# Drawing whole manifests is slow on a busy machine; that is no defect of what is tested.
MANIFESTS = settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=60)


def _object(required: dict[str, Any], optional: dict[str, Any]) -> st.SearchStrategy:
    """Known fields, some of them left out, beside unknown fields."""
    unknown = st.dictionaries(st.text(alphabet="QRS", min_size=1, max_size=4), JSON, max_size=2)
    known = st.fixed_dictionaries(required, optional=optional)
    return st.builds(lambda extra, fields: extra | fields, unknown, known)


HTTP = _object({"port": st.integers(1, 9999) | st.just("http")}, {"path": st.text()})
PROBES = _object({}, {"httpGet": HTTP, "periodSeconds": st.integers()})
CONTAINERS = _object(
    {"name": NAMES},
    {
        "image": st.text(),
        "env": st.lists(_object({"name": NAMES}, {"value": st.text(), "valueFrom": JSON}), max_size=2),
        "ports": st.lists(_object({"containerPort": st.integers()}, {"name": NAMES}), max_size=2),
        "readinessProbe": PROBES,
    },
)
COMPONENTS = _object(
    {"spec": _object({"containers": st.lists(CONTAINERS, max_size=2)}, {})},
    {"hpaSpec": _object({"maxReplicas": st.integers()}, {"minReplicas": st.integers()}), "metadata": _object({}, {})},
)
UNITS: st.SearchStrategy[dict[str, Any]] = st.deferred(
    lambda: _object({"name": NAMES}, {"modelUri": st.text(), "children": st.lists(UNITS, max_size=1)})
)
PREDICTORS = _object(
    {"name": NAMES, "graph": UNITS},
    {
        "traffic": st.integers(),
        "shadow": st.booleans(),
        "componentSpecs": st.lists(COMPONENTS, max_size=2),
        "annotations": st.dictionaries(NAMES, st.text(), max_size=2),
    },
)
DEPLOYMENTS = st.fixed_dictionaries(
    {
        "apiVersion": st.just("machinelearning.seldon.io/v1"),
        "kind": st.just("SeldonDeployment"),
        "metadata": _object({"name": NAMES}, {"labels": st.dictionaries(NAMES, NAMES, max_size=1)}),
        "spec": _object({"predictors": st.lists(PREDICTORS, max_size=2)}, {"protocol": NAMES}),
    },
    optional={"status": _object({}, {"state": NAMES})},
)


@MANIFESTS
@given(DEPLOYMENTS)
def test_what_is_read_is_written_unknown_fields_included(document: dict[str, Any]) -> None:
    assert to_dict(parse(document)) == document


@MANIFESTS
@given(DEPLOYMENTS)
def test_yaml_of_a_deployment_reads_as_the_same_deployment(document: dict[str, Any]) -> None:
    assert to_dict(parse(to_yaml(parse(document)))) == document


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "this is not YAML"),
        ("- a\n- b", "a manifest must be a mapping, this is list"),
        ("", "the text has 0 objects"),
        ("kind: Pod\napiVersion: v1", "expected machinelearning.seldon.io/v1 SeldonDeployment, this is v1 Pod"),
        (
            MANIFEST.replace("traffic: 100", "traffic: '100'"),
            "/spec/predictors/0/traffic: .*valid integer, this is '100'",
        ),
        (MANIFEST.replace("name: v7", "name: 7"), "/spec/predictors/0/name: .*valid string, this is 7"),
    ],
)
def test_a_manifest_of_the_wrong_shape_is_refused_with_the_path(text: str, words: str) -> None:
    with pytest.raises(ManifestError, match=words):
        parse(text)


def test_timestamps_stay_text_and_empty_documents_are_passed_over() -> None:
    assert read_documents("---\n---\na: 2026-01-02T03:04:05Z\n---\nb: 1\n") == ({"a": "2026-01-02T03:04:05Z"}, {"b": 1})
