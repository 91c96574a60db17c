"""YAML and JSON streams of Kubernetes objects, read as Kubernetes reads them."""

from __future__ import annotations

from typing import Any

import yaml

from rollout.errors import ManifestError


class _Loader(yaml.SafeLoader):
    """YAML as Kubernetes reads it: timestamps stay text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_documents(text: str | bytes) -> tuple[dict[str, Any], ...]:
    """Read every object of a YAML (or JSON) stream; empty documents are left out. Raises ManifestError."""
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
