import asyncio
import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client import REGISTRY

from custom_runtime.active import CONTRACT
from custom_runtime.errors import DeadlineExceeded, Overloaded, StoreUnavailable, TooLarge, UnknownKey
from custom_runtime.features.memory import MemoryStore
from custom_runtime.features.store import FetchedRows, Keys
from custom_runtime.metrics import ServingMetrics
from custom_runtime.model.encoding import POSITIONS, WIDTH, Matrix, encode_table
from custom_runtime.prediction.big_batches import SLICE_ROWS
from custom_runtime.prediction.predictor import Predictor
from custom_runtime.prediction.query import DEFAULT, REQUEST, STORE, Prediction, Query
from custom_runtime.settings import ServingSettings
from tests.support.programs import GUARD_S

TENURE = POSITIONS["tenure_months"]
DEFAULTS = {feature.name: feature.example for feature in CONTRACT.features}
DEFAULT_ROW = encode_table({name: [value] for name, value in DEFAULTS.items()})[0]
HOUR_S = 3600.0
Store = TypeVar("Store", bound=MemoryStore)
NOW_S = 1_800_000_000.0


class TenureScorer:
    """Scores tenure / 1000, so that a test sees which row was scored."""

    def score(self, rows: Matrix) -> NDArray[np.float32]:
        return rows[:, TENURE] / np.float32(1000)


class SlowStore(MemoryStore):
    """Answers when the test lets it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.gate = asyncio.Event()
        self.batches: list[list[int | str]] = []

    async def fetch(self, keys: Keys, *, timeout_s: float) -> FetchedRows:
        self.batches.append(list(keys))
        await self.gate.wait()
        return await super().fetch(keys, timeout_s=timeout_s)


class BrokenStore(MemoryStore):
    async def fetch(self, keys: Keys, *, timeout_s: float) -> FetchedRows:
        raise StoreUnavailable("redis is down")


def row_of(tenure: float) -> Matrix:
    row = DEFAULT_ROW.copy()
    row[TENURE] = tenure
    return row


async def filled(store: Store, count: int = 9) -> Store:
    """Customer i has stayed for i months."""
    await store.open()
    ids = list(range(1, count + 1))
    await store.put(ids, np.stack([row_of(i % 600) for i in ids]), updated_at=NOW_S - HOUR_S)
    return store


def predictor(
    store: MemoryStore, label: str = "test", *, clock: Callable[[], float] = time.monotonic, **settings: object
) -> Predictor:
    """A predictor whose deadline no busy machine misses, unless the test sets another."""
    metrics = ServingMetrics(model=CONTRACT.name, version="1", predictor=label, store=store.kind)
    return Predictor(
        scorer=TenureScorer(),
        store=store,
        defaults=DEFAULTS,
        settings=ServingSettings(**({"deadline_ms": 20_000} | settings)),  # type: ignore[arg-type]
        metrics=metrics,
        clock=clock,
        wall_clock=lambda: NOW_S,
    )


def memory(kind: type[Store] = MemoryStore) -> Store:  # type: ignore[assignment]
    return kind(name=CONTRACT.name, fingerprint=CONTRACT.fingerprint)


async def test_stored_features_are_scored_and_given_ones_override_them() -> None:
    service = predictor(await filled(memory()))
    stored = await service.predict(Query([7], {}))
    assert stored.scores == [pytest.approx(0.007)]
    assert stored.sources == [STORE]
    overridden = await service.predict(Query([7, 8], {TENURE: np.array([100, 200], dtype=np.float32)}))
    assert overridden.scores == [pytest.approx(0.1), pytest.approx(0.2)]


async def test_all_features_given_means_no_fetch() -> None:
    store = memory(BrokenStore)
    answer = await predictor(store).predict(Query([10**9], dict(enumerate(row_of(300).tolist()))))
    assert answer.scores == [pytest.approx(0.3)]
    assert answer.sources == [REQUEST]


async def test_an_unknown_key_is_an_error_or_scores_the_defaults_by_policy() -> None:
    store: MemoryStore = await filled(memory())
    strict, lenient = predictor(store), predictor(store, missing_key="default")
    neighbours = await asyncio.gather(
        strict.predict(Query([3], {})),
        strict.predict(Query([4, 99], {})),
        strict.predict(Query([5], {})),
        return_exceptions=True,
    )
    assert isinstance(neighbours[1], UnknownKey)
    assert str(neighbours[1]).startswith("customer_id[1] 99 is not in the feature store")
    assert [answer.scores[0] for answer in (neighbours[0], neighbours[2]) if isinstance(answer, Prediction)] == [
        pytest.approx(0.003),
        pytest.approx(0.005),
    ]
    answer = await lenient.predict(Query([4, 99], {}))
    assert answer.sources == [STORE, DEFAULT]
    assert answer.scores[1] == pytest.approx(DEFAULT_ROW[TENURE] / 1000)


async def test_a_store_that_is_down_is_an_error_or_scores_the_defaults_by_policy() -> None:
    with pytest.raises(StoreUnavailable, match="redis is down"):
        await predictor(memory(BrokenStore)).predict(Query([1], {}))
    answer = await predictor(memory(BrokenStore), store_failure="default").predict(Query([1], {TENURE: 50.0}))
    assert answer.sources == [DEFAULT]
    assert answer.scores == [pytest.approx(0.05)]


async def test_requests_that_wait_share_one_fetch_and_one_scoring_call() -> None:
    store = memory(SlowStore)
    await filled(store)
    service = predictor(store)
    first = asyncio.ensure_future(service.predict(Query([1], {})))
    await asyncio.sleep(0.001)
    rest = [asyncio.ensure_future(service.predict(Query([i], {}))) for i in (2, 3, 4)]
    await asyncio.sleep(0.001)
    store.gate.set()
    answers = await asyncio.gather(first, *rest)
    assert [answer.scores[0] for answer in answers] == [pytest.approx(i / 1000) for i in (1, 2, 3, 4)]
    assert store.batches == [[1], [2, 3, 4]]


async def test_one_request_too_many_is_shed_at_once_and_the_others_are_answered() -> None:
    store = memory(SlowStore)
    await filled(store)
    service = predictor(store, max_inflight=2)
    running = [asyncio.ensure_future(service.predict(Query([i], {}))) for i in (1, 2)]
    await asyncio.sleep(0.001)
    with pytest.raises(Overloaded, match="2 requests are in flight, 2 are allowed"):
        await service.predict(Query([3], {}))
    store.gate.set()
    assert len(await asyncio.gather(*running)) == 2
    assert service.inflight == 0


async def test_a_request_that_waited_past_its_deadline_is_refused() -> None:
    store = memory(SlowStore)
    await filled(store)
    now_s = 0.0
    service = predictor(store, clock=lambda: now_s, deadline_ms=30)
    first = asyncio.ensure_future(service.predict(Query([1], {})))
    await asyncio.sleep(0.001)
    late = asyncio.ensure_future(service.predict(Query([2], {})))
    await asyncio.sleep(0.001)
    now_s = 0.05
    store.gate.set()
    assert (await first).sources == [STORE]
    with pytest.raises(DeadlineExceeded):
        await late


async def test_a_big_batch_is_sliced_and_small_requests_take_their_turns() -> None:
    rows = SLICE_ROWS * 3 + 5
    service = predictor(await filled(memory(), rows))
    ids = list(range(1, rows + 1))
    big = asyncio.ensure_future(service.predict(Query(ids, {})))
    small = 0
    while not big.done():
        await service.predict(Query([1], {}))
        small += 1
    answer = await big
    np.testing.assert_allclose(answer.scores, np.array(ids) % 600 / 1000, rtol=1e-6)
    assert answer.sources == [STORE] * rows
    assert small >= 3
    await service.close()


def test_too_many_rows_are_refused_before_they_are_read() -> None:
    with pytest.raises(TooLarge, match="the batch has 11 rows; allowed: at most 10"):
        asyncio.run(_check(11))


async def _check(rows: int) -> None:
    predictor(memory(), max_rows=10).check_rows(rows)


async def test_rows_are_counted_by_outcome_and_stale_ones_still_score() -> None:
    service = predictor(await filled(memory()), label="outcomes", missing_key="default", max_feature_age_s=60)
    await service.predict(Query([1, 2, 77], {}))

    def rows(outcome: str) -> float | None:
        labels = {"model": CONTRACT.name, "version": "1", "predictor": "outcomes", "outcome": outcome}
        return REGISTRY.get_sample_value("serving_feature_rows_total", labels)

    assert {outcome: rows(outcome) for outcome in ("hit", "stale", "miss")} == {"hit": 0.0, "stale": 2.0, "miss": 1.0}


def test_a_row_is_as_wide_as_the_contract() -> None:
    assert DEFAULT_ROW.shape == (WIDTH,) == (len(CONTRACT.features),)


async def test_a_request_with_all_features_does_not_wait_for_a_store_that_hangs() -> None:
    service = predictor(await filled(memory(SlowStore)))
    waiting = asyncio.ensure_future(service.predict(Query([3], {})))
    await asyncio.sleep(0)
    answer = await asyncio.wait_for(service.predict(Query([3], dict(enumerate(row_of(300).tolist())))), GUARD_S)
    assert answer.sources == [REQUEST]
    assert not waiting.done()
    waiting.cancel()


async def test_a_big_batch_has_its_own_deadline_and_its_own_work_counts() -> None:
    store = await filled(memory(SlowStore), count=200)
    service = predictor(store, offload_rows=10, batch_deadline_ms=20)
    with pytest.raises(DeadlineExceeded, match="0 of 199 rows were scored within 20 ms"):
        await service.predict(Query(list(range(1, 200)), {}))
    store.gate.set()
    assert len((await service.predict(Query(list(range(1, 11)), {}))).scores) == 10


async def test_the_shorter_of_two_big_batches_does_not_wait_for_the_longer_one() -> None:
    store: MemoryStore = await filled(memory(), SLICE_ROWS * 20)
    service = predictor(store)
    long = asyncio.ensure_future(service.predict(Query(list(range(1, SLICE_ROWS * 20 + 1)), {})))
    await asyncio.sleep(0)
    short = await service.predict(Query(list(range(1, SLICE_ROWS + 1)), {}))
    assert len(short.scores) == SLICE_ROWS
    assert not long.done()
    assert len((await long).scores) == SLICE_ROWS * 20


async def test_a_big_batch_whose_caller_left_is_dropped_and_gives_its_turn_back() -> None:
    store = await filled(memory(SlowStore), count=SLICE_ROWS * 4)
    service = predictor(store)
    ids = list(range(1, SLICE_ROWS * 4 + 1))
    left, stays = (asyncio.ensure_future(service.predict(Query(ids, {}))) for _ in range(2))
    await asyncio.sleep(0)
    left.cancel()
    store.gate.set()
    assert len((await stays).scores) == len(ids)
    assert left.cancelled()
    assert len(store.batches) <= 4 + 1  # one slice of the batch that was dropped, at most


async def test_an_error_names_the_row_of_the_request_and_not_of_its_slice() -> None:
    service = predictor(await filled(memory(), SLICE_ROWS * 2))
    with pytest.raises(UnknownKey, match=rf"\[{SLICE_ROWS + 44}\] 999999 is not in"):
        await service.predict(Query([*range(1, SLICE_ROWS + 45), 999_999, 1], {}))


class PacedStore(MemoryStore):
    """Each fetch takes as long as the test says, by the clock that it moves."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.now_s, self.fetch_s = 0.0, 0.0

    def clock(self) -> float:
        return self.now_s

    async def fetch(self, keys: Keys, *, timeout_s: float) -> FetchedRows:
        self.now_s += self.fetch_s
        await asyncio.sleep(0)
        return await super().fetch(keys, timeout_s=timeout_s)


async def test_new_requests_are_shed_while_they_would_wait_too_long_and_no_longer() -> None:
    store = PacedStore(name=CONTRACT.name, fingerprint=CONTRACT.fingerprint)
    await filled(store)
    service = predictor(store, clock=store.clock, coalesce_rows=1)
    store.fetch_s = 0.02  # two requests ahead of a new one are more than the default limit of 30 ms
    ahead = [asyncio.ensure_future(service.predict(Query([customer], {}))) for customer in range(1, 7)]
    await ahead[1]
    with pytest.raises(Overloaded, match="longer than 30 ms"):
        await service.predict(Query([7], {}))
    # Before the values of a batch are read, too, but for one that does not wait for the store.
    with pytest.raises(Overloaded, match="longer than 30 ms"):
        service.check_wait(needs_store=True)
    service.check_wait(needs_store=False)
    assert {answer.sources[0] for answer in await asyncio.gather(*ahead)} == {STORE}
    store.fetch_s = 0.0001
    for _ in range(3):
        again = [asyncio.ensure_future(service.predict(Query([customer], {}))) for customer in range(1, 4)]
        await again[0]
    assert (await service.predict(Query([7], {}))).sources == [STORE]
    await asyncio.gather(*again)
