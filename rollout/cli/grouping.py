"""Groups of options: a command asks for a dataclass, and its caller sees one option for each of its fields."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import is_dataclass
from typing import Any, get_type_hints


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command with its groups taken apart, for typer to read; they are put together before it is called.

    The options of a group stand where the group stood, in the order of its fields, with the fields' defaults (a
    group's own default is not looked at). A group may hold another one; no two options may have one name.
    """

    @functools.wraps(command)
    def taken_apart(**given: Any) -> None:
        _call(command, given)

    options = [option.replace(kind=inspect.Parameter.KEYWORD_ONLY) for option in _options(command)]
    taken_apart.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]  # what inspect looks at first
    return taken_apart


def _call(taker: Callable[..., Any], given: Mapping[str, Any]) -> Any:
    parts = {
        name: _call(wanted.annotation, given) if _is_group(wanted) else given[name]
        for name, wanted in _parameters(taker).items()
    }
    return taker(**parts)


def _options(taker: Callable[..., Any]) -> Iterator[inspect.Parameter]:
    for wanted in _parameters(taker).values():
        if _is_group(wanted):
            yield from _options(wanted.annotation)
        else:
            yield wanted


def _is_group(wanted: inspect.Parameter) -> bool:
    return is_dataclass(wanted.annotation)


def _parameters(taker: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return what a function or a dataclass takes; the annotations are types, not text."""
    types = get_type_hints(taker, include_extras=True)
    parameters = inspect.signature(taker).parameters
    return {name: wanted.replace(annotation=types[name]) for name, wanted in parameters.items()}
