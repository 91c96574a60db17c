"""`churn-serving rollout status`: prints once, or redraws a screen until the rollout is over."""

from __future__ import annotations

import json
import time
from contextlib import nullcontext
from typing import NoReturn

import typer
from rich.console import Console
from rich.live import Live

from rollout.cli.exit_codes import ExitCode, exit_code
from rollout.cli.options import Format
from rollout.cli.output import state_facts
from rollout.engine.session import Session
from rollout.engine.state import Phase, read_state
from rollout.reporting.status import Status, look, screen

INTERVAL_S = 2.0


def follow(session: Session, watch: bool, output: Format) -> None:
    """Print the state of a rollout, and exit with its exit code; watch: until it is over. Raises TargetError.

    On a terminal, `watch` uses the whole screen; elsewhere it prints one status for each change of phase or step.
    """
    console = Console()
    full_screen = watch and output == "text" and console.is_terminal
    status: Status | None = None
    seen: tuple[Phase, int] | None = None
    with Live(console=console, screen=True, auto_refresh=False) if full_screen else nullcontext() as live:
        while True:
            status = _look(session)
            if status is None:
                break
            now = (status.state.phase, status.state.step)
            if live is not None:
                live.update(screen(status), refresh=True)
            elif now != seen:
                _print(console, status, output)
            seen = now
            if not watch or status.state.phase.over:
                break
            session.clock.sleep(INTERVAL_S)
    if status is None:
        _end_without_rollout(session, output)
    if full_screen:
        _print(console, status, output)  # the last screen stays when the full screen is left
    state = status.state
    goes_on = not (state.phase.over or state.phase.on_hold)
    raise typer.Exit(ExitCode.PROMOTED if goes_on else exit_code(state))


def _look(session: Session) -> Status | None:
    snapshot = session.target.read()
    state = read_state(snapshot.deployment.metadata.annotations)
    if state is None:
        return None
    lease, controller = session.target.read_lease(), session.controller()
    return look(snapshot, state, lease, session.target, now_s=time.time(), controller=controller)


def _print(console: Console, status: Status, output: Format) -> None:
    if output == "json":
        typer.echo(json.dumps(state_facts(status.state) | status.to_dict()))
    else:
        console.print(screen(status))


def _end_without_rollout(session: Session, output: Format) -> NoReturn:
    deployment = session.target.read().deployment
    weights = ", ".join(f"{name} {percent} %" for name, percent in deployment.traffic().items())
    typer.echo("null" if output == "json" else f"{deployment.name} has no rollout; it runs {weights}")
    raise typer.Exit
