"""Renders the deployment of one model version from the manifests that kustomize applies. No second template."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rollout.errors import ManifestError
from rollout.manifest.parsing import parse, read_documents, to_dict
from rollout.manifest.seldon import KIND, SeldonDeployment

BASE = Path("seldon/base")
KUSTOMIZE_TIMEOUT_S = 60
BUNDLE_MANIFEST = "bundle.json"  # written by custom_runtime/model/bundle.py


def kustomized(directory: Path) -> tuple[dict[str, Any], ...]:
    """Return every object of a kustomization. Raises ManifestError when the build fails."""
    if not directory.is_dir():
        raise ManifestError(
            f"{directory} is no directory; run in the repository, or name another overlay, such as seldon/base"
        )
    try:
        built = subprocess.run(
            ["kubectl", "kustomize", str(directory)], capture_output=True, timeout=KUSTOMIZE_TIMEOUT_S, check=False
        )
    except FileNotFoundError as missing:
        raise ManifestError(
            "kubectl is not installed; it builds the manifests: install it (1.27 or newer)"
        ) from missing
    except subprocess.TimeoutExpired as slow:
        raise ManifestError(f"kubectl kustomize {directory} took longer than {KUSTOMIZE_TIMEOUT_S} s") from slow
    if built.returncode != 0:
        raise ManifestError(f"kubectl kustomize {directory} failed: {built.stderr.decode(errors='replace').strip()}")
    return read_documents(built.stdout)


def bundle_version(directory: Path, *, model: str) -> str:
    """Return the model version that a bundle was imported from. Raises ManifestError if it is of another model."""
    path = directory / BUNDLE_MANIFEST
    try:
        stored = json.loads(path.read_bytes())
        name, version = str(stored["name"]), str(stored["version"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ManifestError(
            f"{path} cannot be read ({reason}); make it: churn-serving import models:/{model}@champion "
            f"--output {directory}"
        ) from error
    container = container_name(name)
    if model not in (name, container):
        raise ManifestError(
            f"{directory} is a bundle of {name!r}; the deployment serves {model!r}; render one for it: "
            f"--model {container}, and --name, or it takes the place of the deployment of {model!r}"
        )
    return version


def container_name(model: str) -> str:
    """Return a model's name as a DNS label, for its container: credit_default -> credit-default; it is served so."""
    return re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")


@dataclass(frozen=True, slots=True)
class Rendering:
    """What a manifest is rendered for. Fields that are empty keep what the template has.

    image: empty uses the template's image with the version as its tag. model_uri: where the storage initializer finds
    the bundle; empty means that the image contains it. model: of another contract; container, graph node and probes get
    its name. name: the deployment's.
    """

    version: str
    image: str = ""
    model_uri: str = ""
    namespace: str = ""
    model: str = ""
    name: str = ""


def render(template: SeldonDeployment, wanted: Rendering) -> SeldonDeployment:
    """Return the template with one predictor, which has the version's name and gets all traffic.

    Raises ManifestError when the template has no predictor.
    """
    image = wanted.image or tagged(template.stable.image, wanted.version)
    predictor = template.stable.for_version(f"v{wanted.version}", image=image, model_uri=wanted.model_uri, traffic=100)
    if wanted.model:
        predictor = predictor.for_model(wanted.model)
    if wanted.name:
        predictor = predictor.for_deployment(template.name, wanted.name)
    rendered = template.but(spec=template.spec.but(predictors=(predictor,)))
    renamed = {field: value for field in ("namespace", "name") if (value := getattr(wanted, field))}
    return rendered.but(metadata=rendered.metadata.but(**renamed)) if renamed else rendered


def tagged(image: str, tag: str) -> str:
    """Return an image reference with another tag. The old tag or digest is removed; a registry's port is kept."""
    repository = image.partition("@")[0]
    head, _, last = repository.rpartition("/")
    name = last.partition(":")[0]
    return f"{head}/{name}:{tag}" if head else f"{name}:{tag}"


def rendered_objects(objects: tuple[dict[str, Any], ...], wanted: Rendering) -> tuple[dict[str, Any], ...]:
    """Return a kustomization's objects: its SeldonDeployment is rendered, the others are unchanged.

    Raises ManifestError unless there is exactly one SeldonDeployment, and when the template is for another namespace.
    """
    found = [one for one in objects if one.get("kind") == KIND]
    if len(found) != 1:
        raise ManifestError(f"the kustomization has {len(found)} SeldonDeployments; one is needed")
    template = parse(found[0])
    if wanted.namespace and template.namespace and wanted.namespace != template.namespace:
        raise ManifestError(
            f"the overlay is for namespace {template.namespace!r}, not {wanted.namespace!r}; set `namespace:` in its "
            "kustomization.yaml, so that the accounts and policies move with it"
        )
    deployment = render(template, wanted)
    return tuple(to_dict(deployment) if one is found[0] else one for one in objects)
