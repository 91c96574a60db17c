"""The forms in which the commands print their results."""

from __future__ import annotations

from enum import StrEnum


class Output(StrEnum):
    """What is printed on stdout."""

    TEXT = "text"
    JSON = "json"
