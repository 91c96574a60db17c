"""Reads and writes SeldonDeployments as JSON and YAML, by the rules of Kubernetes.

`to_dict` after `parse` returns the input, including unknown fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml
from pydantic import ValidationError

from rollout.errors import ManifestError
from rollout.manifest.predictor import Predictor
from rollout.manifest.problems import field_errors
from rollout.manifest.seldon import API_VERSION, KIND, SeldonDeployment


def parse(source: Mapping[str, Any] | str | bytes) -> SeldonDeployment:
    """Read one SeldonDeployment from a mapping or YAML text. Raises ManifestError, which names every invalid field."""
    if isinstance(source, str | bytes):
        documents = read_documents(source)
        if len(documents) != 1:
            raise ManifestError(f"expected one SeldonDeployment, the text has {len(documents)} objects")
        source = documents[0]
    found = (source.get("apiVersion"), source.get("kind"))
    if found != (API_VERSION, KIND):
        raise ManifestError(f"expected {API_VERSION} {KIND}, this is {found[0]} {found[1]}")
    try:
        return SeldonDeployment.model_validate(source)
    except ValidationError as error:
        raise ManifestError("; ".join(f"{path}: {message}" for path, message in field_errors(error))) from error


def to_dict(deployment: SeldonDeployment | Predictor) -> dict[str, Any]:
    """Return the JSON object: the input with the changes that were made since."""
    return deployment.model_dump(mode="json", by_alias=True, exclude_unset=True)


def to_yaml(deployment: SeldonDeployment) -> str:
    """Return the manifest as YAML. The fields that are modelled here come first."""
    return yaml.safe_dump(to_dict(deployment), sort_keys=False, width=120)


class _Loader(yaml.SafeLoader):
    """Reads YAML as Kubernetes does: timestamps stay text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_documents(text: str | bytes) -> tuple[dict[str, Any], ...]:
    """Read every object of a YAML or JSON stream; empty documents are skipped. Raises ManifestError."""
    try:
        documents = [document for document in yaml.load_all(text, _Loader) if document is not None]
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ManifestError(f"this is not YAML: {' '.join(str(error).split())}") from error
    for document in documents:
        if not isinstance(document, dict):
            raise ManifestError(
                f"a manifest must be a mapping, this is {type(document).__name__}: {str(document)[:60]!r}"
            )
    return tuple(documents)
