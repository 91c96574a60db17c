"""Roll a new model version out in steps that judge themselves, on Kubernetes or on this machine.

Exit codes: 0 promoted (or done as asked), 1 rolled back, 2 usage, 3 held or paused, 4 error.
"""

from __future__ import annotations

import json
import logging
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import structlog
import typer
from rich.console import Console

from rollout.annotation import read_state
from rollout.audience import Everybody, Log
from rollout.config import Config, read_config
from rollout.errors import LeaseHeld, PlanError, RolloutError
from rollout.evidence.source import Source
from rollout.metrics import Metrics
from rollout.notify import Webhook
from rollout.opening import NoEvidence, open_place, open_source
from rollout.page import Page
from rollout.promoter import Outcome
from rollout.release import Release
from rollout.screen import Screen, picture
from rollout.session import Session
from rollout.state import Command, Phase, RolloutState

PROMOTED, ROLLED_BACK, USAGE, HELD, ERROR = range(5)
DEFAULT_CONFIG = Path("seldon/rollout.yaml")

app = typer.Typer(no_args_is_help=True, help=__doc__, rich_markup_mode=None, pretty_exceptions_enable=False)

Name = Annotated[str, typer.Argument(help="The SeldonDeployment's name, such as churn.")]
Namespace = Annotated[str, typer.Option("--namespace", "-n", help="Default: the context's, or `default`.")]
Context = Annotated[str, typer.Option(help="The KUBECONFIG context; default: the current one.")]
TargetKind = Annotated[Literal["kubernetes", "local"], typer.Option("--target", help="Where the deployment lives.")]
StateDir = Annotated[Path, typer.Option("--state", help="With --target local: the --state of scripts/seldon_local.py.")]
Output = Annotated[Literal["text", "json"], typer.Option("--output", "-o", help="What standard output gets.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the JSON Patch, and change nothing.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="Default: seldon/rollout.yaml, if there is one.")]
Evidence = Annotated[str, typer.Option(help="prometheus=URL, or scrape (--target local); default: from the config.")]
LogDir = Annotated[Path, typer.Option("--log", help="Where the JSONL log and the HTML report go.")]
MetricsPort = Annotated[int, typer.Option(help="Serve the promoter's own metrics there; 0: do not.")]
LeaseS = Annotated[int, typer.Option("--lease", help="Seconds until a promoter that died may be followed.")]
Image = Annotated[str, typer.Option(help="The new image; default: the stable predictor's.")]
Version = Annotated[str, typer.Option(help="The new predictor's name, such as v8.")]
ModelUri = Annotated[str, typer.Option(help="The new bundle, such as s3://models/churn/8.")]
Env = Annotated[list[str] | None, typer.Option(help="NAME=VALUE in the new model container. Repeatable.")]
Steps = Annotated[str, typer.Option(help="Percent of each step, such as 10,30,50,100.")]
MinDuration = Annotated[float | None, typer.Option(help="Seconds that a step lasts at least.")]
MaxDuration = Annotated[float | None, typer.Option(help="Seconds after which a step without verdict is held.")]
MinRequests = Annotated[int | None, typer.Option(help="Requests that the new version must get in each step.")]
Bake = Annotated[float | None, typer.Option(help="Seconds at 100 % before the old version is deleted.")]
Interval = Annotated[float | None, typer.Option(help="Seconds between two looks.")]
Manual = Annotated[list[int] | None, typer.Option(help="Wait for a person after this percentage. Repeatable.")]
OnSigterm = Annotated[Literal["hold", "rollback"] | None, typer.Option(help="What SIGTERM and Ctrl-C do.")]
WatchHeld = Annotated[float | None, typer.Option(help="Seconds that a held rollout is watched before exit code 3.")]
WebhookUrl = Annotated[str, typer.Option("--webhook", help="Gets a POST for every change.")]


@app.command()
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
    target: TargetKind = "kubernetes",
    namespace: Namespace = "",
    context: Context = "",
    state: StateDir = Path("var/seldon"),
    log: LogDir = Path("var/rollouts"),
    metrics_port: MetricsPort = 0,
    lease: LeaseS = 15,
    dry_run: DryRun = False,
    output: Output = "text",
) -> None:
    """Add the new version at 0 %, and drive it to 100 % or back.

    Example:
    scripts/canary_promote.py run churn --version v8 --image registry.example/churn:8 -n churn
    --evidence prometheus=http://127.0.0.1:9090
    """
    with errors(output):
        flags = _overrides(steps, min_duration, max_duration, min_requests, bake, interval, on_sigterm, watch_held)
        settings = _settings(config, flags, manual, evidence, webhook)
        release = Release(version, image=image, model_uri=model_uri, env=_pairs(env))
        session = _session(target, name, namespace, context, state, lease)
        if dry_run:
            _print_patch(session, session.prepare(release, settings.plan).operations)
            return
        source = open_source(settings.evidence, session.place, namespace=namespace)
        session.begin(lambda: session.prepare(release, settings.plan))
        _drive(session, source, settings.webhook, log, metrics_port, output)


@app.command()
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
    target: TargetKind = "kubernetes",
    namespace: Namespace = "",
    context: Context = "",
    state: StateDir = Path("var/seldon"),
    lease: LeaseS = 15,
    dry_run: DryRun = False,
    output: Output = "text",
) -> None:
    """Add the new version at 0 % and return; `resume` drives it.

    Example:
    scripts/canary_promote.py start churn --version v8 --model-uri s3://models/churn/8 -n churn --dry-run
    """
    with errors(output):
        flags = _overrides(steps, min_duration, max_duration, min_requests, bake, interval, on_sigterm, watch_held)
        settings = _settings(config, flags, manual, "", "")
        release = Release(version, image=image, model_uri=model_uri, env=_pairs(env))
        session = _session(target, name, namespace, context, state, lease)
        if dry_run:
            _print_patch(session, session.prepare(release, settings.plan).operations)
            return
        _print_state(session.begin(lambda: session.prepare(release, settings.plan)), output)


@app.command()
def resume(
    name: Name,
    adopt: Annotated[bool, typer.Option("--adopt", help="Go on from what somebody else changed.")] = False,
    webhook: WebhookUrl = "",
    config: ConfigFile = None,
    evidence: Evidence = "",
    target: TargetKind = "kubernetes",
    namespace: Namespace = "",
    context: Context = "",
    state: StateDir = Path("var/seldon"),
    log: LogDir = Path("var/rollouts"),
    metrics_port: MetricsPort = 0,
    lease: LeaseS = 15,
    output: Output = "text",
) -> None:
    """Go on with a rollout that was held, interrupted or killed; its plan is the one it began with.

    Example:
    scripts/canary_promote.py resume churn -n churn --evidence prometheus=http://127.0.0.1:9090
    """
    with errors(output):
        settings = _settings(config, {}, None, evidence, webhook)
        session = _session(target, name, namespace, context, state, lease)
        session.active()
        source = open_source(settings.evidence, session.place, namespace=namespace)
        _drive(session, source, settings.webhook, log, metrics_port, output, command=Command.ADOPT if adopt else None)


@app.command()
def status(
    name: Name,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow until the rollout is over.")] = False,
    target: TargetKind = "kubernetes",
    namespace: Namespace = "",
    context: Context = "",
    state: StateDir = Path("var/seldon"),
    output: Output = "text",
) -> None:
    """Show where a rollout stands. The exit code is the rollout's: 0, 1, 3 or 4, and 0 while it is under way.

    Example:
    scripts/canary_promote.py status churn -n churn --watch
    """
    with errors(output):
        session = _session(target, name, namespace, context, state, 15)
        while True:
            snapshot = session.place.read()
            found = read_state(snapshot.deployment.metadata.annotations)
            if found is None:
                typer.echo(
                    "null" if output == "json" else f"{name} has no rollout; it runs {snapshot.deployment.traffic()}"
                )
                return
            _print_state(found, output, mesh=dict(snapshot.mesh_weights), holder=session.place.read_lease().holder)
            if not watch or found.phase.over:
                raise typer.Exit(_exit_code(found) if found.phase.over or found.phase.resting else PROMOTED)
            time.sleep(2.0)


@app.command()
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
    scripts/canary_promote.py plan --config seldon/rollout.yaml --steps 5,25,100 --manual 25
    """
    with errors(output):
        flags = _overrides(steps, min_duration, max_duration, min_requests, bake, None, None, None)
        settings = _settings(config, flags, manual, "", "")
        if output == "json":
            typer.echo(json.dumps({"hash": settings.plan.hash, **settings.plan.to_json()}, indent=2))
            return
        typer.echo(
            f"plan {settings.plan.hash}, at least {sum(one.min_duration_s for one in settings.plan.steps):.0f} s"
        )
        for step in settings.plan.steps:
            gate = ", then a person decides" if step.manual else ""
            typer.echo(
                f"{step.weight_percent:>4} %  {step.min_duration_s:.0f} to {step.max_duration_s:.0f} s, "
                f"{step.min_requests} requests or more{gate}"
            )
        for kind, judge in settings.plan.gates.gates.items():
            typer.echo(f"gate {kind}: {judge}")


@app.command()
def pause(
    name: Name,
    target: TargetKind = "kubernetes",
    namespace: Namespace = "",
    context: Context = "",
    state: StateDir = Path("var/seldon"),
    dry_run: DryRun = False,
    output: Output = "text",
) -> None:
    """Keep the weights as they are; the canary is still watched, and a bad one still rolled back.

    Example:
    scripts/canary_promote.py pause churn -n churn
    """
    with errors(output):
        session = _session(target, name, namespace, context, state, 15)
        _say(session, Command.PAUSE, dry_run, output)


@app.command()
def promote(
    name: Name,
    full: Annotated[
        bool, typer.Option("--full", help="Skip all analysis and go to 100 %, where it still bakes.")
    ] = False,
    target: TargetKind = "kubernetes",
    namespace: Namespace = "",
    context: Context = "",
    state: StateDir = Path("var/seldon"),
    dry_run: DryRun = False,
    output: Output = "text",
) -> None:
    """Open a manual gate or end a pause. The promoter that drives the rollout acts on it; without one, `resume`.

    Example:
    scripts/canary_promote.py promote churn -n churn
    """
    with errors(output):
        session = _session(target, name, namespace, context, state, 15)
        _say(session, Command.PROMOTE_FULL if full else Command.PROMOTE, dry_run, output)


@app.command()
def abort(
    name: Name,
    webhook: WebhookUrl = "",
    target: TargetKind = "kubernetes",
    namespace: Namespace = "",
    context: Context = "",
    state: StateDir = Path("var/seldon"),
    log: LogDir = Path("var/rollouts"),
    lease: LeaseS = 15,
    dry_run: DryRun = False,
    output: Output = "text",
) -> None:
    """Roll back now, through the promoter that drives the rollout, or here when there is none.

    Example:
    scripts/canary_promote.py abort churn -n churn
    """
    with errors(output):
        session = _session(target, name, namespace, context, state, lease)
        if dry_run:
            _print_patch(session, session.preview_abort())
            return
        _abort(session, webhook, log, output)


@app.command()
def undo(
    name: Name,
    config: ConfigFile = None,
    webhook: WebhookUrl = "",
    target: TargetKind = "kubernetes",
    namespace: Namespace = "",
    context: Context = "",
    state: StateDir = Path("var/seldon"),
    log: LogDir = Path("var/rollouts"),
    lease: LeaseS = 15,
    dry_run: DryRun = False,
    output: Output = "text",
) -> None:
    """Bring the previous version back: during the rollout and its bake at once, afterwards by adding it again.

    Example:
    scripts/canary_promote.py undo churn -n churn --dry-run
    """
    with errors(output):
        settings = _settings(config, {}, None, "", webhook)
        session = _session(target, name, namespace, context, state, lease)
        found = read_state(session.place.read().deployment.metadata.annotations)
        if found is not None and not found.phase.over:
            if dry_run:
                _print_patch(session, session.preview_abort())
                return
            _abort(session, settings.webhook, log, output)
            return
        if dry_run:
            _print_patch(session, session.prepare_undo(settings.plan).operations)
            return
        session.begin(lambda: session.prepare_undo(settings.plan))
        _drive(session, NoEvidence(), settings.webhook, log, 0, output)


@contextmanager
def errors(output: str) -> Iterator[None]:
    """Turn this package's errors into one line and an exit code."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    try:
        yield
    except RolloutError as error:
        if output == "json":
            typer.echo(json.dumps({"error": str(error), "code": type(error).__name__}))
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(USAGE if isinstance(error, PlanError) else ERROR) from error


def _session(target: str, name: str, namespace: str, context: str, state: Path, lease_s: int) -> Session:
    return Session(open_place(target, name, namespace=namespace, context=context, state=state), lease_s=lease_s)


def _settings(
    file: Path | None, flags: dict[str, Any], manual: list[int] | None, evidence: str, webhook: str
) -> Config:
    if file is None and DEFAULT_CONFIG.exists():
        file = DEFAULT_CONFIG
    given = {"evidence": evidence} if evidence else {}
    given |= {"webhook": webhook} if webhook else {}
    return read_config(file, flags | given, manual=manual or ())


def _overrides(
    steps: str,
    min_duration: float | None,
    max_duration: float | None,
    min_requests: int | None,
    bake: float | None,
    interval: float | None,
    on_sigterm: str | None,
    watch_held: float | None,
) -> dict[str, Any]:
    try:
        weights = [int(part) for part in steps.split(",")] if steps else None
    except ValueError as error:
        raise PlanError(f"--steps is {steps!r}; allowed: numbers and commas, such as 10,30,50,100") from error
    each = {"min_duration_s": min_duration, "max_duration_s": max_duration, "min_requests": min_requests}
    flags = {
        "steps": weights,
        "bake_s": bake,
        "interval_s": interval,
        "on_sigterm": on_sigterm,
        "watch_held_s": watch_held,
    }
    given = {key: value for key, value in flags.items() if value is not None}
    return given | {"step_defaults": {key: value for key, value in each.items() if value is not None}}


def _pairs(env: list[str] | None) -> dict[str, str]:
    pairs = {}
    for one in env or []:
        key, separator, value = one.partition("=")
        if not (key and separator):
            raise PlanError(f"--env is {one!r}; allowed: NAME=VALUE")
        pairs[key] = value
    return pairs


def _abort(session: Session, webhook: str, log: Path, output: str) -> None:
    session.say(Command.ABORT)
    try:
        _drive(session, NoEvidence(), webhook, log, 0, output, command=Command.ABORT)
    except LeaseHeld as error:
        typer.echo(f"the promoter at work was told to abort ({error})", err=True)


def _say(session: Session, command: Command, dry_run: bool, output: str) -> None:
    if dry_run:
        _print_patch(session, session.preview(command))
        return
    session.say(command)
    _print_state(session.active()[1], output)


def _drive(
    session: Session,
    source: Source,
    webhook: str,
    log: Path,
    metrics_port: int,
    output: str,
    *,
    command: Command | None = None,
) -> None:
    metrics = Metrics()
    if metrics_port:
        metrics.serve(metrics_port)
    snapshot, found = session.active()
    journal = Log(log / f"{snapshot.deployment.name}-{found.id}.jsonl")
    page = Page(journal.file)
    with signalled() as stop, Screen(Console(stderr=True)) as screen:
        everybody = Everybody([journal, page, screen, metrics, *([Webhook(webhook)] if webhook else [])])
        try:
            outcome = session.drive(source, everybody, command=command, stop=stop)
        finally:
            source.close()
    _finish(outcome, journal.file, page.file, output)


@contextmanager
def signalled() -> Iterator[Callable[[], bool]]:
    """Note SIGTERM and SIGINT instead of dying of them; gives a function that says whether one came."""
    came: list[int] = []
    before = {
        one: signal.signal(one, lambda number, frame: came.append(number)) for one in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield lambda: bool(came)
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _finish(outcome: Outcome, log: Path, page: Path, output: str) -> None:
    _print_state(outcome.state, output, log=str(log), report=str(page), interrupted=outcome.interrupted)
    raise typer.Exit(_exit_code(outcome.state))


def _exit_code(state: RolloutState) -> int:
    return {Phase.SUCCEEDED: PROMOTED, Phase.ROLLED_BACK: ROLLED_BACK, Phase.FAILED: ERROR}.get(state.phase, HELD)


def _print_patch(session: Session, operations: Sequence[Any]) -> None:
    session.place.patch(operations, dry_run=True)
    typer.echo(json.dumps([dict(operation) for operation in operations], indent=2))


def _print_state(state: RolloutState, output: str, **more: Any) -> None:
    if output == "json":
        facts = {
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
            "rung": state.rung,
            "plan_hash": state.plan.hash,
        }
        typer.echo(json.dumps(facts | more))
        return
    console = Console()
    console.print(picture(state))
    for key, value in more.items():
        console.print(f"{key}: {value}", markup=False)


if __name__ == "__main__":
    app()
