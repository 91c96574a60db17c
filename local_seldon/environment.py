"""The environment of a container: the operator's variables, then the manifest's. Pure.

Names and rules follow the operator's createContainerService and the v2 branch of its environment code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from local_seldon.deployment import PREPACKAGED
from local_seldon.errors import MissingArtifact, Unsupported
from local_seldon.replica import Ports
from rollout.manifest.predictor import Container, Predictor, Unit
from rollout.manifest.seldon import SeldonDeployment

ARTIFACTS = "local-seldon/artifacts"
"""Annotation of the deployment: a JSON object, image or modelUri -> directory on this machine."""
METRICS_ENDPOINT = "/prometheus"
FILE_SCHEME = "file://"
# A pod starts with an empty environment; a process needs these to find programs, its home and its language.
INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR")


@dataclass(frozen=True, slots=True)
class Overrides:
    """This machine's replacements for images, buckets and secrets.

    artifacts: image or modelUri -> directory. env: variables for every predictor, which override the manifest's.
    predictor_env: the same for one predictor, by its name.
    """

    artifacts: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    predictor_env: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def for_predictor(self, name: str) -> dict[str, str]:
        """Return the overriding variables for one predictor."""
        return {**self.env, **self.predictor_env.get(name, {})}


def environment(
    deployment: SeldonDeployment,
    predictor: Predictor,
    ports: Ports,
    overrides: Overrides,
    inherited: Mapping[str, str],
    unit: Unit | None = None,
) -> dict[str, str]:
    """Return every variable of the process of one node (None: the root of the graph).

    Raises Unsupported (a valueFrom without a replacement) or MissingArtifact (no directory for the model).
    """
    unit = unit or predictor.graph
    container = container_of(predictor, unit)
    wins = overrides.for_predictor(predictor.name)
    runtime = PREPACKAGED.get(unit.implementation or "")
    needs_model = unit.model_uri or unit.type not in ("COMBINER", "ROUTER")
    return {
        **{name: inherited[name] for name in INHERITED if name in inherited},
        **injected(deployment, predictor, ports, unit),
        **({"MLSERVER_MODEL_IMPLEMENTATION": runtime} if runtime else {}),
        **({"MLSERVER_MODEL_URI": model_directory(deployment, predictor, overrides, unit)} if needs_model else {}),
        "MLSERVER_HOST": "127.0.0.1",  # a pod listens on all of its own interfaces; here only loopback is used
        **_declared(predictor, container, wins),
        **wins,
    }


def container_of(predictor: Predictor, unit: Unit) -> Container:
    """Return the container of a node; the operator makes one for a prepackaged server that has none."""
    declared = {container.name: container for container in predictor.containers()}
    if unit.name not in declared and unit.implementation in PREPACKAGED:
        return Container(name=unit.name)
    return declared.get(unit.name) or predictor.model_container


def injected(
    deployment: SeldonDeployment, predictor: Predictor, ports: Ports, unit: Unit | None = None
) -> dict[str, str]:
    """Return the variables that the operator adds to a v2 container of its own image (None: the root's)."""
    unit = unit or predictor.graph
    container = container_of(predictor, unit)
    unit_parameters = (unit.model_extra or {}).get("parameters", [])
    return {
        "MLSERVER_HTTP_PORT": str(ports.http),
        "MLSERVER_GRPC_PORT": str(ports.grpc),
        "MLSERVER_METRICS_PORT": str(ports.metrics),
        "MLSERVER_METRICS_ENDPOINT": METRICS_ENDPOINT,
        "MLSERVER_MODEL_NAME": container.name,
        "PREDICTIVE_UNIT_ID": container.name,
        "PREDICTIVE_UNIT_IMAGE": container.image,
        "PREDICTIVE_UNIT_SERVICE_PORT": str(ports.http),
        "PREDICTIVE_UNIT_HTTP_SERVICE_PORT": str(ports.http),
        "PREDICTIVE_UNIT_GRPC_SERVICE_PORT": str(ports.grpc),
        "PREDICTIVE_UNIT_METRICS_SERVICE_PORT": str(ports.metrics),
        "PREDICTIVE_UNIT_METRICS_ENDPOINT": METRICS_ENDPOINT,
        "PREDICTIVE_UNIT_PARAMETERS": json.dumps(unit_parameters),
        "PREDICTOR_ID": predictor.name,
        "PREDICTOR_LABELS": json.dumps({**predictor.labels, "version": predictor.name}, sort_keys=True),
        "SELDON_DEPLOYMENT_ID": deployment.name,
        "SELDON_EXECUTOR_ENABLED": "true",
    }


def model_directory(
    deployment: SeldonDeployment, predictor: Predictor, overrides: Overrides, unit: Unit | None = None
) -> str:
    """Return the directory that replaces /mnt/models of a node (None: the root), or the model inside the image.

    Searched: the modelUri itself (file://), then `overrides`, then the deployment's annotation; by modelUri where there
    is one, else by image. Raises MissingArtifact, which names both ways to specify it.
    """
    unit = unit or predictor.graph
    uri = unit.model_uri
    if uri.startswith(FILE_SCHEME):
        return uri.removeprefix(FILE_SCHEME)
    known = {**_annotated(deployment), **overrides.artifacts}
    wanted = uri or container_of(predictor, unit).image
    if wanted not in known:
        raise MissingArtifact(
            f"predictor {predictor.name}: no directory known for {'modelUri' if uri else 'image'} {wanted!r}; known: "
            f"{', '.join(known) or 'none'}; give `up --artifact {wanted}=DIR`, or annotate {ARTIFACTS}"
        )
    return known[wanted]


def _annotated(deployment: SeldonDeployment) -> dict[str, str]:
    text = deployment.metadata.annotations.get(ARTIFACTS, "{}")
    try:
        found: Any = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise MissingArtifact(f'annotation {ARTIFACTS} is {text!r}; allowed: a JSON object, {{"image:tag": "dir"}}')
    return {str(key): str(value) for key, value in found.items()}


def _declared(predictor: Predictor, container: Container, wins: Mapping[str, str]) -> dict[str, str]:
    declared = {}
    for variable in container.env:
        source = (variable.model_extra or {}).get("valueFrom")
        if source is None:
            declared[variable.name] = variable.value or ""
        elif variable.name not in wins and not any(one.get("optional") for one in source.values()):
            raise Unsupported(
                f"predictor {predictor.name}: {variable.name} comes from {next(iter(source), 'nothing')}, which is not "
                f"here; give `up --env {variable.name}=VALUE`"
            )
    return declared
