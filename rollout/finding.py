"""One thing that is wrong with a manifest, and where."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Finding:
    """A broken rule: the message has the operator's words where they exist, the value, and what is allowed.

    `path` is a JSON pointer into the manifest. An error is refused by the API or breaks the service; a warning
    is accepted, and surprises later.
    """

    severity: Severity
    path: str
    message: str

    def to_dict(self) -> dict[str, str]:
        """Return the finding for programs."""
        return asdict(self)

    def __str__(self) -> str:
        return ": ".join(part for part in (self.severity, self.path, self.message) if part)


def error(path: str, message: str) -> Finding:
    """Return a finding that must be mended."""
    return Finding("error", path, message)


def warning(path: str, message: str) -> Finding:
    """Return a finding that is accepted, and surprises later."""
    return Finding("warning", path, message)
