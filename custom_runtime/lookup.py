"""One lookup in the feature store, within its timeout, timed and counted by outcome."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from custom_runtime.errors import StoreUnavailable
from custom_runtime.features.store import FeatureStore, FetchedRows
from custom_runtime.metrics import ServingMetrics
from custom_runtime.settings import ServingSettings


class Lookup:
    """Asks the store, once for each batch, and tells the metrics what came: hits, misses, stale rows or a failure."""

    def __init__(
        self,
        store: FeatureStore,
        *,
        settings: ServingSettings,
        metrics: ServingMetrics,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._metrics = metrics
        self._clock = clock
        self._wall_clock = wall_clock
        self._max_age_s = settings.max_feature_age_s
        self._timeout_s = settings.store_timeout_ms / 1000

    async def fetch(self, customer_ids: Sequence[int]) -> FetchedRows | StoreUnavailable:
        """Return the rows, or why there are none: a batch may hold requests that need no store."""
        started = self._clock()
        try:
            fetched = await self._store.fetch(customer_ids, timeout_s=self._timeout_s)
        except StoreUnavailable as error:
            elapsed_s = self._clock() - started
            outcome = "timeout" if elapsed_s >= self._timeout_s else "error"
            self._metrics.count_rows(outcome, len(customer_ids))
            self._metrics.observe_fetch(elapsed_s)
            return error
        self._metrics.observe_fetch(self._clock() - started)
        self._count(fetched)
        return fetched

    def _count(self, fetched: FetchedRows) -> None:
        hits = int(np.count_nonzero(fetched.updated_at))
        stale = 0
        if self._max_age_s is not None:
            oldest = self._wall_clock() - self._max_age_s
            stale = int(np.count_nonzero((fetched.updated_at > 0) & (fetched.updated_at < oldest)))
        self._metrics.count_rows("stale", stale)
        self._metrics.count_rows("hit", hits - stale)
        self._metrics.count_rows("miss", len(fetched.updated_at) - hits)
