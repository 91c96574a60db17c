"""Follows a rollout that another process drives, and decides in `run` whether that is to be done."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import structlog
import typer

from rollout.cli.driving import Driven
from rollout.cli.exit_codes import exit_code
from rollout.cli.options import Format
from rollout.cli.output import end_with_outcome, print_state
from rollout.engine.session import Session
from rollout.engine.state import RolloutState
from rollout.errors import Denied, LeaseHeld, NotFound, Unavailable
from rollout.process import recorded_signals
from rollout.reporting.terminal import REMINDER_S

log = structlog.get_logger(__name__)
INTERVAL_S = 2.0
FIRST_READ_S = 30.0  # how long the first read may fail; later the plan's api_grace_s
UNDRIVEN_S = 45.0  # three leases: longer than a controller needs to take a rollout over


def follow_or_drive(session: Session, drive: Callable[[], Driven], output: Format, *, begun: bool = True) -> NoReturn:
    """Follow the active rollout while a controller drives it; drive it when nobody does.

    begun: this process began the rollout, so another driver than the controller is followed too. Exits with the
    rollout's exit code. Raises RolloutError.
    """
    follows = bool(session.controller())
    while True:
        if follows and (state := follow(session)) is not None:
            print_state(state, output, driver=session.driver() or session.controller() or "nobody")
            raise typer.Exit(exit_code(state))
        try:
            driven = drive()
        except LeaseHeld as error:
            if not begun and not session.controller():
                raise
            log.warning("following", detail=str(error))
            follows = True
            continue
        end_with_outcome(driven, output)


def follow(session: Session, *, undriven_s: float = UNDRIVEN_S) -> RolloutState | None:
    """Print each change until the rollout is over, was held for too long, or a signal arrives; return the last state.

    Where nothing changes, a line is printed every REMINDER_S.
    A signal changes nothing: the rollout goes on. Returns None when nobody drove it for undriven_s. Raises
    RolloutError, and Unavailable only after the plan's api_grace_s.
    """
    clock = session.clock
    driven_s = read_s = clock.monotonic_s()
    shown, said_s = "", 0.0
    grace_s = FIRST_READ_S
    with recorded_signals() as came:
        while True:
            now_s = clock.monotonic_s()
            try:
                state = session.last()
                driver = session.driver() or session.controller()
            except (Unavailable, Denied, NotFound) as error:
                if came() or now_s - read_s >= grace_s:
                    raise
                log.warning("api_unavailable", detail=str(error))
                clock.sleep(INTERVAL_S)
                continue
            if state is None:
                return None
            read_s, grace_s = now_s, state.plan.api_grace_s
            if driver:
                driven_s = now_s
            line = f"{state.phase.value:<12} {state.canary} {state.canary_percent} %  {state.reason}"
            if line != shown or now_s - said_s >= REMINDER_S:
                typer.echo(f"{line}: {state.message} (driven by {driver or 'nobody'})", err=True)
                shown, said_s = line, now_s
            if state.phase.over or (state.phase.on_hold and state.timers.on_hold_s >= state.plan.watch_held_s):
                return state
            if came():
                typer.echo(f"the rollout goes on, driven by {driver or 'nobody'}", err=True)
                return state
            if now_s - driven_s >= undriven_s:
                return None
            clock.sleep(INTERVAL_S)
