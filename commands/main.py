"""The tree of commands, and the entry points: the console script `churn-serving` and the files under scripts/."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from typing import Annotated, Any

import typer

from commands.lazy import LazyCommand, LazyGroup, group

PROGRAM = "churn-serving"
READER_GONE = 128 + 13
"""The exit code when nobody reads the output: a shell gives it to a program that SIGPIPE has ended."""
INTERRUPTED = (128 + 1, 128 + 2, 128 + 15)  # after SIGHUP, SIGINT (Typer's own code for Ctrl-C) and SIGTERM

# Each command: its line in `churn-serving --help`, and its function. A new command is one line here.
COMMANDS = {
    "train": ("Train the model on a table and register it.", "handoff.commands:train"),
    "import": ("Convert a registered model into the bundle that is served.", "handoff.commands:import_model"),
    "evaluate": ("Measure a registered model beside the champion.", "handoff.commands:evaluate"),
    "quality": ("Measure served versions by late labels.", "handoff.quality.command:quality"),
    "promote": ("Make a model the champion unless it is worse.", "handoff.commands:promote"),
    "stack": ("Fit a small model over several models, for a graph.", "handoff.commands:stack"),
    "serve": ("Serve the model over REST and gRPC until SIGTERM or Ctrl-C.", "commands.serve:serve"),
    "load-test": ("Load a service in an open loop and judge its P99.", "benchmarks.load.command:load_test"),
    "soak": ("Serve under mixed traffic and faults, and count every loss.", "benchmarks.soak.command:soak"),
    "demo": ("One good release and two bad ones, under load, locally.", "local_seldon.commands:demo"),
    "image-test": ("Build the container image and get a prediction from it.", "image.command:image_test"),
}
CONTRACT = {
    "init": ("Draft a contract from a table.", "handoff.commands:init_contract"),
}
FEATURES = {
    "load": ("Load feature rows from a table into the store.", "handoff.commands:load_features"),
}
MANIFEST = {
    "validate": ("Print every problem of a SeldonDeployment.", "rollout.cli.manifest:validate"),
    "render": ("Write the deployment of one model version.", "rollout.cli.manifest:render"),
    "capacity": ("Derive the autoscaler's numbers from a measurement.", "rollout.cli.manifest:capacity"),
}
ROLLOUT = {
    "run": ("Add the new version at 0 %, and drive it to 100 % or back.", "rollout.cli.commands:run"),
    "start": ("Add the new version at 0 % and return.", "rollout.cli.commands:start"),
    "resume": ("Go on with a rollout that was held or interrupted.", "rollout.cli.commands:resume"),
    "status": ("Show where a rollout stands.", "rollout.cli.commands:status"),
    "plan": ("Show what a config and flags come to.", "rollout.cli.commands:plan"),
    "pause": ("Keep the weights as they are.", "rollout.cli.commands:pause"),
    "promote": ("Open a manual gate or end a pause.", "rollout.cli.commands:promote"),
    "abort": ("Roll back now.", "rollout.cli.commands:abort"),
    "undo": ("Bring the previous version back.", "rollout.cli.commands:undo"),
    "controller": ("Drive every rollout of a cluster.", "rollout.cli.controller:controller"),
}
LOCAL = {
    "up": ("Run a SeldonDeployment on this machine.", "local_seldon.commands:up"),
    "down": ("Drain and stop it.", "local_seldon.commands:down"),
    "control": ("Make its operator, autoscaler or image pull misbehave.", "local_seldon.commands:control"),
    "status": ("Show state, weights and replicas.", "local_seldon.commands:status"),
}
GROUPS = [
    group("contract", "The contract: what a model takes and answers.", CONTRACT),
    group("features", "The online feature store.", FEATURES),
    group("manifest", "SeldonDeployment manifests: check, render, size.", MANIFEST),
    group(
        "rollout",
        "Roll a new model version out in steps that judge themselves.\n\n"
        "Exit codes: 0 promoted (or done as asked), 1 rolled back, 2 usage, 3 held or paused, 4 error.",
        ROLLOUT,
    ),
    group("local", "SeldonDeployments on this machine, without a cluster.", LOCAL),
]


class Root(LazyGroup):
    """`churn-serving` itself."""

    def __init__(self, **attributes: Any) -> None:
        commands = {name: LazyCommand(name, *command) for name, command in COMMANDS.items()}
        super().__init__(**{**attributes, "commands": commands | {str(one.name): one for one in GROUPS}})

    def main(self, *arguments: Any, **options: Any) -> Any:
        """Run the command line. When nobody reads its output (`... | head`), end as a program that SIGPIPE ends.

        A command that has failed keeps its own exit code. `--help` and `--version` write before any command runs.
        A file that cannot be used, or a contract that cannot be loaded, is one line and exit code 1 in every command.
        """
        try:
            return super().main(*arguments, **options)
        except SystemExit as end:
            gone = isinstance(end.__context__, BrokenPipeError)  # click and rich make an exit code of it: 1
            if gone or (_cannot_flush() and not end.code):
                _discard_output()
                raise SystemExit(READER_GONE) from end
            raise
        except OSError as error:
            from rollout.errors import os_error_line

            if not (line := os_error_line(error)):
                raise
            raise _ended(line) from error
        except Exception as error:
            # A StartupError is of a contract that a command has imported; the controller's image has no such package.
            errors = sys.modules.get("custom_runtime.errors")
            if errors is None or not isinstance(error, errors.StartupError):
                raise
            raise _ended(str(error)) from error


def _ended(message: str) -> SystemExit:
    typer.echo(f"error: {message}", err=True)
    return SystemExit(1)


def _cannot_flush() -> bool:
    """Write what is left of the output; return whether nobody reads it, and discard it then."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
        return True
    return False


def _discard_output() -> None:
    """Let what is left of the output go nowhere, or the interpreter would complain about it at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


app = typer.Typer(cls=Root, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"{PROGRAM} {version(PROGRAM)}")
        raise typer.Exit


@app.callback()
def churn_serving(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Train, serve, measure and roll out a tabular model on MLServer and Seldon Core."""


def main(*command: str) -> None:
    """Run the command of this process's arguments; command: the fixed first words of a file under scripts/."""
    try:
        if command:
            app([*command, *sys.argv[1:]], prog_name=PROGRAM)
        else:
            app()
    except SystemExit as ended:
        if ended.code in INTERRUPTED:
            typer.echo("interrupted", err=True)
        raise


if __name__ == "__main__":
    main()
