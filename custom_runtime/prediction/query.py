"""A query and its prediction: what travels between the doors of the service and its core."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from custom_runtime.model.encoding import WIDTH

# Index of each source in FEATURE_SOURCES; where a row's features came from.
STORE, REQUEST, DEFAULT = range(3)
FEATURE_SOURCES = ("store", "request", "default")


# Named tuples, not dataclasses: one of each is made for every request, at a third of a frozen dataclass's cost.
class Query(NamedTuple):
    """What a request asks: customers, and the encoded values it gave for them.

    customer_ids: n ids. given: feature position -> one float32 value (n = 1), or float32 [n].
    """

    customer_ids: Sequence[int]
    given: Mapping[int, float | NDArray[np.float32]]

    @property
    def size(self) -> int:
        """Rows of this query."""
        return len(self.customer_ids)

    @property
    def needs_store(self) -> bool:
        """Whether a feature is wanted that the request did not give."""
        return len(self.given) < WIDTH


class Prediction(NamedTuple):
    """probabilities: n floats in 0..1. sources: n indices into FEATURE_SOURCES."""

    probabilities: list[float]
    sources: list[int]
