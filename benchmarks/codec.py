"""The wire, as the load client sees it: bytes of a request out, one answer in. One request at a time per connection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Answer:
    """The end of one request. error: None for a good answer, else a short label to count it under."""

    error: str | None
    detail: str = ""


GOOD = Answer(None)


class Codec(Protocol):
    """The state of one connection."""

    reusable: bool  # False: the server wants the connection closed after this answer
    control: bytearray  # what the protocol itself wants sent; whoever sends it clears it

    def greeting(self) -> bytes:
        """Return what opens the connection."""

    def request(self, index: int) -> bytes:
        """Return the bytes of request number `index`."""

    def feed(self, data: bytes) -> Answer | None:
        """Take what arrived; return the answer when it is complete. Raises ValueError when it is not the protocol."""
