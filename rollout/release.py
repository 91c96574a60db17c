"""A new version of the model, as a predictor made from the one that serves now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rollout.errors import PlanError
from rollout.predictor import Container, EnvVar, Predictor

VERSION_LABEL = "version"  # the operator's DestinationRule selects a predictor's pods by it
NAMED_PORTS = ("http", "grpc", "metrics")


@dataclass(frozen=True, slots=True)
class Release:
    """What is new: the predictor's name (`v8`), and any of image, model URI and environment of the model container."""

    name: str
    image: str = ""
    model_uri: str = ""
    env: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a release that brings nothing new."""
        if not (self.image or self.model_uri or self.env):
            raise PlanError(f"release {self.name} brings nothing new; give --image, --model-uri or --env")


def predictor_for(stable: Predictor, release: Release) -> Predictor:
    """Return the stable predictor as the release's, at 0 %: same resources, probes and scaling.

    Raises PlanError when the two would restart each other's pods: the operator numbers ports that are not declared.
    """
    declared = {port.name for port in stable.model_container.ports}
    if missing := [name for name in NAMED_PORTS if name not in declared]:
        raise PlanError(
            f"predictor {stable.name} declares no port named {', '.join(missing)}: the operator would number it by "
            f"position and restart pods when a predictor comes or goes; declare {', '.join(NAMED_PORTS)} first"
        )
    if release.name == stable.name:
        raise PlanError(f"{release.name} is the predictor that serves now; name the new one after its own version")
    predictor = stable.for_version(release.name, image=release.image, model_uri=release.model_uri)
    if predictor.labels.get(VERSION_LABEL) == stable.name:
        predictor = predictor.but(labels={**predictor.labels, VERSION_LABEL: release.name})
    return _with_env(predictor, release.env) if release.env else predictor


def _with_env(predictor: Predictor, values: Mapping[str, str]) -> Predictor:
    model = predictor.model_container.name

    def changed(container: Container) -> Container:
        if container.name != model:
            return container
        kept = tuple(env for env in container.env if env.name not in values)
        return container.but(env=(*kept, *(EnvVar(name=name, value=value) for name, value in values.items())))

    return predictor.but(
        component_specs=tuple(
            component.but(
                spec=component.spec.but(containers=tuple(changed(container) for container in component.spec.containers))
            )
            for component in predictor.component_specs
        )
    )
