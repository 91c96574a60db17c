"""The tree of commands, as documents and workflows use it."""

from typing import Any

import typer
from typer.core import TyperGroup

from commands.lazy import LazyCommand
from commands.main import app


def find(*words: str) -> tuple[tuple[str, ...], Any]:
    """Return the command that a command line names, without its arguments, and its Click object."""
    path: tuple[str, ...] = ()
    command: Any = typer.main.get_command(app)
    while isinstance(command, TyperGroup) and len(path) < len(words) and words[len(path)] in command.commands:
        path = (*path, words[len(path)])
        command = command.commands[path[-1]]
    return path, command.load() if isinstance(command, LazyCommand) else command


def leaves() -> list[tuple[str, ...]]:
    """Return the path of every command that is not a group."""

    def below(path: tuple[str, ...], command: Any) -> list[tuple[str, ...]]:
        if not isinstance(command, TyperGroup):
            return [path]
        return [leaf for name, one in command.commands.items() for leaf in below((*path, name), one)]

    return below((), typer.main.get_command(app))


def unknown_options(*words: str) -> list[str]:
    """Return the long options of a command line that its command does not have, or that there is no such command.

    A group of commands may be named alone.
    """
    path, command = find(*words)
    if isinstance(command, TyperGroup) and words[len(path) :] not in ((), ("--help",)):
        return [f"no such command: {' '.join(words)}"]
    known = {name for parameter in command.params for name in parameter.opts} | {"--help"}
    return [word for word in words if word.startswith("--") and word.partition("=")[0] not in known]
