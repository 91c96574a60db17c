"""The options that commands share, each declared once: its flag, its type and its line of help.

The flags that lie over rollout.yaml, and the config that comes of both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from rollout.cli.driving import open_target
from rollout.engine.session import Session
from rollout.engine.start import Release
from rollout.errors import PlanError
from rollout.plan.config import Config, read_config

LOGS = Path("var/rollouts")
LEASE_S = 15

Format = Literal["text", "json"]
Name = Annotated[str, typer.Argument(help="The SeldonDeployment's name, such as churn.")]
Adopt = Annotated[bool, typer.Option("--adopt", help="Go on from what somebody else changed.")]
Watch = Annotated[bool, typer.Option("--watch", "-w", help="Follow until the rollout is over.")]
Full = Annotated[bool, typer.Option("--full", help="Skip all analysis and go to 100 %, where it still bakes.")]
Output = Annotated[Format, typer.Option("--output", "-o", help="What standard output gets.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="Default: seldon/rollout.yaml, if there is one.")]
LogDir = Annotated[Path, typer.Option("--log", help="Where the JSONL log and the HTML report go.")]
LeaseS = Annotated[int, typer.Option("--lease", help="Seconds until a promoter that died may be followed.")]
WebhookUrl = Annotated[str, typer.Option("--webhook", help="Gets a POST for every change.")]
DEFAULT_CONFIG = Path("seldon/rollout.yaml")
Manual = Annotated[list[int] | None, typer.Option(help="Wait for a person after this percentage. Repeatable.")]


@dataclass(frozen=True, slots=True)
class Where:
    """The target of a deployment: a cluster, or this machine."""

    target: Annotated[Literal["kubernetes", "local"], typer.Option("--target", help="Where the deployment lives.")] = (
        "kubernetes"
    )
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Default: the context's, or `default`.")] = ""
    context: Annotated[str, typer.Option(help="The KUBECONFIG context; default: the current one.")] = ""
    state: Annotated[
        Path, typer.Option("--state", help="With --target local: the --state of scripts/seldon_local.py.")
    ] = Path("var/seldon")

    def session(self, name: str, *, lease_s: int = LEASE_S) -> Session:
        """Open the deployment. Raises TargetError."""
        target = open_target(self.target, name, namespace=self.namespace, context=self.context, state=self.state)
        return Session(target, lease_s=lease_s)


@dataclass(frozen=True, slots=True)
class NewVersion:
    """What is rolled out."""

    version: Annotated[str, typer.Option(help="The new predictor's name, such as v8.")]
    image: Annotated[str, typer.Option(help="The new image; default: the stable predictor's.")] = ""
    model_uri: Annotated[str, typer.Option(help="The new bundle, such as s3://models/churn/8.")] = ""
    env: Annotated[list[str] | None, typer.Option(help="NAME=VALUE in the new model container. Repeatable.")] = None

    def release(self) -> Release:
        """Return it as a release. Raises PlanError when an --env is no NAME=VALUE."""
        pairs = {}
        for one in self.env or []:
            key, separator, value = one.partition("=")
            if not (key and separator):
                raise PlanError(f"--env is {one!r}; allowed: NAME=VALUE")
            pairs[key] = value
        return Release(self.version, image=self.image, model_uri=self.model_uri, env=pairs)


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the counts and the rules come from, and who is told."""

    webhook: WebhookUrl = ""
    config: ConfigFile = None
    evidence: Annotated[
        str, typer.Option(help="prometheus=URL, or scrape (--target local); default: from the config.")
    ] = ""


@dataclass(frozen=True, slots=True)
class Change:
    """Whether a change is made, and how it is told."""

    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the JSON Patch, and change nothing.")] = False
    output: Output = "text"


@dataclass(frozen=True, slots=True)
class Driving:
    """What a process takes that drives a rollout for as long as it lasts."""

    where: Where = Where()
    log: LogDir = LOGS
    metrics_port: Annotated[int, typer.Option(help="Serve the promoter's own metrics there; 0: do not.")] = 0
    lease: LeaseS = LEASE_S

    def session(self, name: str) -> Session:
        """Open the deployment. Raises TargetError."""
        return self.where.session(name, lease_s=self.lease)


@dataclass(frozen=True, slots=True)
class RollbackOptions:
    """What every way back takes."""

    webhook: WebhookUrl = ""
    where: Where = Where()
    log: LogDir = LOGS
    lease: LeaseS = LEASE_S
    change: Change = Change()

    def session(self, name: str) -> Session:
        """Open the deployment. Raises TargetError."""
        return self.where.session(name, lease_s=self.lease)


@dataclass(frozen=True, slots=True)
class Pace:
    """How far and how fast; what is not given comes from the config."""

    steps: Annotated[str, typer.Option(help="Percent of each step, such as 10,30,50,100.")] = ""
    min_duration: Annotated[float | None, typer.Option(help="Seconds that a step lasts at least.")] = None
    max_duration: Annotated[float | None, typer.Option(help="Seconds after which a step without verdict is held.")] = (
        None
    )
    min_requests: Annotated[int | None, typer.Option(help="Requests that the new version must get in each step.")] = (
        None
    )
    bake: Annotated[float | None, typer.Option(help="Seconds at 100 % before the old version is deleted.")] = None

    def weights_percent(self) -> list[int] | None:
        """Return the steps. Raises PlanError."""
        try:
            return [int(part) for part in self.steps.split(",")] if self.steps else None
        except ValueError as error:
            raise PlanError(f"--steps is {self.steps!r}; allowed: numbers and commas, such as 10,30,50,100") from error


@dataclass(frozen=True, slots=True)
class PlanFlags:
    """Everything of a plan that has a flag."""

    pace: Pace = Pace()
    interval: Annotated[float | None, typer.Option(help="Seconds between two observations.")] = None
    manual: Manual = None
    on_sigterm: Annotated[Literal["hold", "rollback"] | None, typer.Option(help="What SIGTERM and Ctrl-C do.")] = None
    watch_held: Annotated[
        float | None, typer.Option(help="Seconds that a held rollout is watched before exit code 3.")
    ] = None

    def overrides(self) -> dict[str, Any]:
        """Return what was given, under the names of rollout.yaml. Raises PlanError."""
        pace = self.pace
        step_defaults = {
            "min_duration_s": pace.min_duration,
            "max_duration_s": pace.max_duration,
            "min_requests": pace.min_requests,
        }
        plan = {
            "steps": pace.weights_percent(),
            "bake_s": pace.bake,
            "interval_s": self.interval,
            "on_sigterm": self.on_sigterm,
            "watch_held_s": self.watch_held,
        }
        return {**_given(plan), "step_defaults": _given(step_defaults)}


def read_settings(
    file: Path | None, flags: PlanFlags = PlanFlags(), *, evidence: str = "", webhook: str = ""
) -> Config:
    """Read a config (None: seldon/rollout.yaml, if there is one) under the flags. Raises PlanError."""
    if file is None and DEFAULT_CONFIG.exists():
        file = DEFAULT_CONFIG
    outside = {key: value for key, value in {"evidence": evidence, "webhook": webhook}.items() if value}
    return read_config(file, flags.overrides() | outside, manual=flags.manual or ())


def _given(flags: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in flags.items() if value is not None}
