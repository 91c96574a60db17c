"""One thing that is wrong with a manifest, and where.

What Pydantic refuses, as a person looks for it: the target, and the value that was there.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from pydantic import ValidationError

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Problem:
    """A broken rule: the message has the operator's words where they exist, the value, and what is allowed.

    `path` is a JSON pointer into the manifest. An error is refused by the API or breaks the service; a warning
    is accepted, and surprises later.
    """

    severity: Severity
    path: str
    message: str

    def to_dict(self) -> dict[str, str]:
        """Return the problem for programs."""
        return asdict(self)

    def __str__(self) -> str:
        return ": ".join(part for part in (self.severity, self.path, self.message) if part)


def error(path: str, message: str) -> Problem:
    """Return a problem that must be mended."""
    return Problem("error", path, message)


def warning(path: str, message: str) -> Problem:
    """Return a problem that is accepted, and surprises later."""
    return Problem("warning", path, message)


def field_errors(error: ValidationError) -> tuple[tuple[str, str], ...]:
    """Return (JSON pointer, message with the value received) of everything that validation found."""
    return tuple(
        (
            "".join(f"/{part}" for part in one["loc"]),
            one["msg"] if one["type"] == "missing" else f"{one['msg']}, this is {one['input']!r}"[:200],
        )
        for one in error.errors(include_url=False)
    )
