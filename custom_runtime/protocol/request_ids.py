"""Ids for requests that bring none, the same over REST and gRPC: unique, without uuid4's 2 us."""

from __future__ import annotations

import itertools
import os

_random = os.urandom(10).hex()  # for this process; then a counter
_PREFIX = f"{_random[:8]}-{_random[8:12]}-{_random[12:16]}-{_random[16:20]}-"
_COUNTER = itertools.count(1)


def next_id() -> str:
    """Return an id that no other request has."""
    return f"{_PREFIX}{next(_COUNTER) & 0xFFFFFFFFFFFF:012x}"
