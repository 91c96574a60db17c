"""Prints the result of a command to standard output, as text or JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NoReturn

import typer
from rich.console import Console

from rollout.cli.driving import Driven
from rollout.cli.exit_codes import exit_code
from rollout.cli.options import Format
from rollout.engine.session import RolloutTarget
from rollout.engine.state import RolloutState
from rollout.plan.plan import PLAN_JSON, Plan
from rollout.reporting.plan_words import operation_words, plan_words
from rollout.reporting.terminal import picture
from rollout.targets.target import Operation


def print_state(state: RolloutState, output: Format, *, options: str = "", **more: Any) -> None:
    """Print the state of a rollout, and the additional values. options: how a command line names the deployment."""
    if output == "json":
        typer.echo(json.dumps(state_facts(state) | more))
        return
    console = Console()
    console.print(picture(state))
    for key, value in more.items():
        if not isinstance(value, bool):
            console.print(f"{key}: {value}", markup=False, soft_wrap=True)
        elif value and not state.phase.over:  # on_sigterm: rollback has ended it
            resume = f"churn-serving rollout resume{options}"
            console.print(f"{key}: the weights stay; go on with `{resume}`", markup=False, soft_wrap=True)


def print_plan(plan: Plan, output: Format) -> None:
    """Print the steps and the gates as text and tables."""
    if output == "json":
        typer.echo(json.dumps({"hash": plan.hash, **PLAN_JSON.dump_python(plan, mode="json")}, indent=2))
        return
    Console().print(plan_words(plan))


def end_with_patch(target: RolloutTarget, operations: Sequence[Operation], output: Format) -> NoReturn:
    """Print the effect of a JSON Patch (as JSON: the patch) and exit. Raises TargetError when it would be rejected."""
    target.patch(operations, dry_run=True)
    if output == "json":
        typer.echo(json.dumps([dict(operation) for operation in operations], indent=2))
    else:
        for line in operation_words(operations):
            typer.echo(line)
        typer.echo("Nothing was changed; the API server would accept this. The whole JSON Patch: -o json")
    raise typer.Exit


def end_with_outcome(driven: Driven, output: Format) -> NoReturn:
    """Print how the rollout ended and where its files are, and exit with the rollout's exit code."""
    outcome = driven.outcome
    files = {"log": str(driven.log), "report": str(driven.page)}
    print_state(outcome.state, output, options=driven.options, **files, interrupted=outcome.interrupted)
    raise typer.Exit(exit_code(outcome.state))


def state_facts(state: RolloutState) -> dict[str, Any]:
    """Return plain values, for JSON."""
    return {
        "rollout": state.id,
        "phase": state.phase.value,
        "stable": state.stable,
        "canary": state.canary,
        "weights_percent": state.weights,
        "step": state.step,
        "steps": [step.weight_percent for step in state.plan.steps],
        "canary_requests": state.canary_requests,
        "reason": state.reason,
        "message": state.message,
        "rollback_stage": state.rollback_stage,
        "plan_hash": state.plan.hash,
    }
