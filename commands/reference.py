"""Writes the reference pages of the documentation from the code: `python -m commands.reference docs/reference`.

Each page is a pure function to Markdown. `tests/docs/test_reference.py` fails where the files differ from it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

SETTINGS = """# Settings

Every setting of the service is an environment variable, read once at the start. An invalid value stops the start with
one line and exit code 1. MLServer's own variables set the ports: `MLSERVER_HTTP_PORT` (8080), `MLSERVER_GRPC_PORT`
(8081), `MLSERVER_METRICS_PORT` (8082).

"""
METRICS = """# Metrics

## The service

On the metrics port, by default `http://localhost:8082/metrics`. A histogram has `_bucket`, `_count` and `_sum`, a
counter ends in `_total`.

"""
PROMOTER = """
## A promoter

With `--metrics-port` of `churn-serving rollout run`, and in the controller.

"""
ERRORS = """# Error codes

The body is `{"error": ..., "code": ...}` over REST; over gRPC the code is the trailing metadata `error-code`.
[Errors](../errors.md) says when each one occurs, and which setting changes it.

"""
CONTRACT_PAGE = """# The contract `{name}`

What a caller sends and gets. The key `{key}` is required; a feature that is given overrides the stored one. Another
model is another file like `custom_runtime/contract.py`, named in `SERVING_CONTRACT`.

"""
ROLLOUT_YAML = """# rollout.yaml

Every key may be left out. Unknown keys and values of another type are refused, with the path of the key.
`churn-serving rollout plan` prints what a file comes to.

"""
NOTE = "<!-- Written by `make reference` from {source}; do not edit. -->\n\n"


def settings() -> str:
    """Return the SERVING_* variables: name, type, default, limits, meaning."""
    from custom_runtime.settings import ServingSettings

    rows = []
    for name, schema in ServingSettings.model_json_schema(by_alias=False)["properties"].items():
        field = ServingSettings.model_fields[name]
        default = _default(field.default)
        rows.append((f"`SERVING_{name.upper()}`", _type_of(schema), default, field.description or ""))
    return (
        NOTE.format(source="custom_runtime/settings.py")
        + SETTINGS
        + _table(("Variable", "Value", "Default", "Meaning"), rows)
    )


def metrics() -> str:
    """Return the metrics of the service and of a promoter."""
    import custom_runtime.metrics as service
    from rollout.reporting.metrics import Metrics

    note = NOTE.format(source="custom_runtime/metrics.py and rollout/reporting/metrics.py")
    return note + METRICS + _metric_table(_collectors(service)) + PROMOTER + _metric_table(_collectors(Metrics()))


def errors() -> str:
    """Return the errors that a caller sees: code, REST status, gRPC status, meaning."""
    from custom_runtime import errors as module

    kinds = sorted(_kinds(module.ServingError), key=lambda kind: (kind.status, kind.code))
    rows = [(f"`{kind.code}`", str(kind.status), kind.grpc, _first_line(kind)) for kind in kinds]
    return NOTE.format(source="custom_runtime/errors.py") + ERRORS + _table(("Code", "REST", "gRPC", "Meaning"), rows)


def contract() -> str:
    """Return the contract that is served: the key, every feature with unit and limits, every output."""
    from custom_runtime.contract import CONTRACT

    rows = [_field_row(name, CONTRACT.input) for name in CONTRACT.input.model_fields]
    outputs = [_field_row(name, CONTRACT.prediction) for name in CONTRACT.prediction.model_fields]
    head = ("Field", "Value", "Meaning")
    page = CONTRACT_PAGE.format(name=CONTRACT.name, key=CONTRACT.key)
    note = NOTE.format(source="custom_runtime/contract.py")
    return f"{note}{page}## Input\n\n{_table(head, rows)}\n## Prediction\n\n{_table(head, outputs)}"


def rollout_yaml() -> str:
    """Return every key of rollout.yaml with type, default and limits."""
    from rollout.plan.config import Settings

    schema = Settings.model_json_schema()
    rows = list(_keys(schema, schema.get("$defs", {}), ""))
    return NOTE.format(source="rollout/plan/config.py") + ROLLOUT_YAML + _table(("Key", "Value", "Default"), rows)


def cli() -> str:
    """Return the help of every command."""
    import typer

    from commands.lazy import LazyCommand, LazyGroup
    from commands.main import PROGRAM, app

    parts = [NOTE.format(source="the commands themselves"), "# Commands\n"]

    def show(command: Any, path: tuple[str, ...]) -> None:
        name = " ".join((PROGRAM, *path))
        loaded = command.load() if isinstance(command, LazyCommand) else command
        context = typer.Context(loaded, info_name=name, terminal_width=100, max_content_width=100)
        parts.append(
            f"\n{'##' if len(path) < 2 else '###'} {name}\n\n```text\n{_portable(loaded.get_help(context))}\n```\n"
        )
        if isinstance(command, LazyGroup):
            for member, one in command.commands.items():
                show(one, (*path, member))

    show(typer.main.get_command(app), ())
    return "".join(parts)


PAGES: Mapping[str, Callable[[], str]] = {
    "settings.md": settings,
    "metrics.md": metrics,
    "errors.md": errors,
    "contract.md": contract,
    "rollout-yaml.md": rollout_yaml,
    "cli.md": cli,
}


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def _type_of(schema: Mapping[str, Any]) -> str:
    """Return a JSON schema's type and limits in words."""
    if "anyOf" in schema:
        return " or ".join(_type_of(one) for one in schema["anyOf"] if one.get("type") != "null") or "null"
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    words = {
        "number": "number",
        "integer": "integer",
        "boolean": "true or false",
        "array": "list",
        "object": "settings",
    }
    limits = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    found = [f"{sign} {_number(schema[key])}" for key, sign in limits.items() if key in schema]
    kind = words.get(schema.get("type", ""), "path" if schema.get("format") == "path" else "text")
    return " ".join([kind, ", ".join(found)]).strip()


def _number(value: float) -> str:
    """Return a number without an exponent: 1048576 and 0.001."""
    return str(int(value)) if value == int(value) else f"{value:g}"


def _default(value: Any) -> str:
    if value in (None, "", ()):
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _collectors(owner: Any) -> list[Any]:
    from prometheus_client.metrics import MetricWrapperBase

    return [value for value in vars(owner).values() if isinstance(value, MetricWrapperBase)]


def _metric_table(found: list[Any]) -> str:
    rows = []
    for one in sorted(found, key=lambda collector: str(collector._name)):
        name = f"{one._name}_total" if one._type == "counter" else one._name
        labels = ", ".join(f"`{label}`" for label in one._labelnames)
        rows.append((f"`{name}`", one._type, labels, one._documentation))
    return _table(("Metric", "Kind", "Labels", "Meaning"), rows)


def _kinds(base: Any) -> list[Any]:
    below: list[Any] = base.__subclasses__()
    return [found for kind in below for found in (kind, *_kinds(kind))]


def _first_line(kind: type) -> str:
    return (kind.__doc__ or "").strip().splitlines()[0]


def _field_row(name: str, model: Any) -> tuple[str, str, str]:
    schema = model.model_json_schema(by_alias=False)
    return f"`{name}`", _type_of(schema["properties"][name]), model.model_fields[name].description or ""


def _keys(schema: Mapping[str, Any], definitions: Mapping[str, Any], prefix: str) -> Iterable[tuple[str, str, str]]:
    for name, found in schema["properties"].items():
        options: list[Any] = [found, *found.get("anyOf", []), *found.get("allOf", [])]
        nested: Mapping[str, Any] = next(
            (definitions[one["$ref"].rpartition("/")[2]] for one in options if "$ref" in one), {}
        )
        if "properties" in nested:
            yield f"`{prefix}{name}`", "settings" + (", or null: off" if "anyOf" in found else ""), ""
            yield from _keys(nested, definitions, f"{prefix}{name}.")
        else:
            default = found.get("default")
            yield f"`{prefix}{name}`", _type_of(nested or found), _default(default)


def _portable(text: str) -> str:
    """Return a help text without spaces at the ends of its lines."""
    return re.sub(r"[ \t]+\n", "\n", text).strip()


def main() -> None:
    """Write every page into the directory that the command line names."""
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    for name, page in PAGES.items():
        (directory / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
