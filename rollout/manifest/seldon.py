"""The SeldonDeployment (machinelearning.seldon.io/v1) as typed values. Fields that are not modelled are kept.

Every `with_*` method returns a new value. Names follow the operator's functions (seldondeployment_types.go).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from pydantic import Field, StrictInt

from rollout.errors import ManifestError
from rollout.manifest.predictor import Metadata, Part, Predictor

API_VERSION = "machinelearning.seldon.io/v1"
KIND = "SeldonDeployment"
NO_ENGINE = "seldon.io/no-engine"
SERVICE_NAME = "seldon.io/svc-name"
NAME_MAX_CHARS = 63  # DNS-1123 label; the operator hashes longer names


def weight_words(percents: Mapping[str, int]) -> str:
    """Return weights for a person: `v7 70 %, v8 30 %`; `none` without any."""
    return ", ".join(f"{name} {percent} %" for name, percent in percents.items()) or "none"


class Spec(Part):
    """Protocol and predictors."""

    protocol: str = ""
    transport: str = ""
    server_type: str = ""
    annotations: dict[str, str] = Field(default_factory=dict)
    predictors: tuple[Predictor, ...]


class DeploymentStatus(Part):
    """The replicas of one Deployment, as the operator last observed them."""

    replicas: StrictInt = 0
    available_replicas: StrictInt = 0


class Status(Part):
    """The status that the operator reports: Available, Creating or Failed. It can be out of date just after an edit."""

    state: str = ""
    description: str = ""
    deployment_status: dict[str, DeploymentStatus] = Field(default_factory=dict)


class SeldonDeployment(Part):
    """One SeldonDeployment."""

    api_version: str = API_VERSION
    kind: str = KIND
    metadata: Metadata
    spec: Spec
    status: Status | None = None

    @property
    def name(self) -> str:
        """The object's name."""
        return self.metadata.name

    @property
    def namespace(self) -> str:
        """The object's namespace; empty when the manifest has none."""
        return self.metadata.namespace

    @property
    def predictors(self) -> tuple[Predictor, ...]:
        """All predictors in the order of the manifest, including shadows."""
        return self.spec.predictors

    def predictor(self, name: str) -> Predictor:
        """Return one predictor. Raises ManifestError, which lists the existing names."""
        for predictor in self.predictors:
            if predictor.name == name:
                return predictor
        raise ManifestError(f"{self.name} has no predictor {name!r}; it has: {', '.join(self.traffic()) or 'none'}")

    def traffic(self) -> dict[str, int]:
        """Return the declared traffic in percent of each predictor that answers callers (shadows excluded)."""
        return {predictor.name: predictor.traffic for predictor in self.predictors if not predictor.shadow}

    def weights(self) -> dict[str, int]:
        """Return the weights in the mesh: as `traffic`, but a single predictor gets 100 %."""
        declared = self.traffic()
        return dict.fromkeys(declared, 100) if len(declared) == 1 else declared

    @property
    def stable(self) -> Predictor:
        """The predictor with the most traffic. Of equal ones the first, because a canary is appended."""
        answering = [predictor for predictor in self.predictors if not predictor.shadow]
        if not answering:
            raise ManifestError(f"{self.name} has no predictor that answers callers; add one that is not a shadow")
        return max(answering, key=lambda predictor: predictor.traffic)  # max returns the first of equal ones

    @property
    def canary(self) -> Predictor | None:
        """The other predictor that answers callers, or None. Raises ManifestError when there is more than one."""
        stable = self.stable.name
        others = [predictor for predictor in self.predictors if not predictor.shadow and predictor.name != stable]
        if len(others) > 1:
            names = ", ".join(predictor.name for predictor in others)
            raise ManifestError(f"{self.name} has {len(others)} predictors beside {stable}: {names}; one is allowed")
        return others[0] if others else None

    def with_predictor(self, predictor: Predictor) -> SeldonDeployment:
        """Return the deployment with one more predictor, at the end. Raises ManifestError when the name exists."""
        if any(existing.name == predictor.name for existing in self.predictors):
            raise ManifestError(f"{self.name} has a predictor {predictor.name!r} already")
        return self._with_predictors((*self.predictors, predictor))

    def with_traffic(self, percents: Mapping[str, int]) -> SeldonDeployment:
        """Return the deployment with these weights in percent; predictors that are not named keep their weights.

        Raises ManifestError when a name is unknown, a value is outside 0..100 or the sum is not 100.
        """
        for name, percent in percents.items():
            self.predictor(name)
            if not 0 <= percent <= 100:
                raise ManifestError(f"traffic of {name} is {percent}; allowed: 0..100")
        changed = self._with_predictors(
            tuple(
                predictor.but(traffic=percents[predictor.name]) if predictor.name in percents else predictor
                for predictor in self.predictors
            )
        )
        traffic = changed.traffic()
        if (total := sum(traffic.values())) != 100:
            raise ManifestError(
                f"traffic of {self.name} would sum to {total} ({weight_words(traffic)}); it must be 100"
            )
        return changed

    def _with_predictors(self, predictors: tuple[Predictor, ...]) -> SeldonDeployment:
        return self.but(spec=self.spec.but(predictors=predictors))

    @property
    def virtual_service_name(self) -> str:
        """The name of the Istio VirtualService that the operator writes."""
        return _hashed_when_long(self.name)

    def service_name(self, predictor: str) -> str:
        """Return the name of the Service of one predictor."""
        found = self.predictor(predictor)
        return found.annotations.get(SERVICE_NAME) or self.default_service_name(predictor)

    def default_service_name(self, predictor: str) -> str:
        """Return the default name of a predictor's Service, whether the predictor exists or was removed."""
        return _hashed_when_long(f"{self.name}-{predictor}")

    def deployment_names(self, predictor: str) -> tuple[str, ...]:
        """Return the names of a predictor's Deployments, one per component spec. The HPA has the same name."""
        names = []
        for index, component in enumerate(self.predictor(predictor).component_specs):
            pod = component.metadata.name or "-".join(container.name for container in component.spec.containers)
            names.append(_hashed_when_long(f"{self.name}-{predictor}-{index}-{pod}"))
        return tuple(names)


def _hashed_when_long(name: str) -> str:
    if len(name) <= NAME_MAX_CHARS:
        return name
    return "seldon-" + hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()
