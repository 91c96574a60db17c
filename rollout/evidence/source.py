"""The port behind which the counts come from, and the ledger: running totals made from counters that restart.

A source may be Prometheus, or the predictors themselves.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from rollout.analysis.counts import ZERO, Arm, Counts
from rollout.evidence.histogram import Key, Series, Values


@dataclass(frozen=True, slots=True)
class Reading:
    """What one look at a source gave: each predictor's cumulative counts since the source's first reading.

    at_s: the time of the newest counts, on a clock of the source's own. scrapes: by predictor and process, how many
    scrapes with new values have been seen. settle: how many more of them it takes until the counts begin after this
    reading (0 where a reading is itself a scrape).
    """

    arms: Mapping[str, Arm] = field(default_factory=dict)
    at_s: float = 0.0
    scrapes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    settle: int = 0

    def over(self, earlier: Reading | None) -> Reading:
        """Return this reading with what an earlier one has of predictors, pods or a mesh that are absent from this one.

        So what reappears is not counted from the source's first reading again.
        """
        if earlier is None:
            return self
        arms = dict(earlier.arms)
        for name, arm in self.arms.items():
            before = earlier.arms.get(name, Arm())
            arms[name] = Arm({**before.pods, **arm.pods}, before.mesh if arm.mesh is None else arm.mesh)
        return replace(self, arms=arms)

    def settled_since(self, earlier: Reading) -> bool:
        """Whether most processes of each predictor have been scraped `settle` times since an earlier reading."""
        for predictor, processes in self.scrapes.items():
            before = earlier.scrapes.get(predictor, {})
            new = [count >= before[name] + self.settle for name, count in processes.items() if name in before]
            if new and sum(new) * 2 <= len(new):
                return False
        return True


class Source(Protocol):
    """Where the evidence of a rollout comes from."""

    def sample(self, predictors: Sequence[str]) -> Reading:
        """Return each predictor's counts, pod by pod.

        A window is the difference of two readings of the *same* source; after a restart of the caller the counts begin
        at zero again. A predictor without any series is absent: no data, which is not the same as zero. Raises
        EvidenceUnavailable (outage, timeout, 429: try again) or EvidenceMalformed (the answer cannot be trusted); a
        sample that raised has changed nothing.
        """

    def close(self) -> None:
        """Release the connections; closing twice is fine."""


@dataclass(slots=True)
class _Process:
    """One process: its counters as last read, what it has counted in the rollout, and the last restart entered."""

    known: dict[Key, Values]
    at_s: float
    total: Counts = ZERO
    restarted_s: tuple[float, float] = (-1.0, -1.0)
    restarts: int = 0
    scrapes: int = 0


class Ledger:
    """Adds up what the counters of each process gained between two readings.

    A predictor's first reading is its origin: what was counted before is not the rollout's. A process that appears
    later counts from zero, unless its own series show that it was there before and only this reader had not seen it.
    A process that disappears keeps what it has contributed.

    Two Prometheus servers behind one address scrape at different times, and each reading may come from either. So a
    counter that is smaller than before proves nothing: a restart is a fall *within* one answer, since all points of a
    series in one answer come from one server, and a fall that both servers show is one restart. A reading that is not
    newer than the last one is ignored. Where an answer does not reach back to the last reading (a direct scrape
    has one point), a smaller value is a restart; then one that overtakes its old value stays unseen.
    """

    def __init__(self) -> None:
        self._processes: dict[tuple[str, str], _Process] = {}
        self._last_s: dict[str, float] = {}
        self._present: set[tuple[str, str]] = set()

    def take(self, predictors: Sequence[str], series: Iterable[Series]) -> Mapping[str, Mapping[str, Counts]]:
        """Enter one reading; return the totals by process of those predictors that have series in it."""
        found: dict[tuple[str, str], list[Series]] = defaultdict(list)
        for one in series:
            if one.key.predictor in predictors:
                found[one.key.predictor, one.key.process].append(one)
        for (predictor, name), counters in found.items():
            self._enter(predictor, name, counters)
        for predictor in predictors:
            mine = [one.at_s for (whose, _), all_ in found.items() if whose == predictor for one in all_]
            newest_s = max(mine, default=0.0)
            self._last_s[predictor] = max(newest_s, self._last_s.get(predictor, 0.0))
        self._present = set(found)
        present = {predictor for predictor, _ in found}
        return {
            predictor: {
                name: _with_restarts(process)
                for (whose, name), process in self._processes.items()
                if whose == predictor
            }
            for predictor in predictors
            if predictor in present
        }

    @property
    def at_s(self) -> float:
        """The time of the newest counts, 0 before any."""
        return max(self._last_s.values(), default=0.0)

    def scrapes(self) -> dict[str, dict[str, int]]:
        """Return by predictor and process how many scrapes had new values, for the processes of the last reading."""
        counted: dict[str, dict[str, int]] = {}
        for predictor, name in self._present:
            counted.setdefault(predictor, {})[name] = self._processes[predictor, name].scrapes
        return counted

    def _enter(self, predictor: str, name: str, counters: Sequence[Series]) -> None:
        at_s = max(one.at_s for one in counters)
        process = self._processes.get((predictor, name))
        if process is None:
            process = self._processes[predictor, name] = self._begun(predictor, counters, at_s)
        elif at_s > process.at_s:
            _advance(process, counters)
            process.at_s, process.scrapes = at_s, process.scrapes + 1

    def _begun(self, predictor: str, counters: Sequence[Series], at_s: float) -> _Process:
        """Begin with a process: at its present values in the first reading, later at those of the last reading."""
        falls = _falls(counters)
        entered = falls[-1] if falls else (-1.0, -1.0)
        if predictor not in self._last_s:
            return _Process({one.key: one.last for one in counters}, at_s, restarted_s=entered)
        # One scrape from before is no proof: it may have been under way while the last reading was made.
        old = any(sum(scraped_s <= self._last_s[predictor] for scraped_s, _ in one.points) > 1 for one in counters)
        before = {one.key: _at(one, self._last_s[predictor]) if old else None for one in counters}
        process = _Process({key: value for key, value in before.items() if value is not None}, self._last_s[predictor])
        _advance(process, counters)
        process.at_s = at_s
        return process


def _advance(process: _Process, counters: Sequence[Series]) -> None:
    for fall in _falls(counters):
        entered = process.restarted_s
        if fall[1] > process.at_s and not (fall[0] < entered[1] and fall[1] > entered[0]):
            _restart(process, counters, fall)
    if all(one.points[0][0] > process.at_s for one in counters) and any(
        now < then for one in counters for now, then in zip(one.last, process.known.get(one.key, ()), strict=False)
    ):
        _restart(process, counters, (process.at_s, min(one.points[0][0] for one in counters)))
    for one in counters:
        known = process.known.get(one.key, (0,) * len(one.last))
        # The clocks of two servers differ a little: a smaller value without a restart is ignored.
        now = tuple(max(new, old) for new, old in zip(one.last, known, strict=True))
        process.total += one.counts(tuple(new - old for new, old in zip(now, known, strict=True)))
        process.known[one.key] = now


def _restart(process: _Process, counters: Sequence[Series], fall: tuple[float, float]) -> None:
    """Enter what was counted up to the last scrape before a restart, and begin at zero."""
    for one in counters:
        last = _at(one, fall[0])
        known = process.known.get(one.key, (0,) * len(one.last))
        if last is not None:
            gained = tuple(max(0, new - old) for new, old in zip(last, known, strict=True))
            process.total += one.counts(gained)
    process.known.clear()
    process.restarted_s = fall
    process.restarts += 1


def _falls(counters: Sequence[Series]) -> list[tuple[float, float]]:
    """Return the spans between two scrapes in which a counter fell, oldest first, each once."""
    falls = {
        (before_s, after_s)
        for one in counters
        for (before_s, before), (after_s, after) in zip(one.points, one.points[1:], strict=False)
        if any(new < old for new, old in zip(after, before, strict=True))
    }
    return sorted(falls)


def _at(series: Series, at_s: float) -> Values | None:
    """Return the values at a time: those of the last scrape until then."""
    until = [values for scraped_s, values in series.points if scraped_s <= at_s]
    return until[-1] if until else None


def _with_restarts(process: _Process) -> Counts:
    return process.total + Counts(restarts=process.restarts)


def joined(pods: Mapping[str, Mapping[str, Counts]], mesh: Mapping[str, Mapping[str, Counts]]) -> dict[str, Arm]:
    """Put the pods' own counts and the gateways' beside each other."""
    arms = {}
    for predictor in {*pods, *mesh}:
        gateways = mesh.get(predictor)
        seen = None if gateways is None else sum(gateways.values(), ZERO)
        arms[predictor] = Arm(pods.get(predictor, {}), seen)
    return arms
