"""Roll a new model version out in steps that judge themselves, on Kubernetes or on this machine.

Exit codes: 0 promoted (or done as asked), 1 rolled back, 2 usage, 3 held or paused, 4 error.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import typer

from rollout.cli.driving import NoEvidence, drive, open_source
from rollout.cli.grouping import grouped
from rollout.cli.options import (
    LEASE_S,
    Adopt,
    Change,
    ConfigFile,
    Driving,
    Full,
    LeaseS,
    Manual,
    Name,
    NewVersion,
    Output,
    Pace,
    PlanFlags,
    RollbackOptions,
    Sources,
    Watch,
    Where,
    read_settings,
)
from rollout.cli.output import (
    ExitCode,
    answering,
    end_with_outcome,
    end_with_patch,
    exit_code,
    print_plan,
    print_state,
)
from rollout.engine.session import Session
from rollout.engine.state import Command, Phase, read_state
from rollout.errors import LeaseHeld, StateError

STATUS_INTERVAL_S = 2.0

app = typer.Typer(no_args_is_help=True, help=__doc__, rich_markup_mode=None, pretty_exceptions_enable=False)


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Make the function a command of its name; the options are in the order in which it takes them."""
    return app.command()(answering(grouped(function)))


@command
def run(*, name: Name, new: NewVersion, flags: PlanFlags, sources: Sources, driving: Driving, change: Change) -> None:
    """Add the new version at 0 %, and drive it to 100 % or back.

    Example:
    scripts/canary_promote.py run churn --version v8 --image registry.example/churn:8 -n churn
    --evidence prometheus=http://127.0.0.1:9090
    """
    settings = read_settings(sources.config, flags, evidence=sources.evidence, webhook=sources.webhook)
    release = new.release()
    session = driving.session(name)
    if change.dry_run:
        end_with_patch(session.target, session.prepare(release, settings.plan).operations)
    source = open_source(settings.evidence, session.target, namespace=driving.where.namespace)
    session.begin(lambda: session.prepare(release, settings.plan))
    end_with_outcome(drive(session, source, driving.log, settings.webhook, driving.metrics_port), change.output)


@command
def start(
    *,
    name: Name,
    new: NewVersion,
    flags: PlanFlags,
    config: ConfigFile = None,
    where: Where,
    lease: LeaseS = LEASE_S,
    change: Change,
) -> None:
    """Add the new version at 0 % and return; `resume` drives it.

    Example:
    scripts/canary_promote.py start churn --version v8 --model-uri s3://models/churn/8 -n churn --dry-run
    """
    settings = read_settings(config, flags)
    release = new.release()
    session = where.session(name, lease_s=lease)
    if change.dry_run:
        end_with_patch(session.target, session.prepare(release, settings.plan).operations)
    print_state(session.begin(lambda: session.prepare(release, settings.plan)), change.output)


@command
def resume(*, name: Name, adopt: Adopt = False, sources: Sources, driving: Driving, output: Output = "text") -> None:
    """Go on with a rollout that was held, interrupted or killed; its plan is the one it began with.

    Example:
    scripts/canary_promote.py resume churn -n churn --evidence prometheus=http://127.0.0.1:9090
    """
    settings = read_settings(sources.config, evidence=sources.evidence, webhook=sources.webhook)
    session = driving.session(name)
    session.active()
    source = open_source(settings.evidence, session.target, namespace=driving.where.namespace)
    word = Command.ADOPT if adopt else None
    end_with_outcome(drive(session, source, driving.log, settings.webhook, driving.metrics_port, command=word), output)


@command
def status(*, name: Name, watch: Watch = False, where: Where, output: Output = "text") -> None:
    """Show where a rollout stands. The exit code is the rollout's: 0, 1, 3 or 4, and 0 while it is under way.

    Example:
    scripts/canary_promote.py status churn -n churn --watch
    """
    session = where.session(name)
    while True:
        snapshot = session.target.read()
        found = read_state(snapshot.deployment.metadata.annotations)
        if found is None:
            typer.echo(
                "null" if output == "json" else f"{name} has no rollout; it runs {snapshot.deployment.traffic()}"
            )
            return
        print_state(found, output, mesh=dict(snapshot.mesh_weights), holder=session.target.read_lease().holder)
        if not watch or found.phase.over:
            goes_on = not (found.phase.over or found.phase.on_hold)
            raise typer.Exit(ExitCode.PROMOTED if goes_on else exit_code(found))
        time.sleep(STATUS_INTERVAL_S)


@command
def plan(*, config: ConfigFile = None, pace: Pace, manual: Manual = None, output: Output = "text") -> None:
    """Show what a config and flags come to.

    Example:
    scripts/canary_promote.py plan --config seldon/rollout.yaml --steps 5,25,100 --manual 25
    """
    print_plan(read_settings(config, PlanFlags(pace, manual=manual)).plan, output)


@command
def pause(*, name: Name, where: Where, change: Change) -> None:
    """Keep the weights as they are; the canary is still watched, and a bad one still rolled back.

    Example:
    scripts/canary_promote.py pause churn -n churn
    """
    _say(where.session(name), Command.PAUSE, change)


@command
def promote(*, name: Name, full: Full = False, where: Where, change: Change) -> None:
    """Open a manual gate or end a pause. The promoter that drives the rollout acts on it; without one, `resume`.

    Example:
    scripts/canary_promote.py promote churn -n churn
    """
    _say(where.session(name), Command.PROMOTE_FULL if full else Command.PROMOTE, change)


@command
def abort(*, name: Name, retreat: RollbackOptions) -> None:
    """Roll back now, through the promoter that drives the rollout, or here when there is none.

    Example:
    scripts/canary_promote.py abort churn -n churn
    """
    _abort(retreat.session(name), retreat, retreat.webhook)


@command
def undo(*, name: Name, config: ConfigFile = None, retreat: RollbackOptions) -> None:
    """Bring the previous version back: during the rollout and its bake at once, afterwards by adding it again.

    Example:
    scripts/canary_promote.py undo churn -n churn --dry-run
    """
    settings = read_settings(config, webhook=retreat.webhook)
    session = retreat.session(name)
    found = session.last()
    if found is not None and not found.phase.over:
        _abort(session, retreat, settings.webhook)
        return
    if retreat.change.dry_run:
        end_with_patch(session.target, session.prepare_undo(settings.plan).operations)
    session.begin(lambda: session.prepare_undo(settings.plan))
    end_with_outcome(drive(session, NoEvidence(), retreat.log, settings.webhook), retreat.change.output)


def _say(session: Session, word: Command, change: Change) -> None:
    if change.dry_run:
        end_with_patch(session.target, session.preview(word))
    session.say(word)
    print_state(session.active()[1], change.output)


def _abort(session: Session, retreat: RollbackOptions, webhook: str) -> None:
    if retreat.change.dry_run:
        end_with_patch(session.target, session.preview_abort())
    session.say(Command.ABORT)
    try:
        ended = drive(session, NoEvidence(), retreat.log, webhook, command=Command.ABORT)
    except LeaseHeld as error:
        typer.echo(f"the promoter at work was told to abort ({error})", err=True)
        return
    except StateError:
        found = session.last()
        if found is None or found.phase not in (Phase.ROLLED_BACK, Phase.FAILED):
            raise
        # The promoter at work carried it out before this process had its turn.
        print_state(found, retreat.change.output)
        raise typer.Exit(exit_code(found)) from None
    end_with_outcome(ended, retreat.change.output)


if __name__ == "__main__":
    app()
