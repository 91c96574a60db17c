"""Commands that are imported when they are called, so that `--help` and shell completion are fast."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

EXAMPLE = "Example:\n"


class LazyCommand(TyperCommand):
    """A command's name and its one line of help; `load` imports the function that runs."""

    def __init__(self, name: str, summary: str, function: str) -> None:
        """Take the function as `package.module:name`."""
        super().__init__(name, help=summary)
        self.function = function

    def load(self) -> Any:
        """Return the command as Typer makes it of the function: its parameters are the options, its docstring the help.

        What follows `Example:` at the docstring's end is shown below the options, in lines that are not wrapped.
        """
        module, _, name = self.function.partition(":")
        try:
            callback = getattr(import_module(module), name)
        except ModuleNotFoundError as error:
            missing = (error.name or "").partition(".")[0]
            if missing in sys.modules:  # a module of ours that is not there: a defect
                raise
            typer.echo(f"error: {self.name} needs {missing}, which is not installed; run: make setup", err=True)
            raise typer.Exit(2) from error
        text, _, example = (inspect.getdoc(callback) or "").partition(EXAMPLE)
        app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
        # \b keeps the line breaks of the paragraph.
        app.command(self.name, help=text, epilog=f"\b\n{EXAMPLE}{_indented(example)}")(callback)
        return _named_values(typer.main.get_command(app))


class LazyGroup(TyperGroup):
    """A group whose list of commands is known without importing any of them."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Find the command that is called, and import it."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command.load() if isinstance(command, LazyCommand) else command, rest


def group(name: str, summary: str, commands: Mapping[str, tuple[str, str]]) -> LazyGroup:
    """Return a group of commands, each given as its one line of help and its function (`package.module:name`)."""
    members = {member: LazyCommand(member, line, function) for member, (line, function) in commands.items()}
    return LazyGroup(name=name, help=summary, commands={**members}, no_args_is_help=True, rich_markup_mode=None)


def _named_values(command: Any) -> Any:
    """Let the help call an option's value <int>, also where it is repeatable or has limits, which the text says."""
    context = typer.Context(command)
    for option in command.params:
        if option.param_type_name == "option" and option.metavar is None and not option.is_flag:
            shown = str(option.display_type_rich(context))
            option.metavar = re.sub(r"list\[(.*)\]", r"\1", shown).replace(" range", "")
    return command


def _indented(example: str) -> str:
    return "".join(f"  {line}\n" for line in example.splitlines())
