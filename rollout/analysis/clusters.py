"""Pods and windows as clusters: how sure a difference between versions is when pods differ, and when minutes do.

Requests are not independent. Some pods are worse than others for good (a slow node, an uneven shard), and what goes
wrong goes wrong in bursts (a pause of 0.3 s makes everything slow that arrives meanwhile). A test on requests reads
both as a bad version. Two corrections, both usual for clustered counts:

- *Windows.* Counts are divided by a design effect, 1 + correlation * (requests of a pod in one window), where the
  intraclass correlation of a pod's window is estimated from the windows of every pod of both versions (Rao and Scott
  1992, "A simple method for the analysis of clustered binary data").
- *Pods.* A pod's rate is its version's rate times a factor from a gamma distribution of mean 1; then the events of a
  pod are negative binomial. How much pods differ is unknown: a prior over the factor's coefficient of variation is
  laid over it, and the pods seen, stable's above all, move it (Gelman 2006, "Prior distributions for variance
  parameters", on few groups).

The evidence is the ratio of two marginal likelihoods, "the canary is worse" over "no more than `margin` times stable".
Under the second its expectation is 1 at every time, so it may be looked at any time (Ville; Grünwald et al. 2024,
"Safe testing"). The common rate of both versions is integrated out over a uniform prior of its logarithm, under which
the ratio stays such a process for every rate (Hendriksen et al. 2021, "Optional stopping with Bayes factors").

All functions take arrays whose last axis is the pods (cells: pods, columns); axes before it are independent worlds, so
that the simulation in the tests runs this very code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated, Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import PlainSerializer, PlainValidator

Array = NDArray[np.float64]


def _written(values: Array) -> Any:
    """Return nested lists, with whole numbers as such: most cells are counts."""
    whole = np.vectorize(lambda value: int(value) if value.is_integer() else value, otypes=[object])
    return whole(values).tolist()


Cells = Annotated[
    Array,
    PlainValidator(lambda rows: np.array(rows, np.float64).reshape(-1, len(Column))),
    PlainSerializer(_written),
]
"""What is kept of the pods of one version: [pods, columns]. Only one world is ever written as JSON."""
Number = Annotated[Array, PlainValidator(lambda value: np.array(value, np.float64)), PlainSerializer(float)]

SPREADS: Final = (0.1, 0.2, 0.4, 0.8, 1.6)
"""How much pods may differ: coefficients of variation of a pod's rate. 1.6: most pods see nothing, a few ten times."""
_STEP: Final = 0.05
_LOG_RATES: Final[Array] = (np.arange(-100, 61) * _STEP).astype(np.float64)
"""The common rate, as a logarithm of its ratio to the pooled one."""
_RATIOS: Final = np.array([8, 14, 22, 32, 46, 68, 92])
"""What "worse" may mean, in steps of the logarithm: 1.5, 2, 3, 5, 10, 30 and 100 times stable."""
_EXCESS: Final = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
"""The bets on a rate above a limit: c of 1 + c * (1 - limit) / limit. 0.01 sees 2 % where 1 % is the limit."""
EPOCH_WINDOWS: Final = 12
MIN_WINDOWS: Final = 2
MOST: Final = 0.5


class Column(IntEnum):
    """What is kept of one pod and one event; nothing grows with the number of windows.

    PAST_*: earlier steps, with the events expected at the rate that both versions had together in each of them.
    ALL_*: sums over the rollout, for the size of a window. EPOCH_*: since it began, for a fault that begins late.
    The others belong to this step; WINDOWS counts those with a request.
    """

    PAST_EVENTS = 0
    PAST_EXPECTED = 1
    ALL_REQUESTS = 2
    ALL_SQUARES = 3
    REQUESTS = 4
    EVENTS = 5
    REQUESTS_SQUARED = 6
    PRODUCTS = 7
    EVENTS_SQUARED = 8
    WINDOWS = 9
    EPOCH_REQUESTS = 10
    EPOCH_EVENTS = 11


def add(cells: Array, requests: Array, events: Array) -> Array:
    """Return the cells with one more window in them."""
    n, x, c = np.asarray(requests, np.float64), np.asarray(events, np.float64), Column
    out = cells.copy()
    for column, value in (
        (c.ALL_REQUESTS, n), (c.ALL_SQUARES, n * n), (c.REQUESTS, n), (c.EVENTS, x), (c.REQUESTS_SQUARED, n * n),
        (c.PRODUCTS, n * x), (c.EVENTS_SQUARED, x * x), (c.WINDOWS, n > 0), (c.EPOCH_REQUESTS, n), (c.EPOCH_EVENTS, x),
    ):  # fmt: skip
        out[..., column] += value
    return out


def next_step(canary: Array, stable: Array) -> tuple[Array, Array]:
    """Fold this step into the past: weights and the hour change with a step, so its events are measured by its rate."""
    rate = _pooled(canary, stable, Column.EVENTS, Column.REQUESTS)[..., None]
    folded = []
    for cells in (canary, stable):
        out = np.zeros_like(cells)
        out[..., Column.PAST_EVENTS] = cells[..., Column.PAST_EVENTS] + cells[..., Column.EVENTS]
        out[..., Column.PAST_EXPECTED] = cells[..., Column.PAST_EXPECTED] + rate * cells[..., Column.REQUESTS]
        out[..., Column.ALL_REQUESTS] = cells[..., Column.ALL_REQUESTS]
        out[..., Column.ALL_SQUARES] = cells[..., Column.ALL_SQUARES]
        folded.append(out)
    return folded[0], folded[1]


def next_epoch(cells: Array) -> Array:
    """Begin an epoch."""
    out = cells.copy()
    out[..., Column.EPOCH_REQUESTS] = out[..., Column.EPOCH_EVENTS] = 0
    return out


@dataclass(frozen=True, slots=True)
class Noise:
    """How alike the requests of one pod's window are, as a fraction whose two parts add up over pods and steps."""

    excess: Number
    weight: Number

    def __add__(self, other: Noise) -> Noise:
        """Join the steps before with this one."""
        return Noise(self.excess + other.excess, self.weight + other.weight)

    @property
    def correlation(self) -> Array:
        """Return the intraclass correlation, 0 where windows differ by chance only."""
        return np.clip(self.excess / np.maximum(self.weight, 1e-9), 0.0, 1.0)


def noise(canary: Array, stable: Array) -> Noise:
    """Measure, by moments, how much the windows of this step differ within each pod."""
    excess, weight = [], []
    for cells in (canary, stable):
        n, x, windows = cells[..., Column.REQUESTS], cells[..., Column.EVENTS], cells[..., Column.WINDOWS]
        rate = x / np.maximum(n, 1.0)
        squares = (
            cells[..., Column.EVENTS_SQUARED]
            - 2 * rate * cells[..., Column.PRODUCTS]
            + rate**2 * cells[..., Column.REQUESTS_SQUARED]
        )
        beyond = squares * windows / np.maximum(windows - 1, 1.0) - x
        excess.append(np.where(windows > 1, beyond, 0.0).sum(axis=-1))
        weight.append(np.where(windows > 1, rate * cells[..., Column.REQUESTS_SQUARED], 0.0).sum(axis=-1))
    return Noise(excess[0] + excess[1], weight[0] + weight[1])


def design_effect(cells: Array, correlation: Array) -> Array:
    """Return what each pod's counts are divided by; the size of a window is what an average request finds itself in."""
    size = cells[..., Column.ALL_SQUARES] / np.maximum(cells[..., Column.ALL_REQUESTS], 1.0)
    out: Array = 1 + correlation[..., None] * np.maximum(size - 1, 0.0)
    return out


@dataclass(frozen=True, slots=True)
class Comparison:
    """How the canary compares with stable on one event.

    evidence: log of the ratio of marginal likelihoods. spread: the pods' coefficient of variation, as the pods seen
    have it. ratio: canary's rate over stable's, in the same steps.
    """

    evidence: Array
    spread: Array
    ratio: Array


def compare(
    canary: Array, stable: Array, correlation: Array, weights: Array, *, margin: float, epoch: bool = False
) -> Comparison:
    """Weigh "worse than `margin` times stable" against "not", over the rollout, or since the epoch began.

    weights: the prior over SPREADS. Pods without an expected event take no part.
    """
    events, expected = _events(canary, stable, epoch=epoch)
    mine, theirs = (x.sum(axis=-1) / np.maximum(e.sum(axis=-1), 1e-9) for x, e in zip(events, expected, strict=True))
    by = [design_effect(cells, correlation) for cells in (canary, stable)]
    null, worse = _marginals(events[0] / by[0], expected[0] / by[0], events[1] / by[1], expected[1] / by[1], margin)
    null, worse = null + np.log(weights), worse + np.log(weights)
    belief = np.exp(worse - _log_sum(worse)[..., None])
    return Comparison(
        _log_sum(worse) - _log_sum(null),
        (belief * np.array(SPREADS)).sum(axis=-1),
        mine / np.maximum(theirs, 1e-9),
    )


def among_equals(canary: Array, stable: Array, correlation: Array, *, epoch: bool = False) -> Array:
    """Return the largest log-likelihood ratio that the versions' rates could have, if all pods of a version were alike.

    Where it is small no further weighing will find a difference; where it is large and `compare` finds none, the
    versions cannot be told apart because pods differ.
    """
    events, expected = _events(canary, stable, epoch=epoch)
    by = [design_effect(cells, correlation) for cells in (canary, stable)]
    ratio = np.zeros(correlation.shape)
    for x, e, effect in zip(events, expected, by, strict=True):
        hits, chances = (x / effect).sum(axis=-1), (e / effect).sum(axis=-1)
        ratio += hits * np.log(np.maximum(hits, 1e-300) / np.maximum(chances, 1e-300)) - hits + chances
    return ratio


def excess(canary: Array, stable: Array, *, margin: float, epoch: bool = False) -> Array:
    """Return the share of the canary's pods with more than `margin` times stable's rate, of those with requests."""
    events, expected = _events(canary, stable, epoch=epoch)
    theirs = events[1].sum(axis=-1) / np.maximum(expected[1].sum(axis=-1), 1e-9)
    seen = expected[0] > 0
    above = (events[0] > margin * theirs[..., None] * expected[0]) & seen
    out: Array = above.sum(axis=-1) / np.maximum(seen.sum(axis=-1), 1)
    return out


def exceeds(canary: Array, correlation: Array, limit: Array | float, *, epoch: bool = False) -> Array:
    """Return the log-evidence that the canary's own rate is above `limit`, over the rollout or since the epoch began.

    Pods are added up: what callers get from the pods that there are is what an objective is about.
    """
    by = design_effect(canary, correlation)
    x = canary[..., Column.EPOCH_EVENTS if epoch else Column.EVENTS]
    n = canary[..., Column.EPOCH_REQUESTS if epoch else Column.REQUESTS]
    if not epoch:
        x, n = x + canary[..., Column.PAST_EVENTS], canary[..., Column.ALL_REQUESTS]
    hits, misses = (x / by).sum(axis=-1)[..., None], ((n - x) / by).sum(axis=-1)[..., None]
    bets, odds = np.array(_EXCESS), np.asarray(1 / np.asarray(limit) - 1)[..., None]
    grown = hits * np.log1p(bets * odds) + misses * np.log1p(-bets)
    return _log_sum(grown) - math.log(len(_EXCESS))


def prior(pods_differ: float) -> Array:
    """Return the weights of SPREADS under a half-Cauchy prior whose median is `pods_differ`."""
    at = np.array(SPREADS)
    weights = at / (1 + (at / pods_differ) ** 2)  # each spread stands for a range that grows with it
    total: Array = weights / weights.sum()
    return total


@dataclass(frozen=True, slots=True)
class Clusters:
    """All that is kept of one event: the cells of both versions' pods, and what is common to them.

    before: the noise of earlier steps. windows: how many there were in the rollout. A fault that begins late is diluted
    by a long good past, so the same questions are asked again of an epoch of EPOCH_WINDOWS at most; `epoch` is its
    number from 1, and `epoch_windows` how many it has.
    """

    canary: Cells
    stable: Cells
    before: Noise
    windows: int = 0
    epoch: int = 1
    epoch_windows: int = 0

    @classmethod
    def none(cls, canary: tuple[int, ...], stable: tuple[int, ...]) -> Clusters:
        """Return empty cells for that many pods (the last number) in that many worlds (those before it)."""
        zero = np.zeros(canary[:-1])
        return cls(np.zeros((*canary, len(Column))), np.zeros((*stable, len(Column))), Noise(zero, zero))

    def window(self, requests: tuple[Array, Array], events: tuple[Array, Array]) -> Clusters:
        """Return them with one more window: requests and events per pod, the canary's first."""
        began = self.epoch_windows >= EPOCH_WINDOWS
        canary, stable = (next_epoch(cells) if began else cells for cells in (self.canary, self.stable))
        return Clusters(
            add(canary, requests[0], events[0]),
            add(stable, requests[1], events[1]),
            self.before,
            self.windows + 1,
            self.epoch + began,
            1 if began else self.epoch_windows + 1,
        )

    def next_step(self) -> Clusters:
        """Begin a step, and with it an epoch."""
        canary, stable = next_step(self.canary, self.stable)
        before = self.before + noise(self.canary, self.stable)
        return Clusters(canary, stable, before, self.windows, self.epoch + (self.epoch_windows > 0))

    @property
    def correlation(self) -> Array:
        """How alike the requests of one pod's window are, over the rollout."""
        return (self.before + noise(self.canary, self.stable)).correlation

    def among_equals(self) -> Array:
        """Return the evidence of a difference that there would be if all pods of a version were alike."""
        return among_equals(self.canary, self.stable, self.correlation)

    def compared(self, weights: Array, *, margin: float) -> Comparison:
        """Compare the versions over the rollout."""
        return compare(self.canary, self.stable, self.correlation, weights, margin=margin)

    def worse(self, weights: Array, *, margin: float, floor: float, gross: float, wanted: float) -> NDArray[np.bool_]:
        """Say where the canary is worse than `margin` times stable: `wanted` log-evidence, and on most of its pods.

        Half of the error is spent on the rollout as a whole, the other half over its epochs, 1/(k(k+1)) on the k-th.
        One window is never enough, whatever it holds. The evidence is weighed where the rest holds only: it takes time.
        gross: a share of requests by which pods of one version never differ; beyond it the pods' prior has no say.
        """
        correlation = self.correlation
        found = np.zeros(correlation.shape, bool)
        looks = [(False, self.windows, math.log(2)), (True, self.epoch_windows, self._price)]
        for epoch, windows, price in looks:
            if windows < MIN_WINDOWS:
                continue
            over = excess(self.canary, self.stable, margin=margin, epoch=epoch) > MOST
            asked = over & (_rate(self.canary) >= floor) & ~found
            asked &= among_equals(self.canary, self.stable, correlation, epoch=epoch) >= wanted
            if asked.any():
                canary, stable = self.canary[asked], self.stable[asked]
                evidence = compare(canary, stable, correlation[asked], weights, margin=margin, epoch=epoch).evidence
                beyond = exceeds(canary, correlation[asked], np.minimum(_rate(stable) + gross, 0.99), epoch=epoch)
                found[asked] = np.maximum(evidence, beyond) >= wanted + price
        return found

    def above(self, limit: float, *, wanted: float) -> NDArray[np.bool_]:
        """Say where the canary's rate is above `limit`: the same prices, and two windows at least."""
        correlation = self.correlation
        found = np.zeros(correlation.shape, bool)
        if self.windows >= MIN_WINDOWS:
            found |= exceeds(self.canary, correlation, limit) >= wanted + math.log(2)
        if self.epoch_windows >= MIN_WINDOWS:
            found |= exceeds(self.canary, correlation, limit, epoch=True) >= wanted + self._price
        return found

    @property
    def _price(self) -> float:
        return math.log(2 * self.epoch * (self.epoch + 1))


def _events(canary: Array, stable: Array, *, epoch: bool) -> tuple[list[Array], list[Array]]:
    """Return each pod's events, and how many it would have at the rate that all pods have together."""
    if epoch:
        rate = _pooled(canary, stable, Column.EPOCH_EVENTS, Column.EPOCH_REQUESTS)[..., None]
        return (
            [cells[..., Column.EPOCH_EVENTS] for cells in (canary, stable)],
            [cells[..., Column.EPOCH_REQUESTS] * rate for cells in (canary, stable)],
        )
    rate = _pooled(canary, stable, Column.EVENTS, Column.REQUESTS)[..., None]
    return (
        [cells[..., Column.PAST_EVENTS] + cells[..., Column.EVENTS] for cells in (canary, stable)],
        [cells[..., Column.PAST_EXPECTED] + cells[..., Column.REQUESTS] * rate for cells in (canary, stable)],
    )


def _marginals(x: Array, e: Array, stable_x: Array, stable_e: Array, margin: float) -> tuple[Array, Array]:
    """Return the marginal log-likelihoods of both hypotheses, for each of SPREADS on the last axis."""
    start = round(math.log(margin) / _STEP)
    wide = np.concatenate([_LOG_RATES, _LOG_RATES[-1] + _STEP * np.arange(1, max(_RATIOS) + 1)]).astype(np.float64)
    count = len(_LOG_RATES)
    null, worse = [], []
    for spread in SPREADS:
        mine = _arm(x, e, spread, wide)
        theirs = _arm(stable_x, stable_e, spread, _LOG_RATES)
        null.append(_log_sum(theirs + mine[..., start : start + count]))
        each = np.stack([_log_sum(theirs + mine[..., at : at + count]) for at in _RATIOS], axis=-1)
        worse.append(_log_sum(each) - math.log(len(_RATIOS)))
    return np.stack(null, axis=-1), np.stack(worse, axis=-1)


def _arm(x: Array, e: Array, spread: float, log_rates: Array) -> Array:
    """Return the log-likelihood of a version's pods at each rate: negative binomial, less factors of `x` and `e`."""
    shape = 1 / spread**2
    rates = np.exp(log_rates)
    falling = ((x + shape)[..., None] * np.log1p(rates * (e / shape)[..., None])).sum(axis=-2)
    gammas = (_log_gamma(x + shape) - math.lgamma(shape)).sum(axis=-1)
    total = x.sum(axis=-1)
    out: Array = total[..., None] * log_rates - falling + (gammas - total * math.log(shape))[..., None]
    return out


def _log_gamma(values: Array) -> Array:
    """Return ln(gamma) of positive numbers by Stirling's series from 8 on; its error is below 1e-9 there."""
    small = np.minimum(values, 8.0)
    steps = np.log(small[..., None] + np.arange(8)).sum(axis=-1)
    z = np.where(values < 8.0, values + 8, values)
    series = (
        (z - 0.5) * np.log(z) - z + 0.5 * math.log(2 * math.pi) + 1 / (12 * z) - 1 / (360 * z**3) + 1 / (1260 * z**5)
    )
    out: Array = series - np.where(values < 8.0, steps, 0.0)
    return out


def _pooled(canary: Array, stable: Array, events: Column, requests: Column) -> Array:
    total = canary[..., requests].sum(axis=-1) + stable[..., requests].sum(axis=-1)
    out: Array = (canary[..., events].sum(axis=-1) + stable[..., events].sum(axis=-1)) / np.maximum(total, 1.0)
    return out


def _rate(cells: Array) -> Array:
    events = (cells[..., Column.PAST_EVENTS] + cells[..., Column.EVENTS]).sum(axis=-1)
    out: Array = events / np.maximum(cells[..., Column.ALL_REQUESTS].sum(axis=-1), 1.0)
    return out


def _log_sum(logs: Array) -> Array:
    """Add up exponentials along the last axis."""
    top = logs.max(axis=-1)
    out: Array = top + np.log(np.exp(logs - top[..., None]).sum(axis=-1))
    return out
