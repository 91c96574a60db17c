"""What a client sent, shown in an error message: bounded in time, depth and length, whatever it is."""

from __future__ import annotations

import reprlib
from typing import Any

# A body has at most this many of its problems explained.
MOST_PROBLEMS = 10
_LENGTH = 80
# repr() walks all of a value before it is cut: seconds for megabytes of lists, RecursionError for 1,000 nested ones.
_REPR = reprlib.Repr()
_REPR.maxlevel = 3
_REPR.maxstring = _REPR.maxother = _LENGTH


def quoted(value: Any) -> str:
    """Return a value as Python writes it, in at most 80 characters; what is left out is `...`."""
    if isinstance(value, bytes):
        return repr(value[:_LENGTH])[:_LENGTH]  # reprlib would write all of it
    return _REPR.repr(value)[:_LENGTH]


def listed(problems: list[str], total: int) -> str:
    """Join the first problems of a body, and tell how many more it has: an answer is not longer than its question."""
    return "; ".join(problems) + (f"; and {total - len(problems)} more" if total > len(problems) else "")
