"""A problem of a manifest and its location; also converts Pydantic's validation errors to location and message."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from pydantic import ValidationError

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Problem:
    """A broken rule. The message has the operator's text where there is one, the value, and what is allowed.

    `path` is a JSON pointer into the manifest. An error is rejected by the API or breaks the service. A warning is
    accepted, and can cause an unexpected result later.
    """

    severity: Severity
    path: str
    message: str

    def to_dict(self) -> dict[str, str]:
        """Return the problem as a JSON object."""
        return asdict(self)

    def __str__(self) -> str:
        return ": ".join(part for part in (self.severity, self.path, self.message) if part)


def error(path: str, message: str) -> Problem:
    """Return a problem that must be fixed."""
    return Problem("error", path, message)


def warning(path: str, message: str) -> Problem:
    """Return a problem that the API accepts and that can cause an unexpected result later."""
    return Problem("warning", path, message)


def field_errors(error: ValidationError) -> tuple[tuple[str, str], ...]:
    """Return (JSON pointer, message with the invalid value) for each validation error."""
    return tuple(
        (
            "".join(f"/{part}" for part in one["loc"]),
            _message(one),
        )
        for one in error.errors(include_url=False)
    )


def _message(one: Any) -> str:
    if one["type"] == "extra_forbidden":
        return "there is no such key; look for a spelling mistake"
    return str(one["msg"]) if one["type"] == "missing" else f"{one['msg']}, this is {one['input']!r}"[:200]
