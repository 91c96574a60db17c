"""Manifests that Seldon's webhook accepts or rejects, with the operator's messages."""

from pathlib import Path
from typing import Any

from rollout.manifest.parsing import read_documents

(VALID,) = read_documents((Path(__file__).parents[2] / "seldon/base/seldondeployment.yaml").read_text())


P = "/spec/predictors"


CONTAINER = f"{P}/0/componentSpecs/0/spec/containers/0"


NO_ENGINE = f"{P}/0/annotations/seldon.io~1no-engine"


def add(path: str, value: Any) -> dict[str, Any]:
    return {"op": "add", "path": path, "value": value}


def remove(path: str) -> dict[str, Any]:
    return {"op": "remove", "path": path}


def copied(name: str, **fields: Any) -> list[dict[str, Any]]:
    """Append a copy of the last predictor under another name, with other fields."""
    copy = {"op": "copy", "from": f"{P}/0", "path": f"{P}/-"}
    return [copy, add(f"{P}/1/name", name), *(add(f"{P}/1/{field}", value) for field, value in fields.items())]


SECOND = copied("v2", traffic=0)


CHILD = {"name": "churn"}


WEBHOOK = {
    "protocol": ([add("/spec/protocol", "v3")], "/spec/protocol", "Invalid protocol"),
    "transport": ([add("/spec/transport", "http")], "/spec/transport", "Invalid transport"),
    "server type": ([add("/spec/serverType", "http")], "/spec/serverType", "Invalid serverType"),
    "no predictors": ([add(P, [])], P, "Graph contains no predictors"),
    "duplicate name": (copied("v1", traffic=0), f"{P}/1/name", "Duplicate predictor name"),
    "no container": (
        [add(f"{P}/0/graph/name", "model")],
        f"{P}/0/graph/name",
        "Can't find container for Predictive Unit",
    ),
    "no methods": (
        [add(f"{P}/0/graph/type", "UNKNOWN_TYPE")],
        f"{P}/0/graph/type",
        "Predictive Unit has no implementation methods defined",
    ),
    "no-engine graph": (
        [add(f"{P}/0/graph/children", [CHILD])],
        NO_ENGINE,
        "Running without engine only valid for single element graphs",
    ),
    "sum": ([*copied("v2", traffic=10)], P, "Traffic must sum to 100 for multiple predictors"),
    "single predictor": (
        [add(f"{P}/0/traffic", 50)],
        f"{P}/0/traffic",
        "Traffic must sum be 100 for a single predictor when set",
    ),
    "only a shadow": ([add(f"{P}/0/shadow", True)], f"{P}/0/shadow", "Shadow can not exist as only predictor"),
    "two shadows": (
        [*copied("v2", shadow=True), {"op": "copy", "from": f"{P}/1", "path": f"{P}/-"}, add(f"{P}/2/name", "v3")],
        f"{P}/2/shadow",
        "Multiple shadows are not allowed",
    ),
    "shadow traffic": (
        copied("v2", shadow=True, traffic=101),
        f"{P}/1/traffic",
        "shadow traffic is illegal, the traffic number should be between [0, 100]",
    ),
    "duplicate service": (
        [add(f"{P}/0/annotations/seldon.io~1svc-name", "scores"), *SECOND],
        f"{P}/1/annotations/seldon.io~1svc-name",
        "Found duplicate service name in seldon.io/svc-name with value scores",
    ),
    "prepackaged": (
        [add(f"{P}/0/graph/implementation", "XGBOOST_SERVER")],
        f"{P}/0/graph/modelUri",
        "Predictive unit modelUri required when using standalone servers",
    ),
    "logger": (
        [add(f"{P}/0/graph/logger", {"url": "http://sink"})],
        f"{P}/0/graph/logger/mode",
        "No logger mode specified",
    ),
}
