"""Limits and errors of explained predictions, over a stand-in for what explains."""

import asyncio
import threading
from typing import Any

import numpy as np
import pytest

from custom_runtime.active import CONTRACT
from custom_runtime.errors import DeadlineExceeded, NotExplainable, Overloaded, TooLarge, UnknownKey
from custom_runtime.features.memory import MemoryStore
from custom_runtime.metrics import ServingMetrics
from custom_runtime.model.encoding import POSITIONS, WIDTH, Matrix, encode_table
from custom_runtime.model.explaining import Contributions
from custom_runtime.prediction.explanations import SLICE_ROWS
from custom_runtime.prediction.predictor import Predictor
from custom_runtime.prediction.query import Query
from custom_runtime.settings import ServingSettings
from tests.support.programs import GUARD_S

TENURE = POSITIONS["tenure_months"]
DEFAULTS = {feature.name: feature.example for feature in CONTRACT.features}
DEFAULT_ROW = encode_table({name: [value] for name, value in DEFAULTS.items()})[0]


class Scorer:
    def score(self, rows: Matrix) -> Any:
        return rows[:, TENURE] / np.float32(1000)


class TenureExplainer:
    """Every row is its tenure, once the test lets it be."""

    def __init__(self, *, is_open: bool = True) -> None:
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.sizes: list[int] = []
        if is_open:
            self.gate.set()

    def explain(self, rows: Matrix) -> Contributions:
        self.entered.set()
        assert self.gate.wait(GUARD_S)
        self.sizes.append(len(rows))
        values = np.zeros((len(rows), WIDTH))
        values[:, TENURE] = rows[:, TENURE]
        return Contributions(values, base=-1.0)


async def predictor(explainer: Any, rows: int = 100, **settings: Any) -> Predictor:
    """A predictor over customers 0 to rows - 1, whose tenure is their number."""
    held = np.tile(DEFAULT_ROW, (rows, 1))
    held[:, TENURE] = np.arange(rows)
    store = MemoryStore(name=CONTRACT.name, fingerprint=CONTRACT.fingerprint)
    await store.put(list(range(rows)), held, updated_at=1_800_000_000.0)
    return Predictor(
        scorer=Scorer(),
        store=store,
        defaults=DEFAULTS,
        settings=ServingSettings(**({"batch_deadline_ms": 60_000} | settings)),
        metrics=ServingMetrics(model="explained", version="1", predictor="local", store="memory"),
        explainer=explainer,
    )


async def test_many_rows_are_explained_in_slices_and_in_order() -> None:
    explainer = TenureExplainer()
    subject = await predictor(explainer)
    wanted = list(range(40, 90))
    explained = await subject.explain(Query(wanted, {}))
    assert explained.scores == pytest.approx([number / 1000 for number in wanted])
    assert explained.contributions[:, TENURE].tolist() == wanted
    assert explained.rows[:, TENURE].tolist() == wanted
    assert explained.base == -1.0
    assert max(explainer.sizes) <= SLICE_ROWS
    await subject.close()


async def test_one_request_above_the_limit_is_rejected_and_the_others_are_answered() -> None:
    explainer = TenureExplainer(is_open=False)
    subject = await predictor(explainer, max_explanations=2)
    accepted = [asyncio.create_task(subject.explain(Query([number], {}))) for number in (1, 2)]
    await asyncio.to_thread(explainer.entered.wait, GUARD_S)
    with pytest.raises(Overloaded, match="2 requests are being explained, 2 are allowed"):
        await subject.explain(Query([3], {}))
    # What is not explained does not wait for the explanations.
    plain = await subject.predict(Query([5], {}))
    assert plain.scores == pytest.approx([0.005])
    explainer.gate.set()
    answers = await asyncio.gather(*accepted)
    assert [answer.contributions[0, TENURE] for answer in answers] == [1, 2]
    await subject.explain(Query([3], {}))
    await subject.close()


async def test_an_explanation_that_takes_too_long_ends_at_the_deadline() -> None:
    explainer = TenureExplainer(is_open=False)
    subject = await predictor(explainer)
    with pytest.raises(DeadlineExceeded, match="0 of 1 rows were explained within 20 ms"):
        await subject.explain(Query([1], {}), timeout_s=0.02)
    explainer.gate.set()
    await subject.close()


async def test_what_is_wrong_is_named() -> None:
    subject = await predictor(TenureExplainer(), max_explained_rows=10)
    with pytest.raises(TooLarge, match=r"11 rows .* allowed: at most 10 \(SERVING_MAX_EXPLAINED_ROWS\)"):
        await subject.explain(Query(list(range(11)), {}))
    with pytest.raises(UnknownKey, match="12345"):
        await subject.explain(Query([12345], {}))
    await subject.close()
    silent = await predictor(NotExplainable("this model has no explanation: it is a test"))
    with pytest.raises(NotExplainable, match="it is a test"):
        await silent.explain(Query([1], {}))
    await silent.close()
    off = await predictor(None)
    with pytest.raises(NotExplainable, match="SERVING_EXPLANATIONS=1"):
        await off.explain(Query([1], {}))
    await off.close()
