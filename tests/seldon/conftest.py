"""What the manifests are checked with: kubectl's kustomize, the CRD, and the API's own types for the other kinds."""

import os
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes.client
import pytest
import yaml

from rollout.manifest.rendering import kustomized

ROOT = Path(__file__).parents[2]
CRD = ROOT.parent / "shared/crds/seldondeployments.machinelearning.seldon.io-1.17.1.yaml"


@pytest.fixture(scope="session")
def require() -> Callable[[str, str], str]:
    """Return a program's path; without it skip, saying how to install it, and fail in CI."""
    return _require


def _require(program: str, install: str) -> str:
    path = shutil.which(program)
    if path is None:
        message = f"{program} is not installed: {install}"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(message)
    return str(path)


@pytest.fixture(scope="session")
def built() -> Callable[[str], tuple[dict[str, Any], ...]]:
    """Return the objects of a directory under seldon/, as `kubectl kustomize` builds them."""
    _require("kubectl", "https://kubernetes.io/docs/tasks/tools")
    return cache(lambda directory: kustomized(ROOT / "seldon" / directory))


@pytest.fixture
def deployment(built: Callable[[str], tuple[dict[str, Any], ...]]) -> Callable[[str], dict[str, Any]]:
    """Return the SeldonDeployment of an overlay."""
    return lambda overlay: next(one for one in built(f"overlays/{overlay}") if one["kind"] == "SeldonDeployment")


@pytest.fixture(scope="session")
def crd_errors() -> Callable[[dict[str, Any]], list[str]]:
    """Return what an API server with the CRD would refuse, fields that it does not declare included."""
    if not CRD.exists():
        pytest.skip(f"the CRD of Seldon Core 1.17.1 is not at {CRD}")
    definition = yaml.load(CRD.read_bytes(), yaml.CSafeLoader)
    (schema,) = (one["schema"]["openAPIV3Schema"] for one in definition["spec"]["versions"] if one["name"] == "v1")
    strict = _strict(schema)
    # The API server itself checks an object's own metadata; the CRD only says that it is an object.
    strict["properties"]["metadata"] = {"type": "object", "required": ["name"]}
    validator = jsonschema.Draft202012Validator(strict)
    return lambda document: [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)]


def _strict(schema: dict[str, Any]) -> dict[str, Any]:
    """A structural schema as strict field validation reads it: what is not declared is refused."""
    strict = {
        key: value
        for key, value in schema.items()
        if key in ("type", "enum", "pattern", "required", "minimum", "maximum")
    }
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    if schema.get("nullable"):
        strict["type"] = [schema["type"], "null"]
    if "items" in schema:
        strict["items"] = _strict(schema["items"])
    if "properties" in schema:
        strict["properties"] = {name: _strict(field) for name, field in schema["properties"].items()}
    if isinstance(schema.get("additionalProperties"), dict):
        strict["additionalProperties"] = _strict(schema["additionalProperties"])
    elif "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        strict["additionalProperties"] = False
    return strict


@pytest.fixture(scope="session")
def unknown_fields() -> Callable[[dict[str, Any]], list[str]]:
    """Return the fields of a built-in kind that the API does not have, by the official client's types."""
    return lambda document: list(_unknown(document, _model(document), f"{document['kind']}"))


def _model(document: dict[str, Any]) -> str:
    version = document["apiVersion"].rpartition("/")[2]
    return f"{version[0].upper()}{version[1:]}{document['kind']}"


def _unknown(value: Any, type_name: str, path: str) -> Iterator[str]:
    inner = type_name[5:-1]  # list[V1Pod] and dict(str, V1Pod); newer clients say List[V1Pod] and Dict[str, V1Pod]
    if type_name.lower().startswith("list["):
        for index, item in enumerate(value):
            yield from _unknown(item, inner, f"{path}[{index}]")
    elif type_name.lower().startswith(("dict(", "dict[")):
        for key, item in value.items():
            yield from _unknown(item, inner.split(", ")[1], f"{path}.{key}")
    elif model := getattr(kubernetes.client, type_name, None):
        attributes = {outside: inside for inside, outside in model.attribute_map.items()}
        for key, item in value.items():
            if key not in attributes:
                yield f"{path}.{key}"
            else:
                yield from _unknown(item, model.openapi_types[attributes[key]], f"{path}.{key}")
