"""What all kinds of checks share: their settings, whom they ask about, and how they fail.

A new kind is one module here, with a subclass of Check, and its name in kinds.py. Plan, rules, promoter and reports
take it from there.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from string import Template
from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from rollout.analysis.verdict import GateResult, OnDoubt, Verdict

Positive = Annotated[float, Field(gt=0)]
CheckName = Annotated[str, Field(min_length=1, max_length=60, pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]*$")]


@dataclass(frozen=True, slots=True)
class Subject:
    """What a check asks about: a rollout and its present step.

    canary_url, canary_headers: how the canary is reached past the weights; the address is empty where none is known.
    since_s: the Unix time at which the mesh had the step's routes. prometheus: the address of the evidence, as whoever
    drives the rollout was given it, and not as the plan says; empty where the evidence is no Prometheus.
    """

    deployment: str
    namespace: str
    stable: str
    canary: str
    step: str
    weight_percent: int = 0
    canary_url: str = ""
    canary_headers: Mapping[str, str] = field(default_factory=dict)
    since_s: float = 0.0
    prometheus: str = ""

    def fill(self, text: str) -> str:
        """Replace $deployment, $namespace, $stable, $canary, $step, $weight_percent and $canary_url in a text."""
        return Template(text).safe_substitute(self.words())

    def words(self) -> dict[str, str]:
        """Return the values by name, for texts, environments and JSON."""
        return {
            "deployment": self.deployment,
            "namespace": self.namespace,
            "stable": self.stable,
            "canary": self.canary,
            "step": self.step,
            "weight_percent": str(self.weight_percent),
            "canary_url": self.canary_url,
        }


Ended = Callable[[], bool]
"""Whether the step has ended, so that nobody waits for the answer any more."""


class Check(BaseModel):
    """The settings of one check. Strict: texts are not converted, unknown keys are rejected.

    on_fail: `rollback`, or `hold` for a person, who may accept it with `promote`. dry_run: it decides nothing.
    failures: how many answers in a row must fail until the check fails. timeout_s: for one answer. every_s: how soon it
    is asked again; a check that does not repeat is asked again only while it has no verdict.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)
    repeats: ClassVar[bool] = False

    name: CheckName
    on_fail: OnDoubt = OnDoubt.ROLLBACK
    dry_run: bool = False
    failures: Annotated[int, Field(ge=1)] = 1
    timeout_s: Positive = 30.0
    every_s: Positive = 10.0

    @abstractmethod
    def ask(self, subject: Subject, ended: Ended) -> tuple[GateResult, ...]:
        """Ask once, on a thread of its own, and return the results. Must return soon after `ended`."""

    @property
    def judges(self) -> bool:
        """Whether its results decide anything."""
        return not self.dry_run

    @property
    def results(self) -> tuple[str, ...]:
        """The names of its results."""
        return (self.name,)

    def describe(self) -> tuple[str, str]:
        """Return when it fails and when it passes, as text."""
        return ("it says so", "it says so")

    def blank(self, verdict: Verdict, reason: str) -> tuple[GateResult, ...]:
        """Return the same result under each of its names: nothing was asked yet, or nothing could be."""
        return tuple(GateResult(name, verdict, reason) for name in self.results)

    def result(self, verdict: Verdict, reason: str) -> tuple[GateResult, ...]:
        """Return one result."""
        return (GateResult(self.name, verdict, reason),)
