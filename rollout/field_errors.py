"""What Pydantic refuses, as a person looks for it: the place, and the value that was there."""

from __future__ import annotations

from pydantic import ValidationError


def field_errors(error: ValidationError) -> tuple[tuple[str, str], ...]:
    """Return (JSON pointer, message with the value received) of everything that validation found."""
    return tuple(
        (
            "".join(f"/{part}" for part in one["loc"]),
            one["msg"] if one["type"] == "missing" else f"{one['msg']}, this is {one['input']!r}"[:200],
        )
        for one in error.errors(include_url=False)
    )
