"""`churn-serving local` and `churn-serving demo`: a SeldonDeployment on this machine, without a cluster or root.

One server process per replica, Envoy in front. What takes long to import is imported by the command that needs it.
"""

from __future__ import annotations

import functools
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from local_seldon.errors import LocalSeldonError
from rollout.errors import RolloutError, os_error_line
from rollout.process import EndedBySignal, log_to_stderr, recorded_signals, run_until_signal
from rollout.targets.place import STATE_ROOT

if TYPE_CHECKING:
    from local_seldon.environment import Overrides
    from rollout.targets.local_store import Controls, LocalStore

ROOT = Path(__file__).parents[1]
ERROR = 4

File = Annotated[Path, typer.Argument(help="The manifest; it may hold other objects too.", exists=True, dir_okay=False)]
Name = Annotated[str, typer.Argument(help="NAMESPACE/NAME, NAME, or the manifest file.")]
State = Annotated[Path, typer.Option("--state", help="Where state, sockets and logs are kept.")]
Output = Annotated[Literal["text", "json"], typer.Option("--output", "-o", help="What is printed.")]


def one_line_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command with the errors of this package, of its target and of files as one line and exit code 4."""

    @functools.wraps(command)
    def reported(**options: Any) -> None:
        try:
            command(**options)
        except (LocalSeldonError, RolloutError) as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(ERROR) from error
        except OSError as error:
            if not (line := os_error_line(error)):
                raise
            typer.echo(f"error: {line}", err=True)
            raise typer.Exit(ERROR) from error
        except EndedBySignal as ended:
            typer.echo("ended early; nothing of it runs any more", err=True)
            raise typer.Exit(ended.exit_code) from None

    return reported


@one_line_errors
def up(
    file: File,
    port: Annotated[
        int, typer.Option(help="Where callers connect to, REST and gRPC; 0: any free port.", min=0, max=65535)
    ] = 8080,
    artifact: Annotated[
        list[str] | None, typer.Option(help="IMAGE=DIR or MODELURI=DIR: the bundle that stands in for it. Repeatable.")
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE for all, or PREDICTOR:NAME=VALUE; wins over the manifest. Repeatable."),
    ] = None,
    command: Annotated[str, typer.Option(help="What stands in for every image, run in the repository.")] = "",
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return when the deployment is Available.")] = False,
    timeout_s: Annotated[float, typer.Option(help="With --detach: the longest wait for Available.", min=0.1)] = 60.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would run, and start nothing.")] = False,
    state: State = STATE_ROOT,
    output: Output = "text",
) -> None:
    r"""Run the deployment until Ctrl-C or `down`; a change of FILE is applied at once.

    Example:
    churn-serving local up seldon/base/seldondeployment.yaml --artifact churn-serving:1=var/bundle \
      --env SERVING_FEATURE_STORE=sqlite:///var/features.db
    curl -d '{"customer_id": 42}' http://127.0.0.1:8080/seldon/default/churn/predict
    """
    from local_seldon import running
    from local_seldon.operator import Options

    overrides = _overrides(artifact or [], env or [])
    argv = tuple(command.split()) if command else (sys.executable, "scripts/serve.py")
    options = Options(command=argv, directory=ROOT, port=port, overrides=overrides)
    store = running.store_of(file, state)
    if dry_run:
        plan = running.plan(file, options)
        _print(plan, output, [f"{name}: {one['replicas']} x {' '.join(one['command'])}" for name, one in plan.items()])
    elif detach:
        argv = tuple(argument for argument in sys.argv if argument not in ("--detach", "-d"))
        place = "" if state == STATE_ROOT else f" --state {state}"
        # To the last line: a deployment whose address was not shown must not be left behind.
        with recorded_signals() as came:
            runtime = running.detach((sys.executable, *argv), store, timeout_s, came=came, say=_say)
            _print(runtime, output, [f"Available at {runtime['url']}; stop it: churn-serving local down {file}{place}"])
    else:
        log_to_stderr(logging.INFO)
        running.run(file, options, state)


@one_line_errors
def down(name: Name, state: State = STATE_ROOT, output: Output = "text") -> None:
    """Drain and stop a deployment; logs and the audit trail stay.

    Example:
    churn-serving local down default/churn
    """
    from local_seldon import running

    store = _store(name, state)
    ended = running.down(store)
    _print({"stopped": str(store.directory), "leftovers": ended}, output, [f"stopped {store.directory}"])


@one_line_errors
def control(
    name: Name,
    operator: Annotated[str, typer.Option(help="dead: its webhook refuses every change; or alive.")] = "",
    replicas: Annotated[
        list[str] | None, typer.Option(help="PREDICTOR=N: what its autoscaler asks for, within hpaSpec. Repeatable.")
    ] = None,
    image_pull_s: Annotated[
        list[str] | None, typer.Option(help="PREDICTOR=SECONDS: how long a new pod waits to start. Repeatable.")
    ] = None,
    reset: Annotated[bool, typer.Option("--reset", help="Undo every earlier control.")] = False,
    state: State = STATE_ROOT,
    output: Output = "text",
) -> None:
    """Make something happen to a running deployment: a dead operator, an autoscaler's decision, a slow image pull.

    Example:
    churn-serving local control default/churn --operator dead --replicas v2=3
    """
    from pydantic import ValidationError

    from rollout.targets.local_store import Controls

    store = _store(name, state)
    store.read()  # raises NotFound when nothing runs
    asked = {} if reset else store.controls().model_dump()
    if operator:
        if operator not in ("alive", "dead"):
            raise typer.BadParameter(f"--operator is {operator!r}; allowed: alive, dead")
        asked["operator_alive"] = operator == "alive"
    for field, pairs in (("replicas", replicas), ("image_pull_s", image_pull_s)):
        asked[field] = asked.get(field, {}) | dict(map(_pair, pairs or []))
    try:
        controls = Controls.model_validate(asked)
    except ValidationError as error:
        raise typer.BadParameter("; ".join(_problem(one) for one in error.errors())) from error
    store.control(controls)
    _print(controls.model_dump(), output, _control_words(controls))


@one_line_errors
def status(name: Name, state: State = STATE_ROOT, output: Output = "text") -> None:
    """Show state, weights and replicas. Exit code 0: Available, 3: not yet.

    Example:
    churn-serving local status default/churn -o json
    """
    from rollout.targets.local import LocalTarget

    store = _store(name, state)
    snapshot = LocalTarget(store).read()
    runtime = store.runtime()
    found = {
        "status": snapshot.manifest.get("status", {}),
        "traffic": snapshot.deployment.traffic(),
        "mesh_weights": dict(snapshot.mesh_weights),
        "runtime": runtime,
    }
    if output == "json":
        typer.echo(json.dumps(found, indent=2))
    else:
        _show(found)
    raise typer.Exit(0 if snapshot.available else 3)


def demo(
    directory: Annotated[Path, typer.Option(help="Where models, logs and reports go.")] = Path("var/demo"),
    rate: Annotated[float, typer.Option(min=50, max=1000, help="Requests a second.")] = 250.0,
) -> None:
    """Promote a good release and roll back two bad ones, under load, on this machine: no cluster, no root.

    Example:
    churn-serving demo --rate 150
    """
    from rich.console import Console

    from local_seldon.demo.story import Story

    try:
        run_until_signal(Story(Console(), directory.absolute(), rate).tell(), _say)
    except EndedBySignal as ended:
        typer.echo("ended early; nothing runs any more", err=True)
        raise typer.Exit(ended.exit_code) from None
    except (LocalSeldonError, RolloutError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _problem(error: Any) -> str:
    """Return one of pydantic's errors as a sentence, such as: replicas.v2 is '0'; input should be greater than 0."""
    message = error["msg"]
    return f"{'.'.join(map(str, error['loc']))} is {error['input']!r}; {message[:1].lower()}{message[1:]}"


def _control_words(controls: Controls) -> list[str]:
    """Return what a running deployment is made to do, one line for each control that is set."""
    lines = [] if controls.operator_alive else ["the operator is dead: its webhook refuses every change"]
    lines += [f"the autoscaler asks for {number} replicas of {name}" for name, number in controls.replicas.items()]
    lines += [f"a new pod of {name} starts after {wait_s:g} s" for name, wait_s in controls.image_pull_s.items()]
    return lines or ["nothing is changed: the operator is alive, autoscaler and image pulls are as in the manifest"]


def _show(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("predictor", "replica", "traffic", "in the mesh", "ready", "restarts", "http", "metrics", "pid")
    if found["runtime"].get("operator") == "dead":
        Console().print("the operator is dead: it refuses every change, and the state below may be out of date")
    for name, replicas in found["runtime"].get("predictors", {}).items():
        for one in replicas:
            weights = [f"{found[key].get(name, '-')} %" for key in ("traffic", "mesh_weights")]
            ready = one["waiting"] or ("yes" if one["ready"] else "no")
            rest = [one[key] for key in ("restarts", "http", "metrics", "pid")]
            table.add_row(name, str(one["replica"]), *weights, ready, *map(str, rest))
    console = Console()
    state = found["status"]
    words = (state.get("state", "Creating"), state.get("description"), found["runtime"].get("url"))
    console.print(", ".join(filter(None, words)), soft_wrap=True)
    console.print(table)


def _overrides(artifacts: list[str], variables: list[str]) -> Overrides:
    from local_seldon.environment import Overrides

    env: dict[str, str] = {}
    predictor_env: dict[str, dict[str, str]] = {}
    for name, value in map(_pair, variables):
        predictor, separator, variable = name.rpartition(":")
        (predictor_env.setdefault(predictor, {}) if separator else env)[variable] = value
    return Overrides(artifacts=dict(map(_pair, artifacts)), env=env, predictor_env=predictor_env)


def _pair(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise typer.BadParameter(f"{text!r} has no name and value; allowed: NAME=VALUE")
    return name, value


def _store(name: str, state: Path) -> LocalStore:
    from local_seldon import running
    from rollout.targets.local_store import LocalStore

    if Path(name).is_file():
        return running.store_of(Path(name), state)
    namespace, _, short = name.rpartition("/")
    return LocalStore.of(state, namespace, short)


def _print(found: dict[str, Any], output: str, lines: list[str]) -> None:
    for line in [json.dumps(found, indent=2)] if output == "json" else lines:
        typer.echo(line)
