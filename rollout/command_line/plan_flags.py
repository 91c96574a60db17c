"""The flags that lie over rollout.yaml, and the config that comes of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from rollout.config import Config, read_config
from rollout.errors import PlanError

DEFAULT_CONFIG = Path("seldon/rollout.yaml")

Manual = Annotated[list[int] | None, typer.Option(help="Wait for a person after this percentage. Repeatable.")]


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
    interval: Annotated[float | None, typer.Option(help="Seconds between two looks.")] = None
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
