"""`churn-serving rollout`: rolls out a new model version in steps that gates judge.

The signature of each command declares its options. Their work is in rollout/cli/driving.py and rollout/engine/, which
take a second to import and are therefore imported when a command runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from rollout.cli.exit_codes import exit_code, one_line_errors
from rollout.cli.options import (
    LEASE_S,
    LOGS,
    STATE,
    Adopt,
    Bake,
    ConfigFile,
    Context,
    DryRun,
    Env,
    Evidence,
    Format,
    Full,
    Image,
    Interval,
    LeaseS,
    LogDir,
    Manual,
    MaxDuration,
    MetricsPort,
    MinDuration,
    MinRequests,
    ModelUri,
    Name,
    Namespace,
    OnSigterm,
    Output,
    State,
    Steps,
    Target,
    Version,
    Watch,
    WatchHeld,
    WebhookUrl,
)
from rollout.errors import LeaseHeld, LeaseLost, PlanError, StateError
from rollout.process import recorded_signals

if TYPE_CHECKING:
    from rollout.engine.session import Session
    from rollout.engine.start import Release
    from rollout.engine.state import Command
    from rollout.plan.config import Config

DEFAULT_CONFIG = Path("seldon/rollout.yaml")


@one_line_errors
def run(
    name: Name,
    version: Version,
    image: Image = "",
    model_uri: ModelUri = "",
    env: Env = None,
    steps: Steps = "",
    min_duration: MinDuration = None,
    max_duration: MaxDuration = None,
    min_requests: MinRequests = None,
    bake: Bake = None,
    interval: Interval = None,
    manual: Manual = None,
    on_sigterm: OnSigterm = None,
    watch_held: WatchHeld = None,
    webhook: WebhookUrl = "",
    config: ConfigFile = None,
    evidence: Evidence = "",
    target: Target = "kubernetes",
    namespace: Namespace = "",
    context: Context = "",
    state: State = STATE,
    log: LogDir = LOGS,
    metrics_port: MetricsPort = 0,
    lease: LeaseS = LEASE_S,
    dry_run: DryRun = False,
    output: Output = "text",
) -> None:
    r"""Add the new version at 0 %, and drive it to 100 % or back; where a controller is alive, follow it.

    Example:
    churn-serving rollout run churn --version v8 --image registry.example/churn:8 -n churn \
      --evidence prometheus=http://127.0.0.1:9090
    """
    from rollout.cli.driving import drive, open_metrics, open_source
    from rollout.cli.following import follow_or_drive
    from rollout.cli.output import end_with_patch

    overrides = _overrides(
        steps, min_duration, max_duration, min_requests, bake, interval=interval, on_sigterm=on_sigterm,
        watch_held=watch_held, evidence=evidence, webhook=webhook,
    )  # fmt: skip
    settings = _settings(config, overrides, manual)
    release = _release(version, image, model_uri, env)
    session = _session(name, target, namespace, context, state, lease)
    if dry_run:
        end_with_patch(session.target, session.prepare(release, settings.plan).operations, output)
    scale = settings.plan.gates.scale
    source = open_source(settings.evidence, session.target, name=name, namespace=namespace, scale=scale)
    metrics = open_metrics(metrics_port)
    with recorded_signals():  # a signal after the first patch ends the rollout as one while it is driven
        session.begin(lambda: session.prepare(release, settings.plan))
        follow_or_drive(session, lambda: drive(session, source, log, settings.webhook, metrics), output)


@one_line_errors
def start(
    name: Name,
    version: Version,
    image: Image = "",
    model_uri: ModelUri = "",
    env: Env = None,
    steps: Steps = "",
    min_duration: MinDuration = None,
    max_duration: MaxDuration = None,
    min_requests: MinRequests = None,
    bake: Bake = None,
    interval: Interval = None,
    manual: Manual = None,
    on_sigterm: OnSigterm = None,
    watch_held: WatchHeld = None,
    config: ConfigFile = None,
    target: Target = "kubernetes",
    namespace: Namespace = "",
    context: Context = "",
    state: State = STATE,
    lease: LeaseS = LEASE_S,
    dry_run: DryRun = False,
    output: Output = "text",
) -> None:
    """Add the new version at 0 % and return; a controller drives it, or `resume`.

    Example:
    churn-serving rollout start churn --version v8 --model-uri s3://models/churn/8 -n churn --dry-run
    """
    from rollout.cli.output import end_with_patch, print_state

    overrides = _overrides(
        steps, min_duration, max_duration, min_requests, bake, interval=interval, on_sigterm=on_sigterm,
        watch_held=watch_held,
    )  # fmt: skip
    settings = _settings(config, overrides, manual)
    release = _release(version, image, model_uri, env)
    session = _session(name, target, namespace, context, state, lease)
    if dry_run:
        end_with_patch(session.target, session.prepare(release, settings.plan).operations, output)
    begun = session.begin(lambda: session.prepare(release, settings.plan))
    print_state(begun, output, acts=_who_acts(session, name, "start"))


@one_line_errors
def resume(
    name: Name,
    adopt: Adopt = False,
    webhook: WebhookUrl = "",
    config: ConfigFile = None,
    evidence: Evidence = "",
    target: Target = "kubernetes",
    namespace: Namespace = "",
    context: Context = "",
    state: State = STATE,
    log: LogDir = LOGS,
    metrics_port: MetricsPort = 0,
    lease: LeaseS = LEASE_S,
    output: Output = "text",
) -> None:
    """Go on with a rollout that was held, interrupted or killed; its plan is the one it began with.

    Example:
    churn-serving rollout resume churn -n churn --evidence prometheus=http://127.0.0.1:9090
    """
    from rollout.cli.driving import drive, open_metrics, open_source
    from rollout.cli.following import follow_or_drive
    from rollout.engine.state import Command

    settings = _settings(config, _overrides(evidence=evidence, webhook=webhook))
    session = _session(name, target, namespace, context, state, lease)
    _, found = session.active()
    scale = found.plan.gates.scale
    source = open_source(settings.evidence, session.target, name=name, namespace=namespace, scale=scale)
    metrics = open_metrics(metrics_port)
    if adopt and session.controller():
        session.send(Command.ADOPT)
    command = Command.ADOPT if adopt else None
    follow_or_drive(
        session,
        lambda: drive(session, source, log, settings.webhook, metrics, command=command),
        output,
        begun=False,
    )


@one_line_errors
def status(
    name: Name,
    watch: Watch = False,
    target: Target = "kubernetes",
    namespace: Namespace = "",
    context: Context = "",
    state: State = STATE,
    output: Output = "text",
) -> None:
    """Show where a rollout stands. The exit code is the rollout's: 0, 1, 3 or 4, and 0 while it is under way.

    Example:
    churn-serving rollout status churn -n churn --watch
    """
    from rollout.cli.watching import follow

    follow(_session(name, target, namespace, context, state), watch, output)


@one_line_errors
def plan(
    config: ConfigFile = None,
    steps: Steps = "",
    min_duration: MinDuration = None,
    max_duration: MaxDuration = None,
    min_requests: MinRequests = None,
    bake: Bake = None,
    manual: Manual = None,
    output: Output = "text",
) -> None:
    """Show what a config and flags come to.

    Example:
    churn-serving rollout plan --config seldon/rollout.yaml --steps 5,25,100 --manual 25
    """
    from rollout.cli.output import print_plan

    overrides = _overrides(steps, min_duration, max_duration, min_requests, bake)
    print_plan(_settings(config, overrides, manual).plan, output)


@one_line_errors
def pause(
    name: Name,
    target: Target = "kubernetes",
    namespace: Namespace = "",
    context: Context = "",
    state: State = STATE,
    dry_run: DryRun = False,
    output: Output = "text",
) -> None:
    """Keep the weights as they are; the canary is still watched, and a bad one still rolled back.

    Example:
    churn-serving rollout pause churn -n churn
    """
    from rollout.engine.state import Command

    _send(_session(name, target, namespace, context, state), name, Command.PAUSE, dry_run, output)


@one_line_errors
def promote(
    name: Name,
    full: Full = False,
    target: Target = "kubernetes",
    namespace: Namespace = "",
    context: Context = "",
    state: State = STATE,
    dry_run: DryRun = False,
    output: Output = "text",
) -> None:
    """Open a manual gate or end a pause. The promoter that drives the rollout acts on it; without one, `resume`.

    Example:
    churn-serving rollout promote churn -n churn
    """
    from rollout.engine.state import Command

    command = Command.PROMOTE_FULL if full else Command.PROMOTE
    _send(_session(name, target, namespace, context, state), name, command, dry_run, output)


@one_line_errors
def abort(
    name: Name,
    webhook: WebhookUrl = "",
    target: Target = "kubernetes",
    namespace: Namespace = "",
    context: Context = "",
    state: State = STATE,
    log: LogDir = LOGS,
    lease: LeaseS = LEASE_S,
    dry_run: DryRun = False,
    output: Output = "text",
) -> None:
    """Roll back now, through the promoter that drives the rollout, or here when there is none.

    Example:
    churn-serving rollout abort churn -n churn
    """
    _abort(_session(name, target, namespace, context, state, lease), webhook, log, dry_run, output)


@one_line_errors
def undo(
    name: Name,
    config: ConfigFile = None,
    webhook: WebhookUrl = "",
    target: Target = "kubernetes",
    namespace: Namespace = "",
    context: Context = "",
    state: State = STATE,
    log: LogDir = LOGS,
    lease: LeaseS = LEASE_S,
    dry_run: DryRun = False,
    output: Output = "text",
) -> None:
    """Bring the previous version back: during the rollout and its bake at once, afterwards by adding it again.

    Example:
    churn-serving rollout undo churn -n churn --dry-run
    """
    from rollout.cli.driving import NoEvidence, drive
    from rollout.cli.following import follow_or_drive
    from rollout.cli.output import end_with_patch

    settings = _settings(config, _overrides(webhook=webhook))
    session = _session(name, target, namespace, context, state, lease)
    found = session.last()
    if found is not None and not found.phase.over:
        _abort(session, settings.webhook, log, dry_run, output)
        return
    if dry_run:
        end_with_patch(session.target, session.prepare_undo(settings.plan).operations, output)
    with recorded_signals():
        session.begin(lambda: session.prepare_undo(settings.plan))
        follow_or_drive(session, lambda: drive(session, NoEvidence(), log, settings.webhook), output)


def _session(name: str, target: str, namespace: str, context: str, state: Path, lease_s: int = LEASE_S) -> Session:
    """Open the deployment. Raises TargetError."""
    from rollout.cli.driving import open_presence, open_target
    from rollout.engine.session import Session

    opened = open_target(target, name, namespace=namespace, context=context, state=state)
    return Session(opened, lease_s=lease_s, presence=open_presence(target, namespace=namespace, context=context))


def _release(version: str, image: str, model_uri: str, env: list[str] | None) -> Release:
    """Return the release. Raises PlanError when an --env is not NAME=VALUE."""
    from rollout.engine.start import Release

    pairs = {}
    for one in env or []:
        key, separator, value = one.partition("=")
        if not (key and separator):
            raise PlanError(f"--env is {one!r}; allowed: NAME=VALUE")
        pairs[key] = value
    return Release(version, image=image, model_uri=model_uri, env=pairs)


def _overrides(
    steps: str = "",
    min_duration: float | None = None,
    max_duration: float | None = None,
    min_requests: int | None = None,
    bake: float | None = None,
    *,
    interval: float | None = None,
    on_sigterm: str | None = None,
    watch_held: float | None = None,
    evidence: str = "",
    webhook: str = "",
) -> dict[str, Any]:
    """Return the flags that were given, under the names of rollout.yaml. Raises PlanError."""
    step_defaults = {
        "min_duration_s": min_duration,
        "max_duration_s": max_duration,
        "min_requests": min_requests,
    }
    given = {
        "steps": _weights_percent(steps),
        "bake_s": bake,
        "interval_s": interval,
        "on_sigterm": on_sigterm,
        "watch_held_s": watch_held,
        "evidence": evidence or None,
        "webhook": webhook or None,
    }
    return {**_set(given), "step_defaults": _set(step_defaults)}


def _set(flags: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in flags.items() if value is not None}


def _weights_percent(steps: str) -> list[int] | None:
    try:
        return [int(part) for part in steps.split(",")] if steps else None
    except ValueError as error:
        raise PlanError(f"--steps is {steps!r}; allowed: numbers and commas, such as 10,30,50,100") from error


def _settings(file: Path | None, overrides: dict[str, Any], manual: list[int] | None = None) -> Config:
    """Read a config (None: seldon/rollout.yaml, if it exists) and apply the flags. Raises PlanError."""
    from rollout.plan.config import read_config

    if file is None and DEFAULT_CONFIG.exists():
        file = DEFAULT_CONFIG
    return read_config(file, overrides, manual=manual or ())


def _send(session: Session, name: str, command: Command, dry_run: bool, output: Format) -> None:
    from rollout.cli.output import end_with_patch, print_state

    if dry_run:
        end_with_patch(session.target, session.preview(command), output)
    session.send(command)
    print_state(session.active()[1], output, acts=_who_acts(session, name, command))


def _who_acts(session: Session, name: str, command: str) -> str:
    from rollout.reporting.advice import who_acts
    from rollout.targets.place import place_of

    return who_acts(command, session.driver(), session.controller(), deployment=name, place=place_of(session.target))


def _abort(session: Session, webhook: str, log: Path, dry_run: bool, output: Format) -> None:
    from rollout.cli.driving import NoEvidence, drive
    from rollout.cli.output import end_with_outcome, end_with_patch, print_state
    from rollout.engine.state import Command, Phase

    if dry_run:
        end_with_patch(session.target, session.preview_abort(), output)
    session.send(Command.ABORT)
    try:
        ended = drive(session, NoEvidence(), log, webhook, command=Command.ABORT)
    except LeaseHeld as error:
        holder = error.holder or "another promoter"
        typer.echo(
            f"{holder} drives this rollout and aborts it at its next look; follow it: `status --watch`", err=True
        )
        return
    except (StateError, LeaseLost):
        found = session.last()
        if found is None or found.phase not in (Phase.ROLLED_BACK, Phase.FAILED):
            raise
        # The active promoter executed it before this process could, or while this one had begun to.
        print_state(found, output)
        raise typer.Exit(exit_code(found)) from None
    end_with_outcome(ended, output)
